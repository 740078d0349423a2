"""What tabs are put together from: boxes, the buttons of a run, and what all their events have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import gradio as gr

from service.ui import fragments
from service.ui.texts import Texts
from service.ui.visitors import Visitor
from service.ui.words import words

Find = Callable[[gr.Request], Visitor]
"""Who asks."""

QUIET: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private", "queue": True}
"""Gradio's own progress and API are not shown: the page has its own, and the service has one for programs."""


@dataclass(slots=True)
class Result:
    """Where a tab shows what it makes."""

    live: Any
    gallery: Any
    start: Any
    interrupt: Any
    skip: Any

    @property
    def outputs(self) -> list[Any]:
        """What a run changes."""
        return [self.live, self.gallery, self.interrupt, self.skip]


def html_box(content: str, elem_id: str, js: str | None = None) -> Any:
    """A place for HTML of our own, without Gradio's typography."""
    return gr.HTML(content, elem_id=elem_id, js_on_load=js, apply_default_css=False, elem_classes="sd-html")


def picture_box(tab: str, *, mask: bool = False) -> Any:
    """Where a picture is dropped, pasted or chosen, and a mask is drawn on it; page.js fills it with life."""
    flag = "true" if mask else "false"
    return html_box(
        f'<div class="sd-picture" data-picture="{tab}" data-mask="{flag}"></div>',
        f"{tab}-picture",
        "window.sd.picture(element)",
    )


def run_buttons(t: Texts, tab: str, *, skip: bool = True) -> tuple[Any, Any, Any]:
    """Those that start, interrupt and skip. ``skip``: there are batches that can be skipped."""
    with gr.Row(elem_classes="sd-tight sd-go"):
        start = t(
            gr.Button,
            t="enlarge" if tab == "extras" else "generate",
            variant="primary",
            elem_id=f"{tab}-generate",
            min_width=150,
            scale=3,
        )
        interrupt = t(
            gr.Button,
            t="interrupt",
            variant="stop",
            interactive=False,
            elem_id=f"{tab}-interrupt",
            min_width=90,
            scale=1,
        )
        skipping = t(
            gr.Button,
            t="skip",
            interactive=False,
            elem_id=f"{tab}-skip",
            min_width=80,
            scale=1,
            visible=skip,
        )
    return start, interrupt, skipping


def result_boxes(t: Texts, tab: str, buttons: tuple[Any, Any, Any]) -> Result:
    """Live box and gallery, both empty. ``buttons`` are those of :func:`run_buttons`."""
    say = words("en")
    with gr.Column(elem_classes="sd-result"):
        live = html_box(fragments.idle(say), f"{tab}-live")
        gallery = html_box(fragments.gallery([], say), f"{tab}-gallery")
    return Result(live, gallery, *buttons)


def carrier() -> Any:
    """What brings a picture from the browser, unseen."""
    return gr.Textbox(visible=False)
