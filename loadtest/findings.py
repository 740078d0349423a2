"""What a report means, in sentences: the few things about a run that its reader should not overlook."""

from loadtest.result import RunResult


def floor(run: RunResult) -> float | None:
    """Seconds that the run would have taken on its own pods, warm and evenly used, at its fastest pace.

    Every successful image at the latency of the fastest one, spread over the pods that were seen (no more of
    them than requests went out at a time). None where pods are unknown or arrivals set the pace.
    """
    if not run.pods or not run.succeeded or run.plan.concurrency is None or run.plan.think:
        return None
    lanes = min(len(run.pods), run.plan.concurrency)
    rounds = -(-run.succeeded // lanes)
    return rounds * run.latency.fastest


def counted(number: int, noun: str) -> str:
    """``1 pod``, ``2 pods``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def findings(run: RunResult, held_back: int = 0) -> list[str]:
    """Sentences, most important first; empty if there is nothing to say."""
    found: list[str] = []
    if run.interrupted:
        found.append(
            f"Interrupted: {counted(run.unfinished, 'request')} still in flight, counted nowhere else."
        )
    if run.requests and not run.succeeded:
        found.append("Not one request succeeded.")
    elif run.failed:
        found.append(
            f"{run.failed} of {run.requests} requests failed; the latencies below are those of the "
            f"{run.succeeded} that succeeded."
        )
    least = floor(run)
    if least and not run.interrupted and run.total > 1.1 * least:
        found.append(
            f"The floor is {least:.1f} s ({run.succeeded} images at the fastest {run.latency.fastest:.2f} s "
            f"over {min(len(run.pods), run.plan.concurrency or 1)} warm, evenly used pods); "
            f"this run took {run.total / least:.1f} times as long."
        )
    busiest = max(run.pods, key=lambda pod: pod.answers, default=None)
    answers = sum(pod.answers for pod in run.pods)
    if busiest and len(run.pods) > 1 and answers >= 10 and busiest.answers > 1.5 * answers / len(run.pods):
        found.append(
            f"Uneven: {busiest.name} served {busiest.answers} of {answers} "
            f"({busiest.answers / answers:.0%}; evenly {1 / len(run.pods):.0%}). Where one pod works "
            "and others idle, the activator may have fallen back to the ClusterIP: set "
            "mesh-compatibility-mode: disabled in config-network."
        )
    middle = run.latency.at(50)
    if (
        len(run.pods) == 1
        and (run.plan.concurrency or 0) > 1
        and middle
        and middle > 1.5 * run.latency.fastest
    ):
        found.append(
            f"One pod answered everything while {run.plan.concurrency} requests were in flight: they waited for "
            f"each other (the median took {middle / run.latency.fastest:.1f} times as long as the fastest)."
        )
    if run.cold_starts and run.warm.count and run.cold.count:
        found.append(
            f"{counted(run.cold_starts, 'cold start')}: {run.cold.mean:.1f} s a request on average, "
            f"{run.warm.mean:.1f} s for the others."
        )
    if run.stickiness and run.stickiness.same_pod + run.stickiness.other_pod:
        one = run.stickiness
        found.append(
            f"Sessions stayed on their pod in {one.share:.0%} of {one.same_pod + one.other_pod} follow-up "
            f"requests (by chance: {one.by_chance:.0%})."
        )
    if held_back:
        found.append(
            f"{counted(held_back, 'request')} had to wait in this client: --max-in-flight was reached."
        )
    delay = run.start_delay.at(99) or 0.0
    found.extend(run.overhead.warnings(run.latency.at(50) or run.latency.mean, delay))
    return found
