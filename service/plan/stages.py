"""The stages of an image, in their order, and what each takes on the device."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from service.plan.architecture import TEXT, Architecture, Part
from service.plan.measures import Measure, Measures
from service.plan.networks.autoencoder import decode_peak, encode_peak, latent_factor
from service.plan.networks.blocks import WHOLE, Slicing
from service.plan.networks.text import text_peak
from service.plan.networks.unet import unet_peak
from service.plan.networks.upscaler import upscaler_peak
from service.plan.platform import MIB, Platform
from service.plan.tape import Kernels
from service.plan.work import Work

SLICE: Final = 1024
"""Tokens that go through attention and feed-forward layers at once where they are sliced."""

TILES: Final = {Measure.VAE_TILING: 512, Measure.VAE_SMALL_TILES: 256}
"""Side of a VAE's tiles in pixels."""

OVERLAP: Final = 0.25
"""Share of a VAE's tile that it has in common with its neighbour."""

_LATENTS: Final = 16
"""Latents in single precision that sampler, denoiser and noise keep."""

BYTES_A_PIXEL: Final = 18
"""Of a finished image in main memory: three as pixels, three as PNG at most, and base64 of that twice, with headers."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of an image: bytes of weights on the device, and of what is made while it runs."""

    name: str
    weights: int
    activations: int
    others: int = 0
    """Tensors of the request that wait meanwhile: latents, pictures, weights aside for LoRA networks."""

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.weights + self.activations + self.others


def stages_of(
    architecture: Architecture, work: Work, platform: Platform, itemsize: int, measures: Measures
) -> tuple[Stage, ...]:
    """What ``work`` goes through with ``measures``, ``itemsize`` bytes a number."""
    parts, kernels = architecture.parts, platform.kernels
    vae = parts["vae"]
    factor = latent_factor(vae.config)
    fp8 = Measure.FP8_WEIGHTS in measures
    text = architecture.size(TEXT, itemsize)
    unet_bytes = architecture.size(["unet"], itemsize, fp8=fp8)
    vae_bytes = vae.size(itemsize)
    in_turns = Measure.MODEL_OFFLOAD in measures and platform.is_cuda
    text_off = (Measure.TEXT_OFFLOAD in measures or in_turns) and platform.is_cuda
    # One layer at a time is in the precision that computes.
    unet_active = unet_bytes + (parts["unet"].largest * itemsize if fp8 else 0)

    with_text = text + (0 if in_turns else unet_bytes + vae_bytes)
    with_unet = unet_active + (0 if text_off else text) + (0 if in_turns else vae_bytes)
    with_vae = vae_bytes + (0 if text_off else text) + (0 if in_turns else unet_bytes)
    upcasts = itemsize == 2 and architecture.vae_overflows
    vae_itemsize = 4 if upcasts else itemsize
    if upcasts:
        with_vae += vae_bytes

    rows = min(work.rows, 1) if Measure.GUIDANCE_IN_TURNS in measures else work.rows
    slicing = SLICE if Measure.ATTENTION_SLICING in measures else 0
    latent = _LATENTS * 4 * work.batch * int(vae.config.get("latent_channels", 4))
    tile = next((side for measure, side in TILES.items() if measure in measures), 0)
    others = work.networks

    stages = [
        Stage(
            "text encoder",
            with_text,
            max(_text(parts[name], itemsize, kernels) for name in TEXT if name in parts),
            others,
        )
    ]
    previous: tuple[int, int] | None = None
    for number, (width, height) in enumerate(work.sizes):
        cells = -(-width // factor) * -(-height // factor)
        state = others + latent * cells
        encodes = work.starts_from_image if number == 0 else work.hires_in_pixels
        if number and work.hires_in_pixels:
            assert previous is not None
            stages.append(
                Stage("VAE decode", with_vae, _decode(vae, *previous, vae_itemsize, kernels, tile), state)
            )
            if work.upscaler is not None:
                activations = upscaler_peak(
                    work.upscaler, previous[1], previous[0], itemsize, kernels=kernels
                )
                host = 0 if platform.is_cuda else 32 * width * height
                stages.append(Stage("upscaler", with_vae, activations + 70 * MIB, state + host))
        if encodes:
            pictures = 12 * work.batch * width * height * (2 if work.inpaints else 1)
            stages.append(
                Stage(
                    "VAE encode",
                    with_vae,
                    _encode(vae, width, height, vae_itemsize, kernels, tile),
                    state + pictures,
                )
            )
        name = "UNet" if number == 0 else "UNet, second pass"
        activations = _unet(
            parts["unet"], rows, -(-height // factor), -(-width // factor), itemsize, 77 * work.chunks, kernels,
            slicing,
        )  # fmt: skip
        stages.append(Stage(name, with_unet, activations, state))
        previous = (width, height)
    width, height = work.sizes[-1]
    pixels = 0 if platform.is_cuda else 3 * work.count * width * height
    if work.batch > 1:  # the picture before this one
        pixels += 3 * vae_itemsize * width * height
    stages.append(
        Stage(
            "VAE decode", with_vae, _decode(vae, width, height, vae_itemsize, kernels, tile), state + pixels
        )
    )
    if not platform.is_cuda:
        stages.append(Stage("answer", with_vae, 0, work.count * width * height * BYTES_A_PIXEL))
    return tuple(stages)


@lru_cache(maxsize=4096)
def _text(part: Part, itemsize: int, kernels: Kernels) -> int:
    return text_peak(part.config, itemsize, kernels=kernels)


@lru_cache(maxsize=4096)
def _unet(
    part: Part, rows: int, height: int, width: int, itemsize: int, tokens: int, kernels: Kernels, slicing: int
) -> int:
    cut = Slicing(slicing) if slicing else WHOLE
    return unet_peak(part.config, rows, height, width, itemsize, tokens=tokens, kernels=kernels, slicing=cut)


@lru_cache(maxsize=4096)
def _decode(part: Part, width: int, height: int, itemsize: int, kernels: Kernels, tile: int) -> int:
    # The picture afterwards in single precision, and once more as it is clamped.
    picture = (3 * itemsize + 24) * width * height
    return max(picture, tiled_peak(decode_peak, part, width, height, itemsize, kernels, tile))


@lru_cache(maxsize=4096)
def _encode(part: Part, width: int, height: int, itemsize: int, kernels: Kernels, tile: int) -> int:
    return tiled_peak(encode_peak, part, width, height, itemsize, kernels, tile)


def tiled_peak(
    peak: Callable[..., int], part: Part, width: int, height: int, itemsize: int, kernels: Kernels, tile: int
) -> int:
    """Bytes that a VAE takes at most, ``peak`` being :func:`decode_peak` or :func:`encode_peak` of one tile.

    Tiles are worked on one after the other as diffusers does it: what came out of all of them is kept until they are
    blended, first to rows and then to the whole. ``tile`` 0: in one piece.
    """
    if not tile or max(width, height) <= tile:
        return peak(part.config, height, width, itemsize, kernels=kernels)
    step = int(tile * (1 - OVERLAP))
    heights = [min(tile, height - top) for top in range(0, height, step)]
    widths = [min(tile, width - left) for left in range(0, width, step)]
    one = {
        (h, w): peak(part.config, h, w, itemsize, kernels=kernels) for h in set(heights) for w in set(widths)
    }
    most = kept = 0
    for h in heights:
        for w in widths:
            most = max(most, kept + one[h, w])
            kept += 3 * h * w * itemsize
    return max(most, kept + 2 * 3 * width * height * itemsize)
