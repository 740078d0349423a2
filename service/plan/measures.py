"""What can be done where memory is short, in the order of what it costs. The engine carries them out."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Measure(StrEnum):
    """A way to need less memory; the value is its name in ``SD_MEASURES``."""

    EXPANDABLE_SEGMENTS = "expandable-segments"
    SMALL_WORKSPACES = "small-workspaces"
    TEXT_OFFLOAD = "text-offload"
    VAE_TILING = "vae-tiling"
    VAE_SMALL_TILES = "vae-small-tiles"
    ATTENTION_SLICING = "attention-slicing"
    GUIDANCE_IN_TURNS = "guidance-in-turns"
    MODEL_OFFLOAD = "model-offload"
    FP8_WEIGHTS = "fp8-weights"


@dataclass(frozen=True, slots=True)
class Nature:
    """``cost`` orders the measures: about the per cent of an image's time that it adds, plus its harm to the picture.

    ``picture`` says what it does to the image, ``per_request`` whether one request alone may take it, ``cpu`` whether
    it helps where the device is a CPU.
    """

    cost: float
    time: str
    picture: str
    per_request: bool
    cpu: bool


NATURE: Final[dict[Measure, Nature]] = {
    Measure.EXPANDABLE_SEGMENTS: Nature(0.1, "none", "the same", per_request=False, cpu=False),
    Measure.SMALL_WORKSPACES: Nature(
        1, "about 1 %", "the same but for rounding: other kernels", per_request=False, cpu=False
    ),
    Measure.TEXT_OFFLOAD: Nature(
        2, "two copies of the text encoders for each new prompt", "the same", per_request=True, cpu=False
    ),
    Measure.VAE_TILING: Nature(
        4,
        "a decode that takes about 1.6 times as long",
        "close: tiles of 512 pixels",
        per_request=True,
        cpu=True,
    ),
    Measure.VAE_SMALL_TILES: Nature(
        9,
        "a decode that takes about 1.8 times as long",
        "close: tiles of 256 pixels",
        per_request=True,
        cpu=True,
    ),
    Measure.ATTENTION_SLICING: Nature(
        6, "about 5 % a step", "the same but for rounding", per_request=True, cpu=True
    ),
    Measure.GUIDANCE_IN_TURNS: Nature(
        15,
        "up to a third a step at small sizes, nothing at large ones",
        "the same but for rounding",
        per_request=True,
        cpu=True,
    ),
    Measure.MODEL_OFFLOAD: Nature(
        25, "UNet and VAE copied once for each image", "the same", per_request=True, cpu=False
    ),
    Measure.FP8_WEIGHTS: Nature(
        60,
        "about a tenth a step",
        "another: weights keep 3 bits of their fraction",
        per_request=False,
        cpu=True,
    ),
}

Measures = frozenset[Measure]
NONE: Final[Measures] = frozenset()
AUTO: Final[Measures] = frozenset(Measure)


def available(kind: str) -> Measures:
    """What helps on a device of that kind ("cuda" or "cpu")."""
    return frozenset(m for m in Measure if kind == "cuda" or NATURE[m].cpu)


def cost(measures: Iterable[Measure]) -> float:
    """What they cost together."""
    return sum(NATURE[measure].cost for measure in measures)


def in_order(measures: Iterable[Measure]) -> list[Measure]:
    """The cheapest first."""
    return sorted(measures, key=lambda measure: NATURE[measure].cost)


def parse(text: str) -> Measures:
    """Names separated by commas. Raises ValueError that names those that exist."""
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in set(Measure)]
    if unknown:
        raise ValueError(f"there is no measure {unknown[0]!r}: use {', '.join(Measure)}")
    return frozenset(Measure(name) for name in names)
