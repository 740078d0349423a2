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
from typing import Any, Final

from service.core.generation import GenerationResult

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

    ``extra`` are entries that only the caller knows ("Mask blur" …); with ``result.extra`` behind them they
    follow the settings in their own order, except that a key with a fixed place (see :func:`parameters`) is
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
        "Conditional mask weight": None,
        "Clip skip": request.clip_skip if request.clip_skip > 1 else None,
        "ENSD": request.eta_noise_seed_delta or None,
        "Token merging ratio": request.token_merging or None,
        "Token merging ratio hr": (request.hires.token_merging or None) if request.hires else None,
        "Init image hash": None,
        "RNG": request.noise_source if request.noise_source != "GPU" else None,
        "Tiling": "True" if request.tiling else None,
        "Emphasis": request.emphasis if request.emphasis != "Original" else None,
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
    given = {**(extra or {}), **_derived(result)}
    given |= {key: value for key, value in result.extra.items() if key not in given or value is not None}
    if nulls and result.request.hires:
        # A1111 works them out for each image, and shows nothing here.
        given |= {"Hires prompt": None, "Hires negative prompt": None}
        kept = ("Hires prompt", "Hires negative prompt", "Hires schedule type")
        return {key: value for key, value in given.items() if value is not None or key in kept}
    return {key: value for key, value in given.items() if value is not None}


def _derived(result: GenerationResult) -> dict[str, Any]:
    """What the request itself says."""
    request, hires, init, shape = (
        result.request,
        result.request.hires,
        result.request.init,
        result.request.shape,
    )
    fields: dict[str, Any] = {"Noise Schedule": "Zero Terminal SNR" if shape.zero_terminal_snr else None}
    fields["Downcast alphas_cumprod"] = True if shape.half_alphas else None
    if init:
        fields["Denoising strength"] = init.denoising_strength
    if hires:
        fields |= _of_hires(result)
    fields["Emphasis"] = request.emphasis if request.emphasis != "Original" else None
    if result.scheduler not in ("", "Automatic"):
        fields["Schedule type"] = result.scheduler
    for key, value, own in (
        ("Schedule max sigma", shape.sigma_max, 0),
        ("Schedule min sigma", shape.sigma_min, 0),
        ("Schedule rho", shape.rho, 0),
    ):
        fields[key] = value if value != own else None
    if result.scheduler == "Beta":
        fields |= {"Beta schedule alpha": shape.beta_alpha, "Beta schedule beta": shape.beta_beta}
    fields["Discard penultimate sigma"] = True if shape.discard_next_to_last_sigma else None
    if init:
        fields["Noise multiplier"] = init.noise_multiplier if init.noise_multiplier != 1 else None
        fields["Extra noise"] = init.extra_noise or None
    if shape.vp_start:
        fields["SGM noise multiplier"] = True
    if request.refiner_checkpoint and request.refiner_switch_at is not None:
        fields |= {
            "Refiner": _short_title(request.refiner_checkpoint),
            "Refiner switch at": request.refiner_switch_at,
            "Refiner switch by sampling steps": True if request.refiner_by_steps else None,
        }
    return fields


def _of_hires(result: GenerationResult) -> dict[str, Any]:
    """What the request says of the second pass."""
    request, hires = result.request, result.request.hires
    assert hires is not None
    asked = hires.resize or hires.crop_to or (hires.width, hires.height)
    own = hires.scheduler if hires.scheduler not in (None, request.scheduler) else None
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
        "Hires upscaler": hires.upscaler,
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
