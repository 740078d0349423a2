"""What a run found, as data: the JSON that reports are drawn from and that ``compare`` reads.

All times are seconds, ``at`` fields since the start of the run. ``None`` stands for what the sample can't
bear.
"""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from loadtest.options import OptionError
from loadtest.overhead import Overhead

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for, as far as a reader of the report needs it. No header values, no password."""

    url: str
    method: str
    arrivals: str
    """In words: ``closed loop, 5 at a time`` or ``Poisson, 0.5/s``."""
    concurrency: int | None
    requests: int | None
    duration: float | None
    timeout: float
    stream: bool
    body: str
    """The start of the first body."""
    bodies: int
    sessions: int
    think: str
    seed: int
    honour_retry_after: bool
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class Percentile:
    """One percentile with its 90 % interval."""

    percent: float
    value: float | None
    """None: the sample can't bear it."""
    low: float | None
    high: float | None
    needed: int
    """Requests that would bear it."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A sample of durations in brief; all zero if it is empty."""

    count: int
    mean: float
    fastest: float
    slowest: float
    percentiles: tuple[Percentile, ...]
    exact: bool
    """False: percentiles are read from the histogram, at most 0.25 % off."""

    def at(self, percent: float) -> float | None:
        """The value of ``percent``, or None where it isn't reported."""
        return next((one.value for one in self.percentiles if one.percent == percent), None)


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod that answered."""

    name: str
    answers: int
    failures: int
    cold_starts: int
    first: float
    last: float
    mean: float
    slowest: float


@dataclass(frozen=True, slots=True)
class ColdMark:
    """An answer that was the first of its process."""

    at: float
    latency: float
    pod: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A kind of failure."""

    kind: str
    count: int
    first: float
    last: float
    example: str


@dataclass(frozen=True, slots=True)
class Stickiness:
    """Whether sessions stayed on their pod."""

    sessions: int
    same_pod: int
    other_pod: int
    by_chance: float
    """Share that would stay if pods were drawn at random in the proportions in which they served."""

    @property
    def share(self) -> float:
        """Share of a session's later requests that the previous request's pod answered."""
        total = self.same_pod + self.other_pod
        return self.same_pod / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Timeline:
    """Per bin of ``width`` seconds, from 0."""

    width: float
    started: tuple[int, ...]
    succeeded: tuple[int, ...]
    failed: tuple[int, ...]
    concurrency: tuple[float, ...]
    """Mean requests in flight."""


@dataclass(frozen=True, slots=True)
class Record:
    """One request. ``pod`` is an index into the result's pods, -1 for none."""

    intended: float
    sent: float
    done: float
    status: int
    failure: str
    pod: int
    cold: bool
    session: int
    group: str
    request_id: str
    attempts: int
    first_progress: float | None

    @property
    def latency(self) -> float:
        """From the intended start to the last byte."""
        return self.done - self.intended


@dataclass(frozen=True, slots=True)
class Streaming:
    """What only event streams tell."""

    started: Summary
    first_progress: Summary
    progress_events: int
    longest_silence: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A threshold and how it fared."""

    rule: str
    broken: bool
    text: str


@dataclass(frozen=True, slots=True)
class RunResult:
    """A whole run."""

    format: int
    started_at: datetime
    plan: Plan
    total: float
    """Seconds from the start to the last answer."""
    requests: int
    succeeded: int
    unfinished: int
    """In flight when the run was interrupted; counted nowhere else."""
    interrupted: bool
    retries: int
    size: int
    """Bytes of all answers' bodies."""
    throughput: float
    """Successful requests a second."""
    latency: Summary
    warm: Summary
    cold: Summary
    phases: dict[str, Summary]
    start_delay: Summary
    statuses: dict[int, int]
    failures: tuple[Failure, ...]
    pods: tuple[Pod, ...]
    cold_starts: int
    cold_marks: tuple[ColdMark, ...]
    groups: dict[str, Summary]
    stickiness: Stickiness | None
    streaming: Streaming | None
    timeline: Timeline
    histogram: tuple[tuple[float, int], ...]
    """(middle of the bucket, count), buckets half a percent wide."""
    bars: tuple[tuple[float, int], ...]
    """hey's histogram: (upper edge, count)."""
    records: tuple[Record, ...]
    sampled: bool
    """True: ``records`` is a uniform sample; False: all requests."""
    slowest: tuple[Record, ...]
    overhead: Overhead
    thresholds: tuple[Verdict, ...] = ()
    kind: Literal["knative-diffusion load test"] = "knative-diffusion load test"
    notes: tuple[str, ...] = field(default=())

    @property
    def failed(self) -> int:
        """Requests that ended without what was asked for."""
        return self.requests - self.succeeded

    def to_json(self) -> bytes:
        """The result as JSON."""
        return _ADAPTER.dump_json(self, indent=1)

    @classmethod
    def read(cls, path: Path) -> "RunResult":
        """Read a result from a file; raises :class:`OptionError` with a sentence if it isn't one."""
        try:
            result = _ADAPTER.validate_json(path.read_bytes())
        except OSError as error:
            raise OptionError(f"{path} can't be read: {error.strerror}.") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise OptionError(
                f"{path} is no report of `loadtest run --json` ({where}: {first['msg'].lower()})."
            ) from None
        if result.format != FORMAT:
            raise OptionError(f"{path} has format {result.format}; this version reads {FORMAT}.")
        return result


_ADAPTER: Final = TypeAdapter(RunResult)
