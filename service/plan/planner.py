"""The plan itself: the peak of an image's stages, and the cheapest measures that make it fit."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

from service.plan.architecture import TEXT, Architecture
from service.plan.measures import NONE, Measure, Measures, available, cost, in_order
from service.plan.platform import (
    CUDA_FRAGMENTATION_EXPANDABLE,
    CUDA_SMALL_WORKSPACES,
    GIB,
    POD_PROCESS,
    Platform,
)
from service.plan.stages import BYTES_A_PIXEL, Stage, stages_of
from service.plan.work import Work


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
        images = self.work.count * max(w * h for w, h in self.work.sizes) * BYTES_A_PIXEL
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
    stages = stages_of(architecture, work, platform, itemsize, measures)
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


def gib(amount: float) -> float:
    """Bytes as GiB, rounded for people."""
    return round(amount / GIB, 2)
