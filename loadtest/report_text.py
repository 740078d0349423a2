"""The report as text: hey's layout first, line for line, then what hey can't know."""

from collections.abc import Iterator

from loadtest.findings import counted
from loadtest.result import RunResult, Summary
from loadtest.statistics import percent_name

_BAR = "■"
_PHASES = {"connect": "DNS+dialup", "write": "req write", "wait": "resp wait", "read": "resp read"}


def render(run: RunResult) -> str:
    """The whole report, ending in a line feed."""
    return "\n".join((*_lines(run), ""))


def _lines(run: RunResult) -> Iterator[str]:
    yield ""
    yield "Summary:"
    yield f"  Total:\t{run.total:.4f} secs"
    yield f"  Slowest:\t{run.latency.slowest:.4f} secs"
    yield f"  Fastest:\t{run.latency.fastest:.4f} secs"
    yield f"  Average:\t{run.latency.mean:.4f} secs"
    yield f"  Requests/sec:\t{run.requests / run.total if run.total else 0:.4f}"
    yield "  "
    yield f"  Total data:\t{run.size} bytes"
    yield f"  Size/request:\t{run.size // run.requests if run.requests else 0} bytes"
    yield ""
    if run.latency.count:
        yield "Response time histogram:"
        yield from _histogram(run)
        yield ""
        yield ""
        yield "Latency distribution:"
        yield from _distribution(run.latency)
        yield ""
        yield "Details (average, fastest, slowest):"
        for name, label in _PHASES.items():
            one = run.phases[name]
            yield f"  {label}:\t{one.mean:.4f} secs, {one.fastest:.4f} secs, {one.slowest:.4f} secs"
        yield ""
    if run.statuses:
        yield "Status code distribution:"
        for status, count in run.statuses.items():
            yield f"  [{status}]\t{count} responses"
        yield ""
    if run.failures:
        yield "Error distribution:"
        for failure in run.failures:
            example = f": {failure.example}" if failure.example else ""
            yield f"  [{failure.count}]\t{failure.kind}{example}"
        yield ""
    yield from _beyond_hey(run)


def _histogram(run: RunResult) -> Iterator[str]:
    most = max((count for _, count in run.bars), default=0)
    for edge, count in run.bars:
        yield f"  {edge:4.3f} [{count}]\t|{_BAR * ((count * 40 + most // 2) // most if most else 0)}"


def _distribution(summary: Summary) -> Iterator[str]:
    refused = []
    for one in summary.percentiles:
        if one.value is None:
            refused.append(one)
        else:
            yield f"  {percent_name(one.percent)}% in {one.value:.4f} secs"
    if refused:
        names = ", ".join(f"{percent_name(one.percent)}% ({one.needed} needed)" for one in refused)
        yield f"  not reported, {summary.count} requests can't bear them: {names}"


def _beyond_hey(run: RunResult) -> Iterator[str]:
    if run.pods:
        yield f"Pods ({len(run.pods)}; {counted(run.cold_starts, 'cold start')}):"
        width = max(len(pod.name) for pod in run.pods[:50])
        for pod in sorted(run.pods, key=lambda one: one.first)[:50]:
            yield (
                f"  {pod.name:<{width}}  {pod.answers:>6} answers  average {pod.mean:8.3f} secs"
                f"  seen {pod.first:8.1f}–{pod.last:.1f} s"
                + (f"  {pod.cold_starts} cold" if pod.cold_starts else "")
            )
        if len(run.pods) > 50:
            yield f"  and {len(run.pods) - 50} more"
        yield ""
    if run.cold.count and run.warm.count:
        yield "Cold and warm (average, fastest, slowest):"
        for name, part in (("cold", run.cold), ("warm", run.warm)):
            yield (
                f"  {name}:\t{part.mean:.4f} secs, {part.fastest:.4f} secs, {part.slowest:.4f} secs"
                f" ({counted(part.count, 'request')})"
            )
        yield ""
    if run.streaming is not None:
        yield "Streaming (average, fastest, slowest):"
        for name, part in (("started", run.streaming.started), ("progress", run.streaming.first_progress)):
            yield f"  first {name}:\t{part.mean:.4f} secs, {part.fastest:.4f} secs, {part.slowest:.4f} secs"
            bits = [
                f"{percent_name(p.percent)}% in {p.value:.4f}"
                for p in part.percentiles
                if p.value is not None
            ]
            if bits:
                yield f"    {', '.join(bits)} secs"
        yield f"  longest silence:\t{run.streaming.longest_silence:.4f} secs"
        yield f"  progress events:\t{run.streaming.progress_events}"
        yield ""
    if len(run.groups) > 1:
        yield "By request (average, fastest, slowest):"
        for name, part in list(run.groups.items())[:50]:
            yield (
                f"  {name}:\t{part.mean:.4f} secs, {part.fastest:.4f} secs, {part.slowest:.4f} secs"
                f" ({counted(part.count, 'request')})"
            )
        yield ""
    if run.retries:
        yield f"Retries after Retry-After: {run.retries}"
        yield ""
    yield overhead_sentence(run)
    yield ""
    if run.notes:
        yield "Findings:"
        for note in run.notes:
            yield f"  * {note}"
        yield ""
    if run.thresholds:
        yield "Thresholds:"
        for verdict in run.thresholds:
            yield f"  {'BROKEN' if verdict.broken else 'ok    '}  {verdict.rule}: {verdict.text}"
        yield ""


def overhead_sentence(run: RunResult) -> str:
    """What the client itself cost, in one sentence."""
    one = run.overhead
    parts = []
    if one.per_request is not None and one.bare is not None:
        parts.append(
            f"{one.per_request * 1e3:.2f} ms a request (measured on the loopback before the run, a bare "
            f"socket's {one.bare * 1e3:.2f} ms taken off)"
        )
    late = f"P99 {one.loop_late_p99 * 1e3:.1f} ms, " if one.loop_late_p99 is not None else ""
    parts.append(f"event loop late by {late}at most {one.loop_late_max * 1e3:.1f} ms")
    parts.append(f"{one.cpu:.0%} of a core")
    return f"This client's own share: {'; '.join(parts)}."
