"""The page as a whole: its tabs, what happens when it opens, when the language changes, and when it is left."""

from typing import Any, Final

import gradio as gr

from service.ui import drawing, fleet, fragments
from service.ui.boxes import QUIET, html_box, picture_box
from service.ui.client import Problem
from service.ui.controls import pasted
from service.ui.drawing import Panel
from service.ui.models import Models
from service.ui.texts import Texts, names
from service.ui.theme import theme
from service.ui.visitors import Visitor, Visitors
from service.ui.words import NAMES, Words, preferred, words

TABS: Final = ("txt2img", "img2img", "inpaint", "extras", "pnginfo", "models", "history", "fleet")


class Page:
    """Builds the Gradio application of ``visitors``; ``grafana`` is the address that the fleet tab links to."""

    def __init__(self, visitors: Visitors, grafana: str = "") -> None:
        self.visitors = visitors
        self.grafana = grafana
        self.t = Texts()

    def find(self, request: gr.Request) -> Visitor:
        """Who asks; with the credentials that their browser sent for the page."""
        return self.visitors.of(str(request.session_hash), request.headers.get("authorization"))

    def build(self) -> gr.Blocks:
        """The page."""
        t, say = self.t, words("en")
        with gr.Blocks(
            title="knative-diffusion", analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600)
        ) as blocks:
            with gr.Row(elem_classes="sd-header", equal_height=False):
                html_box(fragments.brand(), "sd-brand")
                self.checkpoint = t(
                    names,
                    t="checkpoint",
                    choices=[],
                    elem_id="sd-checkpoint",
                    scale=1,
                    min_width=220,
                )
                html_box("", "sd-status")
                self.switches = html_box(fragments.switches(say), "sd-switches")
            with gr.Tabs(elem_id="sd-tabs", selected="txt2img", overflow_behavior="wrap") as tabs:
                panels = []
                for name in ("txt2img", "img2img", "inpaint", "extras"):
                    with t(gr.Tab, t=f"tab.{name}", id=name, elem_id=f"tab-{name}"):
                        panels.append(getattr(drawing, name)(t))
                with t(gr.Tab, t="tab.pnginfo", id="pnginfo", elem_id="tab-pnginfo"):
                    self._png_info(panels)
                with t(gr.Tab, t="tab.models", id="models", elem_id="tab-models") as tab:
                    models = Models(t, self.find, tab, self.checkpoint)
                with t(gr.Tab, t="tab.history", id="history", elem_id="tab-history") as history:
                    self.history = html_box(fragments.gallery([], say), "history-gallery")
                    history.select(self._show_history, None, self.history, concurrency_limit=None, **QUIET)
                with t(gr.Tab, t="tab.fleet", id="fleet", elem_id="tab-fleet"):
                    self._fleet(tabs)
            for panel in panels:
                drawing.wire(panel, self.find)
            self._lists(blocks, panels, models)
            self._language(blocks, panels)
            blocks.unload(self._leave)
        blocks.queue(default_concurrency_limit=None)
        # Gradio keeps a table of its events and sums it up with pandas at the end of each. Nobody reads it here.
        blocks._queue.compute_analytics_summary = lambda records: {}
        blocks.theme = theme()
        assert isinstance(blocks, gr.Blocks)
        return blocks

    # --- PNG info --------------------------------------------------------------------------------

    def _png_info(self, panels: list[Panel]) -> None:
        t = self.t
        with gr.Row(elem_classes="sd-grid"):
            with gr.Column(elem_classes="sd-prompts"):
                picture_box("pnginfo")
            with gr.Column(elem_classes="sd-result"):
                text = t(
                    gr.Textbox, t="infotext", lines=6, max_lines=24, interactive=False, elem_id="pnginfo-text"
                )
                with gr.Row(elem_classes="sd-tight"):
                    for panel in panels[:3]:
                        send = t(gr.Button, t=f"send.to.{panel.tab}", elem_id=f"pnginfo-to-{panel.tab}")
                        send.click(
                            lambda text, panel=panel: pasted(panel.controls, text),
                            text,
                            panel.controls.inputs,
                            js=f"(text) => {{ window.sd.go('{panel.tab}'); return text }}",
                            concurrency_limit=None,
                            **QUIET,
                        )
                other = html_box("", "pnginfo-items")
        read = gr.Button(visible="hidden", elem_id="pnginfo-read")
        carrier = gr.Textbox(visible=False)
        read.click(
            self._read,
            carrier,
            [text, other],
            js="() => window.sd.file('pnginfo')",
            concurrency_limit=None,
            **QUIET,
        )

    async def _read(self, request: gr.Request, picture: str) -> tuple[str, str]:
        visitor = self.find(request)
        say = words(visitor.language)
        if not picture:
            return "", ""
        try:
            said = await visitor.api.post("/sdapi/v1/png-info", {"image": picture.partition(",")[2]}, 60.0)
        except Problem as problem:
            visitor.remember(problem)
            return "", fragments.problem(problem, say)
        items = {name: value for name, value in said["items"].items() if name != "parameters"}
        if not said["info"]:
            return "", f'<p class="sd-empty">{fragments.safe(say("pnginfo.none"))}</p>'
        table = fragments.table(
            say("pnginfo.other"), (say("pnginfo.key"), say("pnginfo.value")), items.items(), ""
        )
        return said["info"], table if items else ""

    # --- what there is to choose from ------------------------------------------------------------

    def _lists(self, blocks: gr.Blocks, panels: list[Panel], models: Models) -> None:
        """Fill the dropdowns when the page opens, when the service comes back, and when somebody asks."""
        again = gr.Button(visible="hidden", elem_id="sd-lists")
        by_name = {panel.tab: panel.controls for panel in panels}
        drawn = [by_name[name] for name in ("txt2img", "img2img", "inpaint")]
        outputs = [
            self.checkpoint,
            models.pick,
            models.vae,
            *(controls.lora for controls in drawn),
            *(controls.fields["styles"] for controls in drawn),
            by_name["txt2img"].fields["hr_upscaler"],
            by_name["extras"].fields["upscaler_1"],
            by_name["extras"].fields["upscaler_2"],
        ]

        async def fill(request: gr.Request) -> list[Any]:
            visitor = self.find(request)
            api = visitor.api
            try:
                checkpoints = await api.get("/sdapi/v1/sd-models")
                current = (await api.get("/sdapi/v1/options"))["sd_model_checkpoint"]
                vaes = await api.get("/sdapi/v1/sd-vae")
                loras = await api.get("/sdapi/v1/loras")
                styles = await api.get("/sdapi/v1/prompt-styles")
                upscalers = [one["name"] for one in await api.get("/sdapi/v1/upscalers")]
                modes = [one["name"] for one in await api.get("/sdapi/v1/latent-upscale-modes")]
            except Problem:
                return [gr.skip()] * len(outputs)
            titles = [one["title"] for one in checkpoints]
            chosen = visitor.options.get("sd_model_checkpoint", current)
            networks = [(one["alias"] or one["name"], one["name"]) for one in loras]
            return [
                gr.update(choices=titles, value=chosen),
                gr.update(choices=titles, value=chosen),
                gr.update(choices=["Automatic", *(one["model_name"] for one in vaes)]),
                *[gr.update(choices=networks)] * 3,
                *[gr.update(choices=[one["name"] for one in styles])] * 3,
                gr.update(choices=[*modes, *(name for name in upscalers if name != "None")]),
                gr.update(choices=upscalers),
                gr.update(choices=upscalers),
            ]

        blocks.load(fill, None, outputs, concurrency_limit=None, **QUIET)
        again.click(fill, None, outputs, concurrency_limit=None, **QUIET)
        models.refresh.click(models.look_again, None, models.told, concurrency_limit=None, **QUIET).then(
            fill, None, outputs, concurrency_limit=None, **QUIET
        ).then(models.show, None, models.tables, concurrency_limit=None, **QUIET)

    # --- language --------------------------------------------------------------------------------

    def _language(self, blocks: gr.Blocks, panels: list[Panel]) -> None:
        t = self.t
        switch = gr.Button(visible="hidden", elem_id="sd-language")
        wanted = gr.Textbox(visible=False)
        results = [panel.result for panel in panels]
        boxes = [box for result in results for box in (result.live, result.gallery)]
        outputs = [self.switches, self.history, *boxes, *t.components]

        def speak(request: gr.Request, language: str | None) -> list[Any]:
            visitor = self.find(request)
            code = language if language in NAMES else preferred(request.headers.get("accept-language", ""))
            before, visitor.language = visitor.language, code
            say = words(code)
            if before == code:
                return [gr.skip()] * len(outputs)
            return [
                fragments.switches(say),
                fragments.gallery(visitor.kept, say, small=True),
                *self._boxes(visitor, panels, say),
                *t.updates(say),
            ]

        blocks.load(
            speak,
            wanted,
            outputs,
            js="() => window.sd.language()",
            concurrency_limit=None,
            **QUIET,
        )
        switch.click(
            speak,
            wanted,
            outputs,
            js="() => window.sd.language()",
            concurrency_limit=None,
            **QUIET,
        )

    @staticmethod
    def _boxes(visitor: Visitor, panels: list[Panel], say: Words) -> list[Any]:
        """Live box and gallery of each tab in another language; a box that is alive changes at its next step."""
        made: list[Any] = []
        for panel in panels:
            pictures = [picture for picture in visitor.kept if picture.kind == panel.tab]
            last = [picture for picture in pictures if pictures and picture.run == pictures[0].run][::-1]
            made.append(gr.skip() if panel.tab in visitor.runs else fragments.idle(say))
            made.append(fragments.gallery(last, say))
        return made

    # --- history and fleet -----------------------------------------------------------------------

    def _show_history(self, request: gr.Request) -> str:
        visitor = self.find(request)
        return fragments.gallery(visitor.kept, words(visitor.language), small=True)

    def _fleet(self, tabs: Any) -> None:
        t = self.t
        with gr.Row(elem_classes="sd-tight"):
            now = t(gr.Button, t="fleet.refresh", elem_id="fleet-refresh", scale=0, min_width=120)
        board = html_box("", "fleet-board")
        clock = gr.Timer(5, active=False)

        async def show(request: gr.Request) -> str:
            visitor = self.find(request)
            say = words(visitor.language)
            link = (
                f'<p><a class="sd-link" href="{fragments.safe(self.grafana)}" rel="noreferrer" target="_blank">'
                f"{fragments.safe(say('fleet.grafana'))}</a></p>"
                if self.grafana
                else ""
            )
            own = fragments.table(
                say("fleet.own"),
                (say("fleet.time"), say("fleet.code"), say("fleet.meaning")),
                ((fragments.clock(when), code, detail) for when, code, detail in visitor.problems),
                say("fleet.no_errors"),
            )
            _, _, pod = await visitor.api.readiness()
            try:
                samples = fleet.read(await visitor.api.metrics())
            except Problem as problem:
                return fragments.problem(problem, say) + own
            return link + fleet.show(samples, say, pod) + own

        def watch(selected: gr.SelectData) -> Any:
            return gr.Timer(active=TABS[int(selected.index)] == "fleet")

        tabs.select(watch, None, clock, concurrency_limit=None, **QUIET).then(
            show, None, board, concurrency_limit=None, **QUIET
        )
        now.click(show, None, board, concurrency_limit=None, **QUIET)
        clock.tick(show, None, board, concurrency_limit=None, **QUIET)

    async def _leave(self, request: gr.Request) -> None:
        self.visitors.leave(str(request.session_hash))
