"""The axes of X/Y/Z plot: what a list of values changes from picture to picture."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from service.api.sdapi.options import Options
from service.api.sdapi.scripts.series import with_prompts
from service.api.sdapi.styles import NO_STYLES, StyleBook
from service.api.values import LARGEST_INT, SMALLEST_INT, finite
from service.catalogue import samplers
from service.core.errors import BadRequest
from service.core.generation import GenerationRequest

SCRIPT: Final = "x/y/z plot"

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
            raise BadRequest(f"{SCRIPT}: a hires axis needs enable_hr.")
        return replace(request, hires=replace(request.hires, **{name: value}))

    return apply


def _shape(name: str) -> Apply:
    return lambda request, value, values: replace(request, shape=replace(request.shape, **{name: value}))


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
            f"{SCRIPT}: Prompt S/R did not find {needle[:60]!r} in the prompt or the negative prompt."
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
        raise BadRequest(f"{SCRIPT}: Prompt order did not find {places[0][1][:60]!r} in the prompt.")
    text, position = "", 0
    for (place, old), new in zip(places, words, strict=True):
        text += request.prompt[position:place] + new
        position = place + len(old)
    return with_prompts(request, text + request.prompt[position:], request.negative_prompt)


def _size(request: GenerationRequest, value: Any, values: Sequence[Any]) -> GenerationRequest:
    matched = re.fullmatch(r"\s*(\d{1,5})\s*[x×]\s*(\d{1,5})\s*", str(value))
    if matched is None:
        raise BadRequest(f"{SCRIPT}: Size is {str(value)[:40]!r}, but must be like 512x768.")
    return replace(request, width=int(matched[1]), height=int(matched[2]))


def _styles(styles: StyleBook) -> Apply:
    def apply(request: GenerationRequest, value: Any, values: Sequence[Any]) -> GenerationRequest:
        names = [name.strip() for name in str(value).split(",")]
        if missing := styles.missing(names):
            there = ", ".join(style.name for style in styles.all()[:20])
            raise BadRequest(f"{SCRIPT}: there is no style {missing[0][:60]!r}. Use one of: {there}.")
        request = with_prompts(request, *styles.apply(request.prompt, request.negative_prompt, names))
        hires = request.hires
        if hires is None:
            return request
        # A second pass without prompts of its own has the first one's, and their styles with them.
        prompt, negative = styles.apply(hires.prompt or "", hires.negative_prompt or "", names)
        if hires.prompt:
            hires = replace(hires, prompt=prompt)
        if hires.negative_prompt:
            hires = replace(hires, negative_prompt=negative)
        return replace(request, hires=hires)

    return apply


def _float(text: str) -> float:
    return finite(text.strip())


def _int(text: str) -> int:
    value = int(text) if len(text) < 40 else 0  # no more digits than 64 bits have
    if len(text) >= 40 or not SMALLEST_INT <= value <= LARGEST_INT:
        raise ValueError("more than 64 bits")
    return value


def _number(option: str) -> Callable[[str], float]:
    """Reads a number within the range of an option."""
    return lambda text: Options({option: _float(text)}).number(option)


def _flag(text: str) -> bool:
    return text.strip().lower() == "true"


def _refiner(text: str) -> str | None:
    name = text.strip()
    return None if name.lower() in ("", "none") else name


def _sampler_name(text: str) -> str:
    return samplers.resolve(text.strip(), None, strict=True)[0].name


_STYLES: Final = Axis("Styles")

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
    Axis("Schedule min sigma", _number("sigma_min"), _shape("sigma_min"), ranges=True),
    Axis("Schedule max sigma", _number("sigma_max"), _shape("sigma_max"), ranges=True),
    Axis("Schedule rho", _number("rho"), _shape("rho"), ranges=True),
    Axis("Beta schedule alpha", _number("beta_dist_alpha"), _shape("beta_alpha"), ranges=True),
    Axis("Beta schedule beta", _number("beta_dist_beta"), _shape("beta_beta"), ranges=True),
    Axis("Eta", _float, _field("eta"), ranges=True),
    Axis("Clip skip", _int, _field("clip_skip"), ranges=True),
    Axis("Denoising", _float, _denoising, ranges=True),
    Axis("Initial noise multiplier", _float, _init("noise_multiplier"), ranges=True),
    Axis("Extra noise", _number("img2img_extra_noise"), _field("extra_noise"), ranges=True),
    Axis("Hires upscaler", str.strip, _upscaler, "txt2img"),
    Axis("Cond. Image Mask Weight", _float, _field("inpainting_mask_weight"), "img2img", ranges=True),
    Axis("VAE", str.strip, _field("vae")),
    _STYLES,
    Axis("UniPC Order", lambda text: int(_number("uni_pc_order")(text)), _shape("unipc_order"), ranges=True),
    Axis("Face restore"),
    Axis("Token merging ratio", _number("token_merging_ratio"), _field("token_merging"), ranges=True),
    Axis(
        "Token merging ratio high-res",
        _number("token_merging_ratio_hr"),
        _hires("token_merging"),
        ranges=True,
    ),
    Axis("Always discard next-to-last sigma", _flag, _shape("discard_next_to_last_sigma")),
    Axis("SGM noise multiplier", _flag, _shape("vp_start")),
    Axis("Refiner checkpoint", _refiner, _field("refiner_checkpoint")),
    Axis("Refiner switch at", _float, _field("refiner_switch_at"), ranges=True),
    Axis(
        "RNG source",
        lambda text: Options({"randn_source": text}).choice("randn_source"),
        _field("noise_source"),
    ),
    Axis("FP8 mode"),
    Axis("Size", str, _size),
)
"""In A1111's order, because clients send positions. Those without ``apply`` are not offered here."""


def axes_for(kind: str, styles: StyleBook = NO_STYLES) -> list[Axis]:
    """The axes of a route by position; that of styles is offered where there are any."""
    axes = [axis for axis in AXES if axis.only in (None, kind)]
    return [
        replace(axis, apply=_styles(styles)) if axis is _STYLES and styles.all() else axis for axis in axes
    ]
