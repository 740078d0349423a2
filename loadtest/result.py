"""What a run found, as data: the JSON that reports are drawn from and that ``compare`` reads.

All times are seconds, ``at`` fields since the start of the run. ``None`` stands for what the sample can't bear.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from loadtest.client import Exchange
from loadtest.latencies import Latencies
from loadtest.options import OptionError
from loadtest.overhead import Overhead
from loadtest.statistics import PERCENTILES, needed
from loadtest.tally import RECORDS, Tally

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for, as far as a reader of the report needs it. Holds no header values and no password."""

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


def summarise(log: Latencies) -> Summary:
    """A log in brief."""
    percentiles = []
    for percent in PERCENTILES:
        value = log.percentile(percent)
        low, high = log.interval(percent) if value is not None else (None, None)
        percentiles.append(Percentile(percent, value, low, high, needed(percent)))
    return Summary(
        count=log.count,
        mean=log.mean,
        fastest=log.low if log.count else 0.0,
        slowest=log.high,
        percentiles=tuple(percentiles),
        exact=log.exact,
    )


def build(
    plan: Plan,
    tally: Tally,
    overhead: Overhead,
    *,
    started_at: datetime | None = None,
    unfinished: int = 0,
    interrupted: bool = False,
    total: float | None = None,
) -> RunResult:
    """The result of a run that has ended."""
    names = {name: index for index, name in enumerate(tally.pods)}
    seconds = max(tally.last_done, 1e-9) if total is None else total
    return RunResult(
        format=FORMAT,
        started_at=started_at or datetime.now(UTC),
        plan=plan,
        total=seconds,
        requests=tally.count,
        succeeded=tally.succeeded,
        unfinished=unfinished,
        interrupted=interrupted,
        retries=tally.retries,
        size=tally.bytes,
        throughput=tally.succeeded / seconds if seconds else 0.0,
        latency=summarise(tally.latencies),
        warm=summarise(tally.warm_latencies),
        cold=summarise(tally.cold_latencies),
        phases={name: summarise(log) for name, log in tally.phases.items()},
        start_delay=summarise(tally.start_delays),
        statuses=dict(sorted(tally.statuses.items())),
        failures=tuple(
            Failure(kind, one.count, one.first, one.last, one.example)
            for kind, one in sorted(tally.failures.items(), key=lambda item: -item[1].count)
        ),
        pods=tuple(
            Pod(
                name,
                pod.answers,
                pod.failures,
                pod.cold_starts,
                pod.first,
                pod.last,
                pod.latencies.mean,
                pod.latencies.high,
            )
            for name, pod in tally.pods.items()
        ),
        cold_starts=tally.cold_starts,
        cold_marks=tuple(ColdMark(mark.at, mark.latency, mark.pod) for mark in tally.cold_marks),
        groups={name: summarise(log) for name, log in tally.groups.items()},
        stickiness=_stickiness(plan, tally),
        streaming=_streaming(plan, tally),
        timeline=_timeline(tally),
        histogram=tuple(tally.latencies.buckets().items()),
        bars=_bars(tally.latencies),
        records=tuple(_record(one, names) for one in tally.sample()),
        sampled=tally.count > RECORDS,
        slowest=tuple(_record(one, names) for one in tally.slowest()),
        overhead=overhead,
        notes=(),
    )


def _stickiness(plan: Plan, tally: Tally) -> Stickiness | None:
    if not plan.sessions:
        return None
    answers = sum(pod.answers for pod in tally.pods.values())
    chance = sum((pod.answers / answers) ** 2 for pod in tally.pods.values()) if answers else 0.0
    return Stickiness(plan.sessions, tally.stuck, tally.moved, chance)


def _streaming(plan: Plan, tally: Tally) -> Streaming | None:
    if not plan.stream:
        return None
    return Streaming(
        started=summarise(tally.started_after),
        first_progress=summarise(tally.progress_after),
        progress_events=tally.progress_events,
        longest_silence=tally.silences.high,
    )


def _timeline(tally: Tally) -> Timeline:
    line = tally.timeline
    return Timeline(
        width=line.width,
        started=_integers(line.started[: line.used].tolist()),
        succeeded=_integers(line.succeeded[: line.used].tolist()),
        failed=_integers(line.failed[: line.used].tolist()),
        concurrency=tuple(float(value) for value in line.busy[: line.used] / line.width),
    )


def _bars(log: Latencies) -> tuple[tuple[float, int], ...]:
    """hey's histogram: the fastest alone, then ten equal steps to the slowest."""
    if not log.count:
        return ()
    step = (log.high - log.low) / 10
    edges = [*(log.low + step * index for index in range(10)), log.high]
    return tuple(zip(edges, log.counts_between(edges), strict=True))


def _integers(values: Sequence[float]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _record(one: Exchange, names: dict[str, int]) -> Record:
    return Record(
        intended=one.intended,
        sent=one.sent,
        done=one.done,
        status=one.status,
        failure=one.failure,
        pod=names.get(one.pod, -1),
        cold=one.cold,
        session=one.session,
        group=one.group,
        request_id=one.request_id,
        attempts=one.attempts,
        first_progress=one.first_progress,
    )
