"""X/Y/Z plot: the same picture under every combination of up to three lists of values, and a grid with a legend."""

import csv
import io
import itertools
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from service.api.sdapi.scripts.arguments import Arguments
from service.api.sdapi.scripts.series import Composed, ScriptPlan, raise_if_too_many, with_prompts
from service.api.values import LARGEST_INT, SMALLEST_INT, finite
from service.catalogue import samplers
from service.core.errors import BadRequest
from service.core.generation import GenerationRequest, GenerationResult
from service.core.jobs import Series
from service.core.pixels import Pixels
from service.imaging.grid import Caption, annotate, make_grid
from service.settings import Settings

NAME: Final = "x/y/z plot"

Apply = Callable[[GenerationRequest, Any, Sequence[Any]], GenerationRequest]


@dataclass(frozen=True, slots=True)
class Axis:
    """What a list of values changes. ``parse`` reads one value; ``only`` is the route it is for, if not both."""

    label: str
    parse: Callable[[str], Any] = str
    apply: Apply | None = None
    only: str | None = None
    ranges: bool = False
    """Whether ``1-10 (+2)`` and ``1-10 [5]`` stand for several values."""


def _field(name: str) -> Apply:
    return lambda request, value, values: replace(request, **{name: value})


def _hires(name: str) -> Apply:
    def apply(request: GenerationRequest, value: Any, values: Sequence[Any]) -> GenerationRequest:
        if request.hires is None:
            raise BadRequest(f"{NAME}: a hires axis needs enable_hr.")
        return replace(request, hires=replace(request.hires, **{name: value}))

    return apply


def _init(name: str) -> Apply:
    def apply(request: GenerationRequest, value: Any, values: Sequence[Any]) -> GenerationRequest:
        return replace(request, init=replace(request.init, **{name: value})) if request.init else request

    return apply


def _denoising(request: GenerationRequest, value: Any, values: Sequence[Any]) -> GenerationRequest:
    return (_init if request.init else _hires)("denoising_strength")(request, value, values)


def _upscaler(request: GenerationRequest, value: Any, values: Sequence[Any]) -> GenerationRequest:
    request = _hires("upscaler")(request, value, values)
    return _hires("upscaler_told")(request, True, values)


def _sampler(request: GenerationRequest, value: Any, values: Sequence[Any]) -> GenerationRequest:
    sampler, scheduler = samplers.resolve(str(value), None, strict=True)
    given = scheduler.label if scheduler.name != "automatic" else request.scheduler
    return replace(request, sampler=sampler.name, scheduler=given)


def _scheduler(request: GenerationRequest, value: Any, values: Sequence[Any]) -> GenerationRequest:
    return replace(request, scheduler=samplers.resolve(request.sampler, str(value), strict=True)[1].label)


def _search_replace(request: GenerationRequest, value: Any, values: Sequence[Any]) -> GenerationRequest:
    needle = str(values[0])
    if needle not in request.prompt and needle not in request.negative_prompt:
        raise BadRequest(
            f"{NAME}: Prompt S/R did not find {needle[:60]!r} in the prompt or the negative prompt."
        )
    return with_prompts(
        request,
        request.prompt.replace(needle, str(value)),
        request.negative_prompt.replace(needle, str(value)),
    )


def _order(request: GenerationRequest, value: Any, values: Sequence[Any]) -> GenerationRequest:
    words: tuple[str, ...] = value
    places = sorted((request.prompt.find(word), word) for word in words)
    if places[0][0] < 0:
        raise BadRequest(f"{NAME}: Prompt order did not find {places[0][1][:60]!r} in the prompt.")
    text, position = "", 0
    for (place, old), new in zip(places, words, strict=True):
        text += request.prompt[position:place] + new
        position = place + len(old)
    return with_prompts(request, text + request.prompt[position:], request.negative_prompt)


def _size(request: GenerationRequest, value: Any, values: Sequence[Any]) -> GenerationRequest:
    matched = re.fullmatch(r"\s*(\d{1,5})\s*[x×]\s*(\d{1,5})\s*", str(value))
    if matched is None:
        raise BadRequest(f"{NAME}: Size is {str(value)[:40]!r}, but must be like 512x768.")
    return replace(request, width=int(matched[1]), height=int(matched[2]))


def _float(text: str) -> float:
    return finite(text.strip())


def _int(text: str) -> int:
    value = int(text) if len(text) < 40 else 0  # no more digits than 64 bits have
    if len(text) >= 40 or not SMALLEST_INT <= value <= LARGEST_INT:
        raise ValueError("more than 64 bits")
    return value


def _sampler_name(text: str) -> str:
    return samplers.resolve(text.strip(), None, strict=True)[0].name


