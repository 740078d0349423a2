"""HTML of the parts that change while one looks: the live box, the gallery, the status, the tables.

Every text from outside passes through :func:`safe`. Gradio runs what it is given through two template languages:
their signs are written as entities too.
"""

import html
import re
import time
from collections.abc import Iterable, Sequence
from typing import Final

from service.ui.client import Drawing, Drawn, News, Problem, Waiting
from service.ui.visitors import Picture
from service.ui.words import NAMES, Words

_SIGNS: Final = {"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;", "\\": "&#92;"}


def safe(text: object) -> str:
    """``text`` as it may stand between tags and in quoted attributes."""
    return re.sub(r"[{}$`\\]", lambda found: _SIGNS[found[0]], html.escape(str(text)))


def seconds(number: float) -> str:
    """A duration for people: "8 s", "2:05"."""
    whole = max(0, round(number))
    return f"{whole} s" if whole < 100 else f"{whole // 60}:{whole % 60:02d}"


# --- the live box -----------------------------------------------------------------------------------


def idle(say: Words) -> str:
    """Before the first picture."""
    return f'<div class="sd-live sd-idle"><p class="sd-what">{safe(say("live.idle"))}</p></div>'


def live(news: News, say: Words) -> str:
    """What happens now, for eyes (bar, preview) and ears (a polite sentence that changes with each stage)."""
    if isinstance(news, Waiting):
        return _live(_waiting(news, say), None, "", None)
    assert isinstance(news, Drawing)
    percent = round(news.fraction * 100)
    details = []
    if news.steps:
        details.append(say("live.step", step=news.step, steps=news.steps))
    if news.eta is not None and news.fraction < 1:
        details.append(say("live.left", time=seconds(news.eta)))
    what = say("live.finishing") if news.stage in ("decode", "encoding") else say("live.drawing")
    return _live(what, percent, " · ".join(details), news.preview, say("live.preview"))


def _waiting(news: Waiting, say: Words) -> str:
    match news.why:
        case "queue":
            return say("live.queue", position=news.position, time=seconds(news.seconds))
        case "cold":
            return say("live.cold", time=seconds(news.seconds))
        case "loading":
            return say("live.loading", time=seconds(news.seconds))
        case _:
            return say("live.sent")


