"""The plan in a running service: what there is here, what a request would take, and what was measured.

:meth:`Headroom.check` answers from headers and numbers alone: what cannot fit is refused before it waits for the
device, let alone touches it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from service import allocator
from service.core.errors import OutOfMemory
from service.core.generation import GenerationRequest
from service.engine import memory, peaks
from service.engine.device import Device
from service.engine.peaks import Peaks
from service.plan import platform as platforms
from service.plan.architecture import TEXT, Architecture, read_architecture
from service.plan.measures import AUTO, NATURE, NONE, Measure, Measures, available, in_order, parse
from service.plan.networks.upscaler import TILE, Upscaler, upscaler_peak
from service.plan.planner import Plan, choose_plan
from service.plan.platform import GIB, MIB, Platform
from service.plan.report import cure, line
from service.plan.work import Work, work_of
from service.settings import Settings

log = structlog.get_logger(__name__)

GROWTH: Final = 28 * MIB
"""What an image takes beside tensors on a CPU, whatever its size: oneDNN's kernels and scratch, threads' heaps."""

KEPT: Final = 128 * MIB
"""Main memory that stays free where malloc keeps what is freed (see ``service.allocator``)."""

SPARE: Final = 20 * MIB
"""Main memory left for what is not the image: requests on their way in, page tables."""

UPSCALED: Final = 48
"""Bytes of main memory for each pixel of a picture that is put together from pieces."""


_MOVING: Final = frozenset(
    {Measure.TEXT_OFFLOAD, Measure.MODEL_OFFLOAD, Measure.ATTENTION_SLICING, Measure.GUIDANCE_IN_TURNS}
)
"""What a compiled UNet cannot take: its code is fixed, and so is where its weights are."""


class Headroom:
    """What fits, for one engine. Written in the engine's thread; :meth:`check` may be called from any."""

    def __init__(self, device: Device, settings: Settings) -> None:
        self._device = device
        self._settings = settings
        self._itemsize = device.dtype.itemsize
        self._architectures: dict[str, Architecture] = {}
        self._platform = self._first_look()
        self._tight = self._small = self._settled = False
        self.allowed, self.forced = _measures(settings.measures, device, compiled=settings.compile)
        self.always: Measures = self.forced & _at_load()
        """Measures that are in force from load on."""
        self.peaks = Peaks()
        self.highest = Peaks()
        """The request that took most."""
        self.plan: Plan | None = None
        """The plan at load: one image of the default checkpoint's own size."""

    # --- what there is -------------------------------------------------------------------------------

    @property
    def platform(self) -> Platform:
        """The device, with what is taken and what may be."""
        return self._platform

    def _first_look(self) -> Platform:
        device, layout = self._device, self._device.channels_last
        if not device.is_cuda:
            return platforms.cpu(*platforms.main_memory_limit(), channels_last=layout)
        source = "SD_GPU_MEMORY_GIB" if self._settings.gpu_memory_gib is not None else "device"
        if self._settings.gpu_memory_gib is None and (shared := platforms.slice_of()) is not None:
            source = shared[1]
        return platforms.cuda(device.memory_limit, source, channels_last=layout)

    def settle(self, resident: int) -> None:
        """Look again while nothing runs and weights take up ``resident`` bytes."""
        if self._device.is_cuda:
            self._settle_cuda()
            return
        free = memory.free_main_memory()
        used = peaks.process_memory()
        if not used or free is None:
            return
        # What malloc keeps counts as used and serves the next image: it moves the limit, not the base.
        limit, source = used + max(0, free - SPARE), platforms.main_memory_limit()[1]
        base = self._platform.base
        if self._tight or self._small or not self._settled:
            allocator.give_back()
            base = max(0, peaks.process_memory() - resident) + GROWTH
            self._settled = True
        self._platform = replace(self._platform, base=base, limit=limit, source=source)

    def is_tight(self, plan: Plan) -> bool:
        """True if freed memory must not be kept while ``plan`` runs: on a CPU that has not twice what comes and goes.

        Kept blocks are used again where they fit, and leave gaps where they do not.
        """
        needed = plan.peak + plan.activations + KEPT
        return not self._device.is_cuda and bool(plan.platform.limit) and needed > plan.platform.limit

    def is_crowded(self, plan: Plan) -> bool:
        """True if there is no room for ``plan`` beside what malloc keeps, none of which may fit it."""
        limit = plan.platform.limit
        return not self._device.is_cuda and 0 < limit < peaks.process_memory() + plan.activations + KEPT

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Weights are read meanwhile: each large one into pages of its own, which leave no gap when it goes."""
        if self._device.is_cuda:
            yield
            return
        allocator.tighten()
        try:
            yield
        finally:
            if not (self._small or self._tight):
                allocator.keep()

    @contextmanager
    def admitted(
        self, request: GenerationRequest, paths: list[str], beside: int, resident: Callable[[], int]
    ) -> Iterator[Plan]:
        """The plan that ``request`` runs under meanwhile; see :meth:`check`. ``resident``: bytes of weights loaded.

        Where it is close, malloc gives back what it frees, and what there is is looked at again before the device is
        touched.
        """
        plan = self.check(request, paths, beside)
        self._tight = self._small or self.is_tight(plan)
        try:
            if self._tight:
                allocator.tighten()
                self.settle(resident())
                plan = self.check(request, paths, beside)
            elif self.is_crowded(plan):
                allocator.give_back()
            yield plan
        finally:
            self.settle(resident())
            if self._tight and not self._small:
                self._tight = False
                allocator.keep()

    def _settle_cuda(self) -> None:
        # Where others share the card without walls, what the driver calls used is not ours alone.
        if self._settings.gpu_memory_gib is not None:
            return
        numbers = self._device.memory()
        beside = numbers.get("used", 0) - numbers.get("reserved", 0)
        if 64 * MIB < beside < 2 * GIB:
            self._platform = replace(self._platform, base=beside)

    # --- what is asked -------------------------------------------------------------------------------

    def knows(self, path: str) -> bool:
        """True if the headers of that checkpoint have been read."""
        return path in self._architectures

    def architecture(self, path: str, title: str = "") -> Architecture:
        """The networks of a checkpoint; read once. Raises :class:`ModelLoadError`."""
        if path not in self._architectures:
            self._architectures[path] = read_architecture(Path(path), title)
        return self._architectures[path]

    def forget(self) -> None:
        """Files may have changed."""
        self._architectures = {}

    def at_load(self, path: str, title: str) -> Plan:
        """Plan for one image of the checkpoint's own size, choose what is in force from now on, and say so."""
        architecture = self.architecture(path, title)
        side = min(architecture.native_size, self._settings.max_side) // 8 * 8
        width, height = self._settings.plan_sides or (side, side)
        plan = choose_plan(
            architecture, Work(width, height), self._platform, self._itemsize, self.allowed, self.forced
        )
        if not self._device.is_cuda and self._platform.limit:
            self._small = 2 * plan.peak + GIB > self._platform.limit
        self.always = (plan.measures if plan.fits else self.forced) & _at_load()
        self.plan = plan
        log.info(
            "memory plan", model=title, plan=line(plan), measures=[str(m) for m in in_order(plan.measures)]
        )
        if Measure.FP8_WEIGHTS in self.always and Measure.FP8_WEIGHTS not in self.forced:
            log.warning(
                "weights are stored in 8 bits so that images fit: pictures differ a little from those at full precision"
            )
        return plan

    def check(self, request: GenerationRequest, paths: list[str], beside: int = 0) -> Plan:
        """The plan for ``request`` on the checkpoints at ``paths`` (its own first). Raises :class:`OutOfMemory`.

        ``beside``: bytes of other weights that it needs on the device, such as another VAE.
        """
        distinct = list(dict.fromkeys(paths))
        sizes = {path: self._weights(path) for path in distinct}
        work = work_of(request)
        on, allowed = self.always | self.forced, frozenset(m for m in self.allowed if NATURE[m].per_request)
        plans = []
        for path in distinct:
            own = self.architecture(path)
            if not self._device.is_cuda and "<lora:" in request.prompt:
                work = replace(work, networks=own.parts["unet"].castable * self._itemsize)
            kept = beside + sum(size for other, size in sizes.items() if other != path)
            plan = choose_plan(own, work, self._platform, self._itemsize, allowed, on, kept)
            if not plan.fits:
                raise self._refusal(plan, allowed)
            plans.append(plan)
            on |= plan.measures
        return max(plans, key=lambda plan: plan.peak)

    def _weights(self, path: str) -> int:
        architecture = self.architecture(path)
        return architecture.size(architecture.parts, self._itemsize, fp8=Measure.FP8_WEIGHTS in self.always)

    def _refusal(self, plan: Plan, allowed: Measures) -> OutOfMemory:
        where = "GPU memory" if self._device.is_cuda else "memory"
        return OutOfMemory(
            f"An image of {plan.work} needs {plan.peak / GIB:.2f} GiB of {where} at its peak ({plan.stage.name}), and "
            f"{self._platform.limit / GIB:.2f} GiB are there: {cure(plan, allowed)}."
        )

    def resident(self, path: str) -> int:
        """Bytes of the checkpoint's weights that are on the device at once, as the plan at load has it."""
        architecture = self.architecture(path)
        plan = self.plan
        fp8 = Measure.FP8_WEIGHTS in self.always
        sizes = {name: architecture.size([name], self._itemsize, fp8=fp8) for name in architecture.parts}
        if plan is None or not self._device.is_cuda:
            return sum(sizes.values())
        if Measure.MODEL_OFFLOAD in plan.measures:
            return max(sizes.values())
        if Measure.TEXT_OFFLOAD in plan.measures:
            return sum(size for name, size in sizes.items() if name not in TEXT)
        return sum(sizes.values())

    @property
    def loads_in_main_memory(self) -> bool:
        """True if checkpoints are read there first: as they come they would not fit onto the GPU."""
        through = {Measure.FP8_WEIGHTS, Measure.MODEL_OFFLOAD, Measure.TEXT_OFFLOAD}
        return self._device.is_cuda and self.plan is not None and bool(through & self.plan.measures)

    def check_upscale(self, width: int, height: int) -> None:
        """Raise :class:`OutOfMemory` where an enlarged picture would not fit into main memory.

        It is put together there from pieces, in single precision with a weight for each pixel.
        """
        if self._device.is_cuda or not self._platform.limit:
            return
        loaded = sum(self._weights(path) for path in list(self._architectures)[:1])
        network = upscaler_peak(Upscaler(), TILE, TILE, self._itemsize)
        needed = self._platform.base + loaded + network + UPSCALED * width * height
        if needed > self._platform.limit:
            raise OutOfMemory(
                f"A picture of {width}×{height} needs {needed / GIB:.2f} GiB of memory, and "
                f"{self._platform.limit / GIB:.2f} GiB are there: ask for a smaller size."
            )

    # --- what it was ---------------------------------------------------------------------------------

    @contextmanager
    def measured(self, plan: Plan) -> Iterator[None]:
        """Measure the peak of what runs meanwhile, and keep it beside the plan's."""
        peaks.reset(self._device)
        try:
            yield
        finally:
            self.peaks = Peaks(plan.peak, peaks.highest(self._device, self._platform.base), plan.stage.name)
            if self.peaks.measured >= self.highest.measured:
                self.highest = self.peaks

    def numbers(self) -> dict[str, int]:
        """Bytes for metrics and ``/sdapi/v1/memory``."""
        plan = self.plan
        return {
            "plan_limit": self._platform.limit,
            "plan_base": self._platform.base,
            "plan_at_load": plan.peak if plan else 0,
            "plan_peak": self.peaks.planned,
            "measured_peak": self.peaks.measured,
        }


def _at_load() -> Measures:
    return frozenset(measure for measure, nature in NATURE.items() if not nature.per_request)


def _measures(text: str, device: Device, *, compiled: bool) -> tuple[Measures, Measures]:
    """(allowed, in force) from ``SD_MEASURES``."""
    possible = available("cuda" if device.is_cuda else "cpu") - (_MOVING if compiled else NONE)
    if text == "auto":
        return AUTO & possible, NONE
    forced = parse("" if text == "none" else text) & possible
    return forced, forced
