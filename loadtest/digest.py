"""From what was added up to what is reported: a :class:`Tally` becomes a :class:`RunResult`."""

from collections.abc import Sequence
from datetime import UTC, datetime

from loadtest.exchange import Exchange
from loadtest.latencies import Latencies
from loadtest.overhead import Overhead
from loadtest.result import (
    FORMAT,
    ColdMark,
    Failure,
    Percentile,
    Plan,
    Pod,
    Record,
    RunResult,
    Stickiness,
    Streaming,
    Summary,
    Timeline,
)
from loadtest.statistics import PERCENTILES, needed
from loadtest.tally import RECORDS, Tally


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