def _live(what: str, percent: int | None, details: str, preview: str | None, alt: str = "") -> str:
    value = f'aria-valuenow="{percent}"' if percent is not None else ""
    style = f'style="width:{percent}%"' if percent is not None else ""
    kind = "sd-bar" if percent is not None else "sd-bar sd-bar-open"
    number = f"{percent} %" if percent is not None else ""
    # Only our own service's previews: anything else in this place is not shown.
    known = preview is not None and re.fullmatch(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", preview)
    picture = f'<img class="sd-preview" src="{preview}" alt="{safe(alt)}">' if known else ""
    return (
        f'<div class="sd-live"><div class="sd-row"><p class="sd-what">{safe(what)}</p>'
        f'<p class="sd-number">{number}</p></div>'
        f'<div class="{kind}" role="progressbar" aria-label="{safe(what)}" aria-valuemin="0" aria-valuemax="100" '
        f"{value}>"
        f'<span {style}></span></div><p class="sd-details">{safe(details)}</p>{picture}</div>'
    )


def done(count: int, took: float, drawn: Drawn, say: Words, *, interrupted: bool) -> str:
    """The end of it: how many, how long, who drew."""
    what = say("live.interrupted") if interrupted else say("live.done", count=count)
    details = [say("live.took", time=f"{max(took, 0.1):.1f} s" if took < 10 else seconds(took))]
    if drawn.served_by:
        details.append(say("live.by", pod=drawn.served_by))
    if drawn.cold_start:
        details.append(say("live.was_cold"))
    return _ended(what, " · ".join(details))


def cancelled(say: Words) -> str:
    """It was given up before it began."""
    return _ended(say("live.cancelled"), "")


def _ended(what: str, details: str) -> str:
    return (
        f'<div class="sd-live sd-done"><p class="sd-what">{safe(what)}</p>'
        f'<p class="sd-details">{safe(details)}</p></div>'
    )


def problem(error: Problem, say: Words) -> str:
    """What went wrong and what to do, as sentences."""
    told = say.get(f"problem.{error.code}")
    first = told or say("problem.other")
    after = say("problem.again", time=seconds(error.retry_after)) if error.retry_after else ""
    detail = "" if error.code in ("unreachable", "not_authenticated") else error.detail
    return (
        f'<div class="sd-live sd-problem" role="alert"><p class="sd-what">{safe(first)} {safe(after)}</p>'
        f'<p class="sd-details">{safe(detail)}</p></div>'
    )


# --- pictures ---------------------------------------------------------------------------------------


def gallery(pictures: Sequence[Picture], say: Words, *, small: bool = False) -> str:
    """Pictures with their infotext, a download, and the tabs that can go on from them."""
    if not pictures:
        return f'<p class="sd-empty">{safe(say("gallery.empty"))}</p>'
    cards = "".join(_card(picture, say, number, len(pictures)) for number, picture in enumerate(pictures, 1))
    return f'<ul class="sd-gallery{" sd-small" if small else ""}">{cards}</ul>'


def _card(picture: Picture, say: Words, number: int, count: int) -> str:
    prompt = picture.infotext.partition("\n")[0][:300] or picture.kind
    address = safe(picture.address)
    sends = "".join(
        f'<button type="button" class="sd-chip" data-send="{tab}" data-address="{address}">'
        f"{safe(say('send.' + tab))}</button>"
        for tab in ("img2img", "inpaint", "extras", "pnginfo")
    )
    seed = (
        f'<span class="sd-seed">{safe(say("gallery.seed", seed=picture.seed))}</span>'
        if picture.seed is not None
        else ""
    )
    info = (
        f"<details><summary>{safe(say('gallery.infotext'))}</summary>"
        f'<p class="sd-infotext">{safe(picture.infotext)}</p>'
        f'<button type="button" class="sd-chip" data-copy>{safe(say("gallery.copy"))}</button></details>'
        if picture.infotext
        else ""
    )
    alt = safe(say("gallery.alt", number=number, count=count, prompt=prompt))
    return (
        f'<li class="sd-card"><button type="button" class="sd-open" data-open="{address}" aria-label="{alt}">'
        f'<img src="{address}" alt="" loading="lazy"></button>'
        f'<div class="sd-actions"><a class="sd-chip sd-save" href="{address}" download="{safe(picture.name)}">'
        f"{safe(say('gallery.download'))}</a>{sends}{seed}</div>{info}</li>"
    )


# --- around them ------------------------------------------------------------------------------------


def status(state: str, reason: str, pod: str, say: Words) -> str:
    """The state of the service in a pill; its reason for those who hover or listen."""
    told = say.get(f"status.{state}") or state
    return (
        f'<p class="sd-status sd-status-{safe(state)}" role="status" title="{safe(reason)}">'
        f'<span class="sd-dot" aria-hidden="true"></span>{safe(told)}'
        f'<span class="sd-pod">{safe(pod)}</span></p>'
    )


def brand() -> str:
    """The name."""
    return '<h1 class="sd-name"><span class="sd-mark" aria-hidden="true"></span>knative-diffusion</h1>'


def switches(say: Words) -> str:
    """Language and light."""
    choices = "".join(
        f'<option value="{code}" lang="{code}"{" selected" if code == say.language else ""}>{name}</option>'
        for code, name in NAMES.items()
    )
    language, light = safe(say("header.language")), safe(say("header.theme"))
    return (
        f'<div class="sd-switches"><select class="sd-chip" data-language aria-label="{language}">{choices}</select>'
        f'<button type="button" class="sd-chip" data-theme-switch aria-label="{light}" title="{light}">'
        '<span aria-hidden="true">◐</span></button></div>'
    )


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    empty: str,
    mark: int | None = None,
) -> str:
    """A table; ``mark`` is the row that is in use."""
    head = "".join(f'<th scope="col">{safe(column)}</th>' for column in columns)
    body = "".join(
        f"<tr{' class=sd-marked' if number == mark else ''}>"
        + "".join(f"<td>{safe(cell)}</td>" for cell in row)
        + "</tr>"
        for number, row in enumerate(rows)
    )
    if not body:
        return f'<section class="sd-table"><h2>{safe(caption)}</h2><p class="sd-empty">{safe(empty)}</p></section>'
    return (
        f'<section class="sd-table"><h2>{safe(caption)}</h2><div class="sd-scroll" tabindex="0" role="region" '
        f'aria-label="{safe(caption)}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>'
    )


def figures(pairs: Iterable[tuple[str, str]]) -> str:
    """Numbers in tiles."""
    tiles = "".join(f"<div><dt>{safe(name)}</dt><dd>{safe(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="sd-figures">{tiles}</dl>'


def clock(moment: float) -> str:
    """A time of day."""
    return time.strftime("%H:%M:%S", time.localtime(moment))
