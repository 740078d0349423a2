"""The contact sheet: every picture small, with what its row has of its own written below it."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

from service.batch import files
from service.batch.plan import Request
from service.batch.rows import canonical

SIDE: Final = 224
_SMALLEST: Final = 144
"""Pixels of a picture's place on the sheet: its longer side, within these bounds."""

PER_PAGE: Final = 100
_MOST_COLUMNS: Final = 12
_FONT: Final = 12
_LINE: Final = 15
_CAPTION_LINES: Final = 4
_GAP: Final = 8

Line = Mapping[str, Any]


def draw(folder: Path, requests: Sequence[Request], lines: Sequence[Line]) -> list[Path]:
    """Write ``sheet.webp`` (``sheet-1.webp`` … where one page is not enough) into ``folder``; the paths of the pages.

    ``lines`` are the manifest's. A row that failed has its place too, with the reason. Grids are left out.
    """
    shown = [line for line in lines if not line.get("grid")]
    if not shown:
        return []
    own = varying(requests)
    columns = columns_of(requests, own) if len(shown) == len(requests) else math.ceil(math.sqrt(len(shown)))
    columns = min(columns, _MOST_COLUMNS, len(shown))
    each = max(1, PER_PAGE // columns) * columns
    pages = [shown[start : start + each] for start in range(0, len(shown), each)]
    paths = []
    for number, page in enumerate(pages, 1):
        path = folder / ("sheet.webp" if len(pages) == 1 else f"sheet-{number}.webp")
        buffer = io.BytesIO()
        _page(folder, page, columns, own).save(buffer, "WEBP", quality=85)
        files.write(path, buffer.getvalue())
        paths.append(path)
    for stale in set(folder.glob("sheet*.webp")) - set(paths):
        stale.unlink(missing_ok=True)
    return paths


def varying(requests: Sequence[Request]) -> list[str]:
    """The fields that are not alike in all rows, in the order in which rows first name them."""
    values: dict[str, set[str]] = {}
    counts: dict[str, int] = {}
    for request in requests:
        for name, value in request.body.items():
            values.setdefault(name, set()).add(canonical(value))
            counts[name] = counts.get(name, 0) + 1
    return [
        name
        for name, different in values.items()
        if name != "subseed" and (len(different) > 1 or counts[name] < len(requests))
    ]


def columns_of(requests: Sequence[Request], own: Sequence[str]) -> int:
    """How many columns show a sweep as a table: as many as the fastest axis has values; else about a square."""
    square = math.ceil(math.sqrt(len(requests)))
    if len(requests) < 2:
        return 1
    first, second = requests[0].body, requests[1].body
    # Seeds that were drawn differ everywhere, and say nothing about axes.
    fields = [
        name for name in own if name != "seed" or len({r.body["seed"] for r in requests}) < len(requests)
    ]
    others = [name for name in fields if first.get(name) == second.get(name)]
    for index, request in enumerate(requests):
        if any(request.body.get(name) != first.get(name) for name in others):
            return index if 1 < index <= _MOST_COLUMNS else square
    return square


def _page(folder: Path, page: Sequence[Line], columns: int, own: Sequence[str]) -> Image.Image:
    font = ImageFont.load_default(_FONT)
    thumbnails = [_thumbnail(folder, line) for line in page]
    side = max([_SMALLEST, *(max(one.size) for one in thumbnails if one)])
    texts = [
        list(_wrapped(caption(line, own), font, side - 8, _CAPTION_LINES if one else side // _LINE))
        for line, one in zip(page, thumbnails, strict=True)
    ]
    below = max([1, *(len(text) for text, one in zip(texts, thumbnails, strict=True) if one)]) * _LINE
    cell = (side + _GAP, side + below + _GAP)
    sheet = Image.new(
        "RGB", (columns * cell[0] + _GAP, math.ceil(len(page) / columns) * cell[1] + _GAP), "#ffffff"
    )
    pen = ImageDraw.Draw(sheet)
    for index, (thumbnail, text) in enumerate(zip(thumbnails, texts, strict=True)):
        left, top = _GAP + index % columns * cell[0], _GAP + index // columns * cell[1]
        if thumbnail is not None:
            sheet.paste(
                thumbnail, (left + (side - thumbnail.width) // 2, top + (side - thumbnail.height) // 2)
            )
        else:
            pen.rectangle((left, top, left + side - 1, top + side - 1), fill="#eeeeee", outline="#bb4444")
        start = top + (side + 2 if thumbnail is not None else 4)
        for number, words in enumerate(text):
            pen.text((left + 4, start + number * _LINE), words, fill="#222222", font=font)
    return sheet


def _thumbnail(folder: Path, line: Line) -> Image.Image | None:
    if line["error"] is not None:
        return None
    with Image.open(folder / line["file"]) as picture:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        return picture.convert("RGB")


def caption(line: Line, own: Sequence[str]) -> str:
    """Number, what the row has of its own, and the seed; or why there is no picture."""
    request = line["request"]
    parts = [f"#{line['row']}"] + ([line["id"]] if line.get("id") else [])
    if line["error"] is not None:
        return " · ".join([*parts, line["error"]])
    for name in own:
        if name == "seed" or name not in request:
            continue
        value = request[name]
        if isinstance(value, Mapping):
            parts += [f"{key} {one}" for key, one in value.items()]
        elif name in ("prompt", "sampler_name", "scheduler"):
            parts.append(str(value))
        else:
            parts.append(f"{name} {canonical(value) if isinstance(value, list) else value}")
    return " · ".join([*parts, f"seed {line['seed']}"])


def _wrapped(text: str, font: Any, width: int, most: int) -> Iterator[str]:
    """``text`` in at most ``most`` lines of ``width`` pixels; the last ends in "…" where there is more."""
    line, lines = "", 0
    for word in text.split():
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= width or not line:
            line = longer
            continue
        lines += 1
        if lines == most:
            yield f"{line[:-1]}…"
            return
        yield line
        line = word
    yield line
