"""X/Y/Z plot: the same picture under every combination of up to three lists of values, and a grid with a legend."""

import csv
import io
import itertools
import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from service.api.sdapi.scripts.arguments import Arguments
from service.api.sdapi.scripts.axes import SCRIPT, Axis, axes_for
from service.api.sdapi.scripts.series import Composed, Grid, ScriptPlan, raise_if_too_many
from service.api.sdapi.styles import StyleBook
from service.core.errors import BadRequest
from service.core.generation import GenerationRequest, GenerationResult
from service.core.jobs import Series
from service.core.pixels import Pixels
from service.imaging.grid import Caption, annotate, make_grid
from service.settings import Settings

NAME: Final = SCRIPT


def plan(
    request: GenerationRequest,
    arguments: Arguments,
    kind: str,
    settings: Settings,
    styles: StyleBook,
    *,
    any_seed: bool = False,
) -> ScriptPlan:
    """Arguments: type, values and (in newer clients) a list of values for each of x, y, z; then legend, lone images,
    sub-grids, no fixed seeds, (vary seeds x, y, z), margin in pixels, (csv mode).

    ``any_seed``: the client left the seed open, so that without fixed seeds each picture has one of its own.
    """
    per_axis = 2 if len(arguments) <= 12 else 3
    most, largest_grid = settings.max_images, settings.max_image_pixels
    axes = axes_for(kind, styles)
    chosen = [_axis(arguments, number * per_axis, per_axis, axes, most) for number in range(3)]
    # Multiplied before anything is built: three short ranges are a million pictures.
    raise_if_too_many(math.prod(len(values) for _, values in chosen), settings)
    rest = 3 * per_axis
    legend, lone, parts = (
        arguments.flag(rest + number, default) for number, default in enumerate((True, False, False))
    )
    fixed = not arguments.flag(rest + 3, False)
    has_vary = len(arguments) - rest >= 7
    vary = [has_vary and arguments.flag(rest + 4 + number, False) for number in range(3)]
    margin = int(arguments.number(rest + (7 if has_vary else 4), "margin", 0, 0, 500))
    chosen = [
        (axis, [_drawn(request, axis, number, value) for number, value in enumerate(values)])
        for axis, values in chosen
    ]
    (x, xs), (y, ys), (z, zs) = chosen
    said = [
        _said(name, axis, values, _written(arguments, number * per_axis, per_axis), fixed=fixed)
        for number, (name, (axis, values)) in enumerate(zip("XYZ", chosen, strict=True))
    ]
    entries = {"Script": "X/Y/Z plot", **said[0], **said[1]}
    requests: list[GenerationRequest] = []
    for iz, iy, ix in itertools.product(range(len(zs)), range(len(ys)), range(len(xs))):
        one = replace(request, batch_size=1, batch_count=1)
        for axis, values, index in ((x, xs, ix), (y, ys, iy), (z, zs, iz)):
            if axis.apply is not None:
                one = axis.apply(one, values[index], values)
        if not fixed and any_seed and "Seed" not in (x.label, y.label, z.label):
            # From the request's own seed: the same request is the same series again.
            one = replace(one, seed=random.Random(f"{request.seed}/{len(requests)}").randrange(2**32))
        strides = (1, len(xs), len(xs) * len(ys))
        offset = sum(i * stride for i, stride, on in zip((ix, iy, iz), strides, vary, strict=True) if on)
        requests.append(replace(one, seed=one.seed + offset))

    def compose(results: Sequence[GenerationResult]) -> Composed:
        images: list[Pixels] = [image for result in results for image in result.images]
        sheet = len(xs) * len(ys)
        if len(images) != len(requests) or len({image.shape for image in images}) > 1:
            return Composed((), tuple(results))
        sheets = []
        for iz in range(len(zs)):
            grid = make_grid(
                images[iz * sheet : (iz + 1) * sheet], len(ys), margin=margin, max_pixels=largest_grid
            )
            if legend:
                columns = [[Caption(_shown(x, value))] for value in xs]
                columns = (
                    [[*caption, Caption(_shown(z, zs[iz]))] for caption in columns] if z.apply else columns
                )
                rows = [[Caption(_shown(y, value))] for value in ys]
                grid = annotate(grid, columns, rows, margin=margin, max_pixels=largest_grid)
            sheets.append(grid)
        whole = (
            sheets[0] if len(sheets) == 1 else make_grid(sheets, 1, margin=margin, max_pixels=largest_grid)
        )
        grids = [Grid(whole, 0, {**entries, **said[2]})]
        if parts:
            grids += [Grid(one, number * sheet, entries) for number, one in enumerate(sheets)]
        return Composed(tuple(grids), tuple(results), lone=lone)

    return ScriptPlan(Series(tuple(requests)), compose=compose)


def _drawn(request: GenerationRequest, axis: Axis, number: int, value: Any) -> Any:
    """A seed in place of -1, from the request's own: the same request is the same series again."""
    if axis.label not in _SEEDS or value != -1:
        return value
    return random.Random(f"{request.seed}/{axis.label}/{number}").randrange(2**32)


