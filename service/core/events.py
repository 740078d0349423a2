"""What is told of a job while it waits and runs; its end is no event but a result or an error."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from service.core.pixels import Pixels

Stage: TypeAlias = Literal[
    "queue", "text_encoding", "image_encoding", "denoising", "decode", "upscale", "encoding"
]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running request is. ``step`` counts sampler steps done in the current batch and pass."""

    step: int
    steps: int
    image_index: int
    """Index of the first image of the running batch."""
    job_no: int
    """Finished passes (a batch has one, with hires fix two)."""
    job_count: int
    stage: Stage
    elapsed: float
    """Seconds since the device was taken."""
    preview: Pixels | None = None

    @property
    def fraction(self) -> float:
        """0..1 over all passes."""
        within = self.step / self.steps if self.steps else 0.0
        return min(1.0, (self.job_no + within) / self.job_count) if self.job_count else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds that are left at the pace so far; None before the first step."""
        done = self.fraction
        return self.elapsed / done - self.elapsed if done > 0 else None


ProgressSink: TypeAlias = Callable[[Progress], None]
"""Called in the engine's thread after each step; must be quick and must not raise."""


@dataclass(slots=True)
class Timings:
    """Seconds per stage of one request, filled as it goes."""

    stages: dict[Stage, float] = field(default_factory=dict)

    def add(self, stage: Stage, seconds: float) -> None:
        """Count ``seconds`` (of wall time) for ``stage``."""
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds


@dataclass(frozen=True, slots=True)
class Queued:
    """The task waits; ``position`` requests stand before it, the one on the device included."""

    position: int


@dataclass(frozen=True, slots=True)
class Started:
    """The task has the device."""


TaskEvent: TypeAlias = Queued | Started | Progress
"""What listeners are told; the end is not an event but the return (or the exception) of the backend."""
