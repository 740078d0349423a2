"""The tabs that draw: txt2img, img2img, inpaint and extras. What a button sends, and what comes back while it runs."""

import base64
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import gradio as gr

from service.ui import controls as control
from service.ui import fragments
from service.ui.boxes import QUIET, Find, Result, carrier, picture_box, result_boxes, run_buttons
from service.ui.client import Drawing, Drawn, Kind, Problem, Waiting
from service.ui.controls import Controls
from service.ui.texts import Texts, names
from service.ui.visitors import Picture, Run, Visitor
from service.ui.words import words

_PACE: Final = 0.2
"""Seconds between two looks at a picture that is being drawn."""


@dataclass(slots=True)
class Panel:
    """One tab that draws. ``carriers`` bring pictures from the browser, as data: URIs."""

    tab: str
    kind: Kind
    controls: Controls
    result: Result
    carriers: list[Any] = field(default_factory=list)
    paste: Any = None
    """A hidden button that the browser presses to bring an infotext."""
    pasted: Any = None


def txt2img(t: Texts) -> Panel:
    """From words to pictures."""
    with gr.Row(elem_classes="sd-grid"):
        with gr.Column(elem_classes="sd-prompts"):
            controls = control.prompts(t, "txt2img")
            buttons = run_buttons(t, "txt2img")
        with gr.Column(elem_classes="sd-settings"):
            control.settings(t, controls, drawn_from=False)
            control.hires(t, controls)
        panel = Panel("txt2img", "txt2img", controls, result_boxes(t, "txt2img", buttons))
    _pasting(panel)
    return panel


def img2img(t: Texts) -> Panel:
    """From a picture to pictures."""
    with gr.Row(elem_classes="sd-grid"):
        with gr.Column(elem_classes="sd-prompts"):
            controls = control.prompts(t, "img2img")
            buttons = run_buttons(t, "img2img")
            picture_box("img2img")
        with gr.Column(elem_classes="sd-settings"):
            control.from_picture(t, controls)
            control.settings(t, controls, drawn_from=True)
        panel = Panel("img2img", "img2img", controls, result_boxes(t, "img2img", buttons), [carrier()])
    _pasting(panel)
    return panel


def inpaint(t: Texts) -> Panel:
    """Part of a picture anew."""
    with gr.Row(elem_classes="sd-grid"):
        with gr.Column(elem_classes="sd-prompts"):
            controls = control.prompts(t, "inpaint")
            buttons = run_buttons(t, "inpaint")
            picture_box("inpaint", mask=True)
        with gr.Column(elem_classes="sd-settings"):
            control.masked(t, controls)
            control.from_picture(t, controls)
            control.settings(t, controls, drawn_from=True)
        panel = Panel(
            "inpaint", "img2img", controls, result_boxes(t, "inpaint", buttons), [carrier(), carrier()]
        )
    _pasting(panel)
    return panel


def extras(t: Texts) -> Panel:
    """A picture larger."""
    controls = Controls("extras")
    with gr.Row(elem_classes="sd-grid"):
        with gr.Column(elem_classes="sd-prompts"):
            picture_box("extras")
            buttons = run_buttons(t, "extras", skip=False)
        with gr.Column(elem_classes="sd-settings"):
            controls.fields["upscaler_1"] = t(
                names,
                t="upscaler",
                choices=["None", "Lanczos", "Nearest"],
                value="Lanczos",
                elem_id="extras-upscaler",
            )
            controls.fields["upscaling_resize"] = t(
                gr.Slider, 1, 8, 2, t="factor", step=0.25, elem_id="extras-factor"
            )
            with t(gr.Accordion, t="second", open=False):
                controls.fields["upscaler_2"] = t(
                    names, t="upscaler2", choices=["None", "Lanczos", "Nearest"], value="None"
                )
                controls.fields["extras_upscaler_2_visibility"] = t(
                    gr.Slider, 0, 1, 0, t="visibility", step=0.05
                )
        return Panel("extras", "extras", controls, result_boxes(t, "extras", buttons), [carrier()])


def _pasting(panel: Panel) -> None:
    panel.paste = gr.Button(visible="hidden", elem_id=f"{panel.tab}-paste")
    panel.pasted = gr.Textbox(visible=False)