def _said(name: str, axis: Axis, values: Sequence[Any], written: str, *, fixed: bool) -> dict[str, Any]:
    """What the grid's infotext tells of an axis."""
    if axis.apply is None:
        return {}
    told = {f"{name} Type": axis.label, f"{name} Values": written}
    if axis.label in _SEEDS and fixed:
        told[f"Fixed {name} Values"] = ", ".join(map(str, values))
    return told


def _written(arguments: Arguments, position: int, per_axis: int) -> str:
    """The values of an axis in one line, as the client wrote them."""
    listed = arguments.raw(position + 2) if per_axis == 3 else None
    if not (isinstance(listed, list) and listed):
        return arguments.text(position + 1)
    line = io.StringIO()
    csv.writer(line).writerow(listed)
    return line.getvalue().strip()


_SEEDS: Final = ("Seed", "Var. seed")


def _shown(axis: Axis, value: Any) -> str:
    if axis.apply is None:
        return ""
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return text if axis.label.startswith("Prompt") else f"{axis.label}: {text}"


def _axis(
    arguments: Arguments, position: int, per_axis: int, axes: Sequence[Axis], most: int
) -> tuple[Axis, list[Any]]:
    label = arguments.choice(position, "axis", [axis.label for axis in axes], "Nothing")
    axis = next(axis for axis in axes if axis.label == label)
    if label == "Nothing":
        return axis, [None]
    if axis.apply is None:
        raise BadRequest(f"{NAME}: the axis {label!r} is not offered here.")
    texts = _texts(arguments, position, per_axis)
    if not texts:
        raise BadRequest(f"{NAME}: the axis {label!r} has no values (script_args[{position + 1}]).")
    if label == "Prompt order":
        if len(texts) > 5:
            raise BadRequest(f"{NAME}: Prompt order takes at most 5 words ({len(texts)} given).")
        return axis, list(itertools.permutations(text.strip() for text in texts))
    parsed: list[Any] = []
    try:
        for text in texts:
            values = _expand(text, most) if axis.ranges else [text]
            if len(parsed) + len(values) > most:
                raise _too_long(label, most)
            parsed += [axis.parse(value) for value in values]
    except ValueError:
        raise BadRequest(
            f"{NAME}: the values of the axis {label!r} cannot be read: {', '.join(texts[:20])[:80]!r}."
        ) from None
    return axis, parsed


def _texts(arguments: Arguments, position: int, per_axis: int) -> list[str]:
    """The values of an axis as they were written: a list, or one line of comma-separated values."""
    listed = arguments.raw(position + 2) if per_axis == 3 else None
    if isinstance(listed, list) and listed:
        return [str(item) for item in listed]
    try:
        return next(csv.reader(io.StringIO(arguments.text(position + 1)), skipinitialspace=True), [])
    except csv.Error as error:
        raise BadRequest(f"{NAME}: script_args[{position + 1}] cannot be read as values ({error}).") from None


def _too_long(label: str, most: int) -> BadRequest:
    return BadRequest(
        f"{NAME}: the axis {label!r} has more than {most} values, and at most {most} images are made in one request "
        "(SD_MAX_IMAGES): give it fewer."
    )


_NUMBER: Final = r"\s*([+-]?\s*\d{1,20}(?:\.\d{0,20})?)\s*"
_RANGE: Final = re.compile(rf"{_NUMBER}-{_NUMBER}(?:\(([+-]\d{{1,20}}(?:\.\d{{0,20}})?)\s*\))?\s*")
_COUNT: Final = re.compile(rf"{_NUMBER}-{_NUMBER}\[(\d{{1,4}})\s*\]\s*")


def _expand(text: str, most: int) -> list[str]:
    """``1-5`` → 1…5, ``1-10 (+3)`` → 1, 4, 7, 10, ``0-1 [3]`` → 0, 0.5, 1; anything else is one value.

    Raises :class:`BadRequest` for more than ``most`` values, before they are made.
    """
    if counted := _COUNT.fullmatch(text):
        start, end, count = _plain(counted[1]), _plain(counted[2]), int(counted[3])
        if count > most:
            raise _endless(text, most)
        values = [start + (end - start) * index / max(1, count - 1) for index in range(max(1, count))]
    elif spaced := _RANGE.fullmatch(text):
        start, end = _plain(spaced[1]), _plain(spaced[2])
        step = float(spaced[3]) if spaced[3] else (1.0 if end >= start else -1.0)
        if step == 0 or (end - start) * step < 0 or (end - start) / step >= most:
            raise _endless(text, most)
        values = [start + index * step for index in range(int((end - start) / step + 1e-9) + 1)]
    else:
        return [text]
    return [f"{value:.10g}" for value in values]


def _plain(number: str) -> float:
    return float(number.replace(" ", ""))


def _endless(text: str, most: int) -> BadRequest:
    return BadRequest(
        f"{NAME}: the range {text[:40]!r} has no end or more than {most} values (SD_MAX_IMAGES): make it shorter."
    )
