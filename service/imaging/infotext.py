"""The infotext: the lines in which an image says how it was made, composed and parsed as A1111 does.

Prompt, then ``Negative prompt: …`` (if there is one), then one line of ``Key: value`` pairs. A value that
would be ambiguous is written as a JSON string. Whitespace in prompts survives a round trip here, which
A1111 trims. The format cannot tell a prompt's own line that begins with ``Negative prompt:`` from the real
one.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from service.catalogue.samplers import sampler_named, scheduler_labelled
from service.core.generation import GenerationRequest, GenerationResult
from service.prompt import extract_networks, schedule, split_composition

NEGATIVE: Final = "Negative prompt:"

DEFAULTS: Final[Mapping[str, str | int | bool]] = {
    "Clip skip": "1",
    "Hires resize-1": 0,
    "Hires resize-2": 0,
    "Hires sampler": "Use same sampler",
    "Hires schedule type": "Use same scheduler",
    "Hires checkpoint": "Use same checkpoint",
    "Hires prompt": "",
    "Hires negative prompt": "",
    "Mask mode": "Inpaint masked",
    "Masked content": "original",
    "Inpaint area": "Whole picture",
    "Masked area padding": 32,
    "RNG": "GPU",
    "Schedule type": "Automatic",
    "Schedule max sigma": 0,
    "Schedule min sigma": 0,
    "Schedule rho": 0,
    "VAE Encoder": "Full",
    "VAE Decoder": "Full",
    "FP8 weight": "Disable",
    "Refiner switch by sampling steps": False,
}
"""What A1111 takes a key for that an infotext does not mention; not all of them are texts."""

_ORDER: Final = (
    "SD upscale overlap", "SD upscale upscaler",
    # What a picture starts from.
    "Denoising strength", "Hires checkpoint", "Hires sampler", "Hires prompt", "Hires negative prompt",
    "Hires schedule type", "Hires upscale", "Hires resize", "Hires steps", "Hires upscaler",
    "Mask mode", "Mask blur", "Inpaint area", "Masked area padding", "Masked content",
    # Prompts and noise.
    "Lora hashes", "TI hashes", "Emphasis", "Downcast alphas_cumprod", "Noise Schedule", "Noise multiplier",
    # The schedule.
    "Discard penultimate sigma", "Schedule type", "Schedule min sigma", "Schedule max sigma", "Schedule rho",
    "Beta schedule alpha", "Beta schedule beta", "SGM noise multiplier", "Extra noise",
    # The sampler.
    "Eta", "Eta DDIM", "Sigma churn", "Sigma tmin", "Sigma tmax", "Sigma noise",
    "UniPC variant", "UniPC skip type", "UniPC order", "UniPC lower order final",
    # What happens in its steps.
    "Refiner switch by sampling steps", "Skip Early CFG", "NGMS", "NGMS all steps", "Pad conds", "Pad conds v0",
    "Hires refiner", "Refiner", "Refiner switch at",
)  # fmt: skip
"""The entries behind the fixed ones, in the order in which A1111 comes upon them; others (a script's) follow."""
_PLACE: Final = {key: place for place, key in enumerate(_ORDER)}

_NULLS: Final = frozenset({"Hires prompt", "Hires negative prompt", "Hires schedule type", "Mask blur"})
"""Entries that A1111 names without a value."""

_FEWEST_PAIRS: Final = 3  # a last line with fewer is part of the prompt
_LONGEST_KEY: Final = 100
_KEY: Final = re.compile(r"\w[\w \-/]+$")
_SIZE: Final = re.compile(r"(\d{1,9})x(\d{1,9})")
_QUOTED: Final = re.compile(r'\s*("(?:[^"\\]|\\.)+")\s*(?:,|$)')


@dataclass(frozen=True, slots=True)
class InfotextOptions:
    """The choices that A1111's options leave: what an infotext names beside the settings of the image."""

    version: str | None = "v1.10.1"
    """Readers treat anything but ``vX.Y.Z`` as an old file whose meaning differs; None leaves it out."""
    user: str | None = None
    model_name: bool = True
    model_hash: bool = True
    vae_name: bool = True
    vae_hash: bool = True


DEFAULT_OPTIONS: Final = InfotextOptions()


def compose(
    result: GenerationResult,
    index: int,
    options: InfotextOptions = DEFAULT_OPTIONS,
    extra: Mapping[str, Any] | None = None,
) -> str:
    """The infotext of image ``index`` (0-based) of ``result``.

    ``extra`` are entries that only the caller knows ("Mask blur" …); with ``result.extra`` they follow the settings in
    A1111's order, those that it does not know last, except that a key with a fixed place (see :func:`parameters`) is
    put there.
    """
    prompt, negative = result.request.prompt, result.request.negative_prompt
    pairs = (f"{key}: {quote(value)}" for key, value in parameters(result, index, options, extra).items())
    lines = [prompt] if prompt else []
    if negative:
        lines.append(f"{NEGATIVE} {negative}")
    return "\n".join([*lines, ", ".join(pairs)]).strip()


def parameters(
    result: GenerationResult,
    index: int,
    options: InfotextOptions = DEFAULT_OPTIONS,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The pairs of the last line, in A1111's order, without those that do not apply."""
    request = result.request
    varied = request.subseed_strength != 0
    init, resized = request.init, request.seed_resize_from
    strength = (
        init.denoising_strength if init else request.hires.denoising_strength if request.hires else None
    )
    fields: dict[str, Any] = {
        "Steps": request.steps,
        "Sampler": result.sampler or request.sampler,
        "Schedule type": result.scheduler or request.scheduler,
        "CFG scale": request.guidance_scale,
        "Image CFG scale": None,
        "Seed": result.seeds[index],
        "Face restoration": None,
        "Size": f"{request.width}x{request.height}",
        "Model hash": (result.model_hash or None) if options.model_hash else None,
        "Model": (result.model_name or None) if options.model_name else None,
        "FP8 weight": None,
        "Cache FP16 weight for LoRA": None,
        "VAE hash": result.vae_hash if options.vae_hash else None,
        "VAE": result.vae_name if options.vae_name else None,
        "Variation seed": result.subseeds[index] if varied else None,
        "Variation seed strength": request.subseed_strength if varied else None,
        "Seed resize from": f"{resized[0]}x{resized[1]}" if resized else None,
        "Denoising strength": strength,
        "Conditional mask weight": request.inpainting_mask_weight if result.is_inpainting else None,
        "Clip skip": request.clip_skip if request.clip_skip > 1 else None,
        "ENSD": (request.eta_noise_seed_delta or None) if _takes_ensd(request) else None,
        "Token merging ratio": request.token_merging or None,
        "Token merging ratio hr": (
            (request.hires.token_merging or request.token_merging or None) if request.hires else None
        ),
        "Init image hash": None,
        "RNG": request.noise_source if request.noise_source != "GPU" else None,
        "Tiling": "True" if request.tiling else None,
    }
    fields |= extra_parameters(result, extra) | {"Version": options.version, "User": options.user}
    return {key: value for key, value in fields.items() if value is not None}


def extra_parameters(
    result: GenerationResult, extra: Mapping[str, Any] | None = None, *, nulls: bool = False
) -> dict[str, Any]:
    """What A1111 calls extra generation parameters: all but the settings that every image has, in its order.

    They come from ``extra``, from the request (schedule, picture, hires fix, refiner) and from ``result.extra``. With
    ``nulls`` those stay that A1111 names without a value.
    """
    given = {**_derived(result), **(extra or {})}
    given |= {key: value for key, value in result.extra.items() if key not in given or value is not None}
    if nulls and result.request.hires:
        # A1111 works them out for each image, and shows nothing here.
        given |= {"Hires prompt": None, "Hires negative prompt": None}
    kept = _NULLS if nulls else ()
    in_order = sorted(given, key=lambda key: _PLACE.get(key, len(_PLACE)))
    return {key: given[key] for key in in_order if given[key] is not None or key in kept}


def _derived(result: GenerationResult) -> dict[str, Any]:
    """What the request itself says; :data:`_ORDER` orders it."""
    request, init, shape = result.request, result.request.init, result.request.shape
    emphasised = request.emphasis != "Original" and _emphasises(
        request.prompt, request.negative_prompt, request.steps
    )
    fields: dict[str, Any] = {
        "Emphasis": request.emphasis if emphasised else None,
        "Downcast alphas_cumprod": True if shape.half_alphas else None,
        "Noise Schedule": "Zero Terminal SNR" if shape.zero_terminal_snr else None,
        "Discard penultimate sigma": True if shape.discard_next_to_last_sigma else None,
        "Refiner switch by sampling steps": True if request.refiner_by_steps else None,
    }
    if init:
        fields["Denoising strength"] = init.denoising_strength
        fields["Noise multiplier"] = init.noise_multiplier if init.noise_multiplier != 1 else None
    if init or request.hires:
        fields["Extra noise"] = request.extra_noise or None
    if request.hires:
        fields |= _of_hires(result)
    fields |= _of_schedule(result)
    if request.refiner_checkpoint:
        first, second = request.hires.refines if request.hires else (False, True)
        passes = ("both passes" if second else "first pass") if first else None
        fields |= {
            "Hires refiner": passes,
            "Refiner": _short_title(request.refiner_checkpoint),
            "Refiner switch at": request.refiner_switch_at,
        }
    return fields


def _of_schedule(result: GenerationResult) -> dict[str, Any]:
    """What bends the schedule, where the sampler takes one from outside."""
    request, shape = result.request, result.request.shape
    if sampler_named(request.sampler).own_schedule:
        return {}
    fields: dict[str, Any] = {"SGM noise multiplier": True if shape.vp_start and not request.init else None}
    if result.scheduler in ("", "Automatic"):
        return fields
    rho = scheduler_labelled(result.scheduler).default_rho
    fields |= {
        "Schedule type": result.scheduler,
        "Schedule min sigma": shape.sigma_min or None,
        "Schedule max sigma": shape.sigma_max or None,
        "Schedule rho": shape.rho if shape.rho not in (0, rho) and rho > 0 else None,
    }
    if result.scheduler == "Beta":
        fields |= {"Beta schedule alpha": shape.beta_alpha, "Beta schedule beta": shape.beta_beta}
    return fields


def _takes_ensd(request: GenerationRequest) -> bool:
    """Whether the sampler draws fresh noise, which alone is what ENSD is told for."""
    return sampler_named(request.sampler).uses_ensd and request.eta != 0


@lru_cache(maxsize=16)
def _emphasises(prompt: str, negative: str, steps: int) -> bool:
    """Whether a prompt still has brackets when what changes from step to step is settled; A1111 looks for no more.

    Remembered: it is asked for each image of a batch, and a long prompt takes its time.
    """
    parts = [part.text for part in split_composition(extract_networks(prompt)[0])]
    parts.append(extract_networks(negative)[0])
    return any("(" in one.text or "[" in one.text for part in parts for one in schedule(part, max(1, steps)))


def _of_hires(result: GenerationResult) -> dict[str, Any]:
    """What the request says of the second pass."""
    request, hires = result.request, result.request.hires
    assert hires is not None
    asked = hires.resize or hires.crop_to or (hires.width, hires.height)
    own = (
        result.hires_scheduler if result.hires_scheduler not in ("", "Automatic", result.scheduler) else None
    )
    return {
        "Denoising strength": hires.denoising_strength,
        "Hires checkpoint": _short_title(hires.checkpoint) if hires.checkpoint else None,
        "Hires sampler": hires.sampler if hires.sampler != request.sampler else None,
        "Hires prompt": hires.prompt if hires.prompt != request.prompt else None,
        "Hires negative prompt": (
            hires.negative_prompt if hires.negative_prompt != request.negative_prompt else None
        ),
        "Hires schedule type": own,
        "Hires upscale": hires.scale,
        "Hires resize": f"{asked[0]}x{asked[1]}" if hires.scale is None else None,
        "Hires steps": hires.steps or None,
        "Hires upscaler": hires.upscaler if hires.upscaler_told else None,
    }


def _short_title(title: str) -> str:
    """A checkpoint's title without folder and suffix: ``xl-refiner [7440042bbd]``."""
    name, bracket, rest = title.partition(" [")
    return name.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".safetensors") + bracket + rest


def quote(value: object) -> str:
    """``value`` as the right side of a pair: a JSON string where plain text would read back differently."""
    text = str(value)
    plain = not any(mark in text for mark in ",:\n\r") and not text.startswith('"') and text == text.strip()
    return text if plain else json.dumps(text, ensure_ascii=False)


def parse(text: str) -> dict[str, str]:
    """Read an infotext back: its pairs, then "Prompt" and "Negative prompt", all of them strings.

    "512x768" comes as two keys, "Size-1" and "Size-2". The last line holds parameters only
    if there are at least three in it; otherwise it belongs to the prompt. Never raises; the time is linear
    in the length.
    """
    lines = text.rstrip().split("\n")
    found = list(_pairs(lines[-1]))
    if len(found) >= _FEWEST_PAIRS:
        lines.pop()
    else:
        found = []
    values: dict[str, str] = {}
    for key, value in found:
        if size := _SIZE.fullmatch(value):
            values[f"{key}-1"], values[f"{key}-2"] = size.groups()
        else:
            values[key] = value
    start = next((number for number, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
    values["Prompt"] = "\n".join(lines[:start])
    values["Negative prompt"] = "\n".join(lines[start:]).removeprefix(NEGATIVE).removeprefix(" ")
    return values


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    position = 0
    while (colon := line.find(":", position)) >= 0:
        # Commas before the colon end values that had no key of their own.
        comma = line.rfind(",", position, colon)
        key = _KEY.search(line[max(position, comma + 1, colon - _LONGEST_KEY) : colon])
        if quoted := _QUOTED.match(line, colon + 1):
            value, position = unquote(quoted[1]), quoted.end()
        else:
            end = line.find(",", colon + 1)
            end = len(line) if end < 0 else end
            value, position = line[colon + 1 : end].strip(), end + 1
        if key:
            yield key[0].strip(), value


def unquote(text: str) -> str:
    """The string that the JSON string ``text`` stands for, or ``text`` where it is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str) else text
