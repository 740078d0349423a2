"""The plan itself: the stages of an image, what each takes, the peak, and the cheapest measures that make it fit."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Final

from service.plan.architecture import TEXT, Architecture, Part
from service.plan.measures import NONE, Measure, Measures, available, cost, in_order
from service.plan.networks.autoencoder import decode_peak, encode_peak, latent_factor
from service.plan.networks.blocks import WHOLE, Slicing
from service.plan.networks.text import text_peak
from service.plan.networks.unet import unet_peak
from service.plan.networks.upscaler import upscaler_peak
from service.plan.platform import (
    CUDA_FRAGMENTATION_EXPANDABLE,
    CUDA_SMALL_WORKSPACES,
    GIB,
    MIB,
    POD_PROCESS,
    Platform,
)
from service.plan.tape import Kernels
from service.plan.work import Work

SLICE: Final = 1024
"""Tokens that go through attention and feed-forward layers at once where they are sliced."""

TILES: Final = {Measure.VAE_TILING: 512, Measure.VAE_SMALL_TILES: 256}
"""Side of a VAE's tiles in pixels."""

_OVERLAP: Final = 0.25
_LATENTS: Final = 16
"""Latents in single precision that sampler, denoiser and noise keep."""

_BYTES_A_PIXEL: Final = 18
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


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``work`` takes on ``platform`` with ``measures``."""

    architecture: Architecture
    work: Work
    platform: Platform
    itemsize: int
    measures: Measures
    stages: tuple[Stage, ...]
    kept: int = 0
    """Bytes of other checkpoints that stay loaded."""

    @property
    def stage(self) -> Stage:
        """Where the peak is."""
        return max(self.stages, key=lambda stage: stage.bytes)

    @property
    def fragmentation(self) -> float:
        """Share of what is allocated that cannot be used."""
        expandable = Measure.EXPANDABLE_SEGMENTS in self.measures and self.platform.is_cuda
        return CUDA_FRAGMENTATION_EXPANDABLE if expandable else self.platform.fragmentation

    @property
    def workspaces(self) -> int:
        """What the libraries keep for themselves."""
        small = Measure.SMALL_WORKSPACES in self.measures
        return min(self.platform.workspaces, CUDA_SMALL_WORKSPACES) if small else self.platform.workspaces

    @property
    def activations(self) -> int:
        """Bytes beyond the weights at the peak, fragmentation included."""
        stage = self.stage
        return int((stage.activations + stage.others) * (1 + self.fragmentation))

    @property
    def peak(self) -> int:
        """Bytes of the device's memory at most."""
        fixed = self.platform.base + self.workspaces
        # Weights are a few large blocks that stay: it is what comes and goes that leaves gaps.
        return (
            fixed
            + self.kept
            + max(
                stage.weights + int((stage.activations + stage.others) * (1 + self.fragmentation))
                for stage in self.stages
            )
        )

    @property
    def fits(self) -> bool:
        """True if the peak is within the limit, or nobody knows a limit."""
        return not self.platform.limit or self.peak <= self.platform.limit

    @property
    def main_memory(self) -> int:
        """Bytes of main memory that the pod needs."""
        images = self.work.count * max(w * h for w, h in self.work.sizes) * _BYTES_A_PIXEL
        if not self.platform.is_cuda:
            return self.peak
        everything = self.architecture.size(self.architecture.parts, self.itemsize)
        largest = max(part.largest for part in self.architecture.parts.values()) * 4
        aside = 0
        if Measure.MODEL_OFFLOAD in self.measures or Measure.FP8_WEIGHTS in self.measures:
            aside = everything
        elif Measure.TEXT_OFFLOAD in self.measures:
            aside = self.architecture.size(TEXT, self.itemsize)
        return POD_PROCESS + images + largest + aside


def make_plan(
    architecture: Architecture,
    work: Work,
    platform: Platform,
    itemsize: int,
    measures: Measures = NONE,
    kept: int = 0,
) -> Plan:
    """The plan with exactly these measures."""
    stages = _stages(architecture, work, platform, itemsize, measures)
    return Plan(architecture, work, platform, itemsize, measures, stages, kept)


def choose_plan(
    architecture: Architecture,
    work: Work,
    platform: Platform,
    itemsize: int,
    allowed: Measures,
    on: Measures = NONE,
    kept: int = 0,
) -> Plan:
    """The plan with the cheapest of the ``allowed`` measures that fits; ``on`` are in force anyway.

    Where nothing fits, the plan that needs least.
    """
    plain = make_plan(architecture, work, platform, itemsize, on, kept)
    if plain.fits:
        return plain
    free = in_order((allowed & available(platform.kind)) - on)
    best, best_cost, least = None, float("inf"), plain
    for count in range(1, len(free) + 1):
        for chosen in combinations(free, count):
            if {Measure.VAE_TILING, Measure.VAE_SMALL_TILES} <= {*chosen, *on} or cost(chosen) >= best_cost:
                continue
            if Measure.TEXT_OFFLOAD in chosen and Measure.MODEL_OFFLOAD in {*chosen, *on}:
                continue  # the one contains the other
            plan = make_plan(architecture, work, platform, itemsize, on | frozenset(chosen), kept)
            if plan.peak < least.peak:
                least = plan
            if plan.fits:
                best, best_cost = plan, cost(chosen)
    return best or least


def largest_square(fits: Callable[[int], bool], most: int = 4096, step: int = 64) -> int:
    """The largest side in pixels, a multiple of ``step``, that ``fits``; 0 if none does."""
    low, high = 0, most // step
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * step) else (low, middle - 1)
    return low * step


def largest_batch(fits: Callable[[int], bool], most: int = 32) -> int:
    """The largest batch that ``fits``; 0 if not even one does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def resized(work: Work, side: int) -> Work:
    """``work`` as a square of ``side`` pixels, its second pass in the same proportion."""
    hires = None
    if work.hires is not None:
        factor = work.hires[0] / work.width
        hires = (int(side * factor) // 8 * 8, int(side * factor) // 8 * 8)
    return replace(work, width=side, height=side, hires=hires)


# --- stages ------------------------------------------------------------------------------------------


def _stages(
    architecture: Architecture, work: Work, platform: Platform, itemsize: int, measures: Measures
) -> tuple[Stage, ...]:
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
        stages.append(Stage("answer", with_vae, 0, work.count * width * height * _BYTES_A_PIXEL))
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
    step = int(tile * (1 - _OVERLAP))
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


def gib(amount: float) -> float:
    """Bytes as GiB, rounded for people."""
    return round(amount / GIB, 2)