def wire(panel: Panel, find: Find) -> None:
    """What the panel's buttons do."""
    controls, result = panel.controls, panel.result
    run = _runner(panel, find)
    result.start.click(
        run,
        [*panel.carriers, *controls.inputs],
        result.outputs,
        js=f"(...values) => window.sd.fill('{panel.tab}', {len(panel.carriers)}, values)",
        concurrency_limit=None,
        trigger_mode="once",
        **QUIET,
    )

    async def interrupt(request: gr.Request) -> None:
        visitor = find(request)
        await _tell(visitor, visitor.interrupt, panel.tab)

    async def skip(request: gr.Request) -> None:
        visitor = find(request)
        await _tell(visitor, visitor.skip, panel.tab)

    result.interrupt.click(interrupt, None, None, concurrency_limit=None, **QUIET)
    result.skip.click(skip, None, None, concurrency_limit=None, **QUIET)
    if panel.paste is None:
        return
    panel.paste.click(
        lambda text: control.pasted(controls, text),
        panel.pasted,
        controls.inputs,
        js="() => window.sd.infotext",
        concurrency_limit=None,
        **QUIET,
    )
    fields = controls.fields
    size = [fields["width"], fields["height"]]
    _browser(
        controls.preset,
        "change",
        "(size) => size ? size.split(' × ').map(Number) : [undefined, undefined]",
        controls.preset,
        size,
    )
    _browser(controls.swap, "click", "(width, height) => [height, width]", size, size)
    _browser(controls.dice, "click", "() => -1", None, fields["seed"])
    if controls.fit is not None:
        _browser(controls.fit, "click", f"() => window.sd.size('{panel.tab}')", None, size)
    prompt = fields["prompt"]
    _browser(
        controls.lora,
        "input",
        "(prompt, name) => [name ? `${prompt}${prompt ? ' ' : ''}<lora:${name}:1>` : prompt, null]",
        [prompt, controls.lora],
        [prompt, controls.lora],
    )

    def reuse(request: gr.Request) -> Any:
        seed = find(request).seeds.get(panel.tab)
        return gr.skip() if seed is None else seed

    controls.reuse.click(reuse, None, fields["seed"], concurrency_limit=None, **QUIET)


def _browser(component: Any, event: str, js: str, inputs: Any, outputs: Any) -> None:
    """An event that the browser serves alone."""
    getattr(component, event)(None, inputs, outputs, js=js, api_visibility="private", show_progress="hidden")


async def _tell(visitor: Visitor, what: Callable[[str], Awaitable[None]], tab: str) -> None:
    try:
        await what(tab)
    except Problem as problem:
        visitor.remember(problem)
        gr.Warning(f"{words(visitor.language)('problem.other')} {fragments.safe(problem.detail)}")


def _runner(panel: Panel, find: Find) -> Callable[..., AsyncIterator[Any]]:
    carriers = len(panel.carriers)

    async def run(request: gr.Request, *values: Any) -> AsyncIterator[Any]:
        visitor = find(request)
        say = words(visitor.language)
        pictures, values = values[:carriers], values[carriers:]
        idle = gr.update(interactive=False)
        if carriers and not pictures[0]:
            missing = Problem(0, "no_picture", "")
            yield fragments.problem(missing, say), gr.skip(), idle, idle
            return
        if carriers > 1 and not pictures[1]:
            yield fragments.problem(Problem(0, "no_mask", ""), say), gr.skip(), idle, idle
            return
        body = _body(panel, visitor, pictures, values)
        began = time.monotonic()
        busy = gr.update(interactive=True)
        yield fragments.live(Waiting("sent", 0.0), say), gr.skip(), busy, busy
        drawn: Drawn | None = None
        shown, preview = 0.0, None
        under_way = visitor.runs[panel.tab] = Run()
        try:
            async for news in visitor.draw(under_way, panel.kind, body):
                if isinstance(news, Drawn):
                    drawn = news
                    continue
                if isinstance(news, Drawing):
                    # Not every step brings a preview, and no eye follows every step.
                    preview = news.preview or preview
                    if time.monotonic() - shown < _PACE:
                        continue
                    news = replace(news, preview=preview)
                shown = time.monotonic()
                yield fragments.live(news, say), gr.skip(), gr.skip(), gr.skip()
        except Problem as problem:
            visitor.remember(problem)
            yield fragments.problem(problem, say), gr.skip(), idle, idle
            return
        finally:
            if visitor.runs.get(panel.tab) is under_way:
                del visitor.runs[panel.tab]
        if drawn is None:
            yield fragments.cancelled(say), gr.skip(), idle, idle
            return
        made = _keep(panel, visitor, drawn)
        yield (
            fragments.done(
                len(made), time.monotonic() - began, drawn, say, interrupted=under_way.interrupted
            ),
            fragments.gallery(made, say) if made else gr.skip(),
            idle,
            idle,
        )

    return run


def _body(
    panel: Panel, visitor: Visitor, pictures: tuple[Any, ...], values: tuple[Any, ...]
) -> dict[str, Any]:
    body = panel.controls.body(values)
    files = [str(picture).partition(",")[2] for picture in pictures]
    if panel.kind == "extras":
        return {**body, "images": files}
    if panel.kind == "img2img":
        body["init_images"] = files[:1]
        if len(files) > 1:
            body["mask"] = files[1]
    if visitor.options:
        body["override_settings"] = visitor.options
    return body


def _keep(panel: Panel, visitor: Visitor, drawn: Drawn) -> list[Picture]:
    """The pictures, added to the visitor's history, in order."""
    if drawn.seeds:
        visitor.seeds[panel.tab] = drawn.seeds[0]
    run = secrets.token_hex(8)
    return [
        visitor.keep(
            base64.b64decode(text),
            drawn.media_type,
            drawn.infotexts[number] if number < len(drawn.infotexts) else "",
            drawn.seeds[number] if number < len(drawn.seeds) else None,
            panel.tab,
            run,
        )
        for number, text in enumerate(drawn.images)
    ]
