"""The models tab: what the service has to draw with, and what a visitor chooses of it for their own pictures."""

from typing import Any

import gradio as gr

from service.ui import fragments
from service.ui.boxes import QUIET, Find, html_box
from service.ui.client import Problem
from service.ui.texts import Texts, names
from service.ui.words import words


class Models:
    """Builds the tab, inside ``tab``. ``checkpoint`` is the list at the page's head.

    What is chosen there, or switched to here, shows in both.
    """

    def __init__(self, t: Texts, find: Find, tab: Any, checkpoint: Any) -> None:
        self._find = find
        with gr.Row(elem_classes="sd-tight sd-end"):
            self.pick = t(
                names,
                t="models.pick",
                choices=[],
                elem_id="models-pick",
                scale=3,
                min_width=220,
            )
            switch = t(
                gr.Button, t="models.switch", variant="primary", elem_id="models-switch", min_width=120
            )
            self.refresh = t(gr.Button, t="models.refresh", elem_id="models-refresh", min_width=120)
        with gr.Row(elem_classes="sd-tight"):
            self.vae = t(names, t="models.vae", choices=["Automatic"], value="Automatic", min_width=160)
            clip_skip = t(gr.Slider, 1, 12, 1, t="models.clip_skip", step=1, min_width=180)
            form = t(
                gr.Dropdown, t="models.format", choices=["png", "jpg", "webp"], value="png", min_width=120
            )
        self.told = html_box("", "models-told")
        self.tables = html_box("", "models-tables")
        tab.select(self.show, None, self.tables, concurrency_limit=None, **QUIET)
        switch.click(
            self._switch,
            self.pick,
            [self.told, checkpoint, self.tables],
            concurrency_limit=None,
            trigger_mode="once",
            **QUIET,
        )
        checkpoint.input(self._choose, checkpoint, self.pick, concurrency_limit=None, **QUIET)
        for component, option in (
            (self.vae, "sd_vae"),
            (clip_skip, "CLIP_stop_at_last_layers"),
            (form, "samples_format"),
        ):
            component.change(self._option(option), component, None, concurrency_limit=None, **QUIET)

    def _option(self, name: str) -> Any:
        def choose(request: gr.Request, value: Any) -> None:
            visitor = self._find(request)
            # What is nobody's names is left to the service.
            if value in (None, "", "Automatic") or (name == "CLIP_stop_at_last_layers" and value == 1):
                visitor.options.pop(name, None)
            else:
                visitor.options[name] = value

        return choose

    def _choose(self, request: gr.Request, title: str | None) -> Any:
        """The checkpoint of the next picture; it is loaded when that picture is made."""
        if title:
            self._find(request).options["sd_model_checkpoint"] = title
        return title

    async def _switch(self, request: gr.Request, title: str | None) -> Any:
        """Choose and load now. For this visitor alone."""
        visitor = self._find(request)
        say = words(visitor.language)
        if not title:
            yield gr.skip(), gr.skip(), gr.skip()
            return
        yield (
            f'<p class="sd-empty" role="status">{fragments.safe(say("models.loading"))}</p>',
            gr.skip(),
            gr.skip(),
        )
        try:
            await visitor.api.set_options({"sd_model_checkpoint": title})
        except Problem as problem:
            visitor.remember(problem)
            yield fragments.problem(problem, say), gr.skip(), gr.skip()
            return
        visitor.options["sd_model_checkpoint"] = title
        told = f'<p class="sd-empty" role="status">{fragments.safe(say("models.loaded", model=title))}</p>'
        yield told, title, await self.show(request)

    async def look_again(self, request: gr.Request) -> str:
        """Have the service read its folders anew. Returns what went wrong, as HTML, or nothing."""
        visitor = self._find(request)
        try:
            await visitor.api.post("/sdapi/v1/refresh-checkpoints", {}, 120.0)
        except Problem as problem:
            visitor.remember(problem)
            return fragments.problem(problem, words(visitor.language))
        return ""

    async def show(self, request: gr.Request) -> str:
        """What there is, as HTML."""
        visitor = self._find(request)
        say = words(visitor.language)
        try:
            got = {
                name: await visitor.api.get(f"/sdapi/v1/{name}")
                for name in ("sd-models", "sd-vae", "loras", "embeddings", "upscalers", "options")
            }
        except Problem as problem:
            return fragments.problem(problem, say)
        current = visitor.options.get("sd_model_checkpoint") or got["options"]["sd_model_checkpoint"]
        titles = [one["title"] for one in got["sd-models"]]
        none = say("models.none")
        return (
            fragments.table(
                say("models.checkpoints"),
                (say("models.name"), say("models.hash"), say("models.use")),
                (
                    (
                        one["title"],
                        one["hash"] or "",
                        say("models.current") if one["title"] == current else "",
                    )
                    for one in got["sd-models"]
                ),
                none,
                titles.index(current) if current in titles else None,
            )
            + fragments.table(
                say("models.loras"),
                (say("models.name"), say("models.alias")),
                ((one["name"], one["alias"]) for one in got["loras"]),
                none,
            )
            + fragments.table(
                say("models.embeddings"),
                (say("models.name"), say("models.vectors")),
                ((name, one["vectors"]) for name, one in got["embeddings"]["loaded"].items()),
                none,
            )
            + fragments.table(
                say("models.vaes"),
                (say("models.name"),),
                ((one["model_name"],) for one in got["sd-vae"]),
                none,
            )
            + fragments.table(
                say("models.upscalers"),
                (say("models.name"), say("models.scale")),
                ((one["name"], f"{one['scale']:g}" if one["scale"] else "") for one in got["upscalers"]),
                none,
            )
        )