AXES: Final = (
    Axis("Nothing"),
    Axis("Seed", _int, _field("seed"), ranges=True),
    Axis("Var. seed", _int, _field("subseed"), ranges=True),
    Axis("Var. strength", _float, _field("subseed_strength"), ranges=True),
    Axis("Steps", _int, _field("steps"), ranges=True),
    Axis("Hires steps", _int, _hires("steps"), "txt2img", ranges=True),
    Axis("CFG Scale", _float, _field("guidance_scale"), ranges=True),
    Axis("Image CFG Scale", only="img2img"),
    Axis("Prompt S/R", str, _search_replace),
    Axis("Prompt order", str, _order),
    Axis("Sampler", str.strip, _sampler, "txt2img"),
    Axis("Hires sampler", _sampler_name, _hires("sampler"), "txt2img"),
    Axis("Sampler", str.strip, _sampler, "img2img"),
    Axis("Checkpoint name", str.strip, _field("checkpoint")),
    Axis("Negative Guidance minimum sigma", _float, _field("s_min_uncond"), ranges=True),
    Axis("Sigma Churn", _float, _field("s_churn"), ranges=True),
    Axis("Sigma min", _float, _field("s_tmin"), ranges=True),
    Axis("Sigma max", _float, _field("s_tmax"), ranges=True),
    Axis("Sigma noise", _float, _field("s_noise"), ranges=True),
    Axis("Schedule type", str.strip, _scheduler),
    Axis("Schedule min sigma"),
    Axis("Schedule max sigma"),
    Axis("Schedule rho"),
    Axis("Beta schedule alpha"),
    Axis("Beta schedule beta"),
    Axis("Eta", _float, _field("eta"), ranges=True),
    Axis("Clip skip", _int, _field("clip_skip"), ranges=True),
    Axis("Denoising", _float, _denoising, ranges=True),
    Axis("Initial noise multiplier", _float, _init("noise_multiplier"), ranges=True),
    Axis("Extra noise"),
    Axis("Hires upscaler", str.strip, _upscaler, "txt2img"),
    Axis("Cond. Image Mask Weight", _float, _field("inpainting_mask_weight"), "img2img", ranges=True),
    Axis("VAE", str.strip, _field("vae")),
    Axis("Styles"),
    Axis("Size", str, _size),
)
"""In A1111's order, because clients send positions. Those without ``apply`` are not offered here."""


def axes_for(kind: str) -> list[Axis]:
    """The axes of a route by position."""
    return [axis for axis in AXES if axis.only in (None, kind)]


def plan(request: GenerationRequest, arguments: Arguments, kind: str, settings: Settings) -> ScriptPlan:
    """Arguments: type, values and (in newer clients) a list of values for each of x, y, z; then legend, lone images,
    sub-grids, no fixed seeds, (vary seeds x, y, z), margin in pixels, (csv mode)."""
    per_axis = 2 if len(arguments) <= 12 else 3
    most, largest_grid = settings.max_images, settings.max_image_pixels
    chosen = [_axis(arguments, number * per_axis, per_axis, kind, most) for number in range(3)]
    # Multiplied before anything is built: three short ranges are a million pictures.
    raise_if_too_many(math.prod(len(values) for _, values in chosen), settings)
    rest = 3 * per_axis
    legend, lone = arguments.flag(rest, True), arguments.flag(rest + 1, False)
    fixed = not arguments.flag(rest + 3, False)
    has_vary = len(arguments) - rest >= 7
    vary = [has_vary and arguments.flag(rest + 4 + number, False) for number in range(3)]
    margin = int(arguments.number(rest + (7 if has_vary else 4), "margin", 0, 0, 500))
    (x, xs), (y, ys), (z, zs) = chosen
    requests: list[GenerationRequest] = []
    for iz, iy, ix in itertools.product(range(len(zs)), range(len(ys)), range(len(xs))):
        one = replace(request, batch_size=1, batch_count=1)
        for axis, values, index in ((x, xs, ix), (y, ys, iy), (z, zs, iz)):
            if axis.apply is not None:
                one = axis.apply(one, values[index], values)
        if not fixed and "Seed" not in (x.label, y.label, z.label):
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
        return Composed((whole,), tuple(results) if lone else tuple(replace(r, images=()) for r in results))

    return ScriptPlan(Series(tuple(requests)), compose=compose)


def _shown(axis: Axis, value: Any) -> str:
    if axis.apply is None:
        return ""
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return text if axis.label.startswith("Prompt") else f"{axis.label}: {text}"


def _axis(arguments: Arguments, position: int, per_axis: int, kind: str, most: int) -> tuple[Axis, list[Any]]:
    axes = axes_for(kind)
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
