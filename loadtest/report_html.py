"""The report as one HTML page that needs nothing else: styles and plots are in it, no script, no link."""

from collections.abc import Iterable, Iterator
from html import escape

from loadtest import plots
from loadtest.report_text import overhead_sentence
from loadtest.result import Record, RunResult, Summary
from loadtest.statistics import percent_name

_CSS = """
:root { color-scheme: light; --ink: #26303d; --faint: #67727f; --line: #e3e8ee; --blue: #2f6fde; --red:
#d62839; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6f9; color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans",
sans-serif; } main { max-width: 1060px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.55rem; margin: 0 0 2px; } h2 { font-size: 1.05rem; margin: 0 0 8px; }
.sub { color: var(--faint); margin: 0 0 18px; overflow-wrap: anywhere; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 16px 20px; margin: 0
0 16px; } .tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(118px, 1fr)); gap: 10px;
margin: 0 0 16px; } .tile { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding:
10px 14px; } .tile b { display: block; font-size: 1.35rem; line-height: 1.3; font-variant-numeric:
tabular-nums; white-space: nowrap; } .tile span { color: var(--faint); font-size: .82rem; } .bad b, .bad {
color: var(--red); } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--faint); font-weight: 500; font-size: .85rem; }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap:
anywhere; } tr:last-child td { border-bottom: 0; } .n { text-align: right; white-space: nowrap; }
svg { width: 100%; height: auto; display: block; font-family: system-ui, "Segoe UI", "DejaVu Sans",
sans-serif; } .note { color: var(--faint); font-size: .88rem; margin: 6px 0 0; } ul { margin: 0; padding-left:
20px; } .two { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 0 16px; }
code { font-size: .88em; overflow-wrap: anywhere; } .swatch { display: inline-block; width: 10px; height:
10px; border-radius: 2px; } @media print { body { background: #fff; } section, .tile { break-inside: avoid; }
}
"""


def render(run: RunResult, title: str = "") -> str:
    """The page. Everything a server sent is escaped."""
    heading = title or f"Load test of {run.plan.url}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(heading)}</title><style>{_CSS}</style></head><body><main>"
        + "".join(_page(run, heading))
        + "</main></body></html>\n"
    )


def _page(run: RunResult, heading: str) -> Iterator[str]:
    yield f"<h1>{escape(heading)}</h1>"
    yield (
        f'<p class="sub">{escape(run.plan.method)} {escape(run.plan.url)} · {escape(run.plan.arrivals)}'
        f" · {run.started_at:%Y-%m-%d %H:%M} UTC</p>"
    )
    yield from _tiles(run)
    if run.notes:
        yield f"<section><h2>What to notice</h2><ul>{_each('li', run.notes)}</ul></section>"
    if run.thresholds:
        rows = [
            (
                f'<b class="{"bad" if one.broken else ""}">{"broken" if one.broken else "ok"}</b>',
                escape(one.rule),
                escape(one.text),
            )
            for one in run.thresholds
        ]
        yield _section("Thresholds", _table(("", "fails if", "found"), rows))
    colours = plots.Colours(run)
    timeline = plots.timeline(run, colours)
    if timeline:
        yield _section(
            "Timeline",
            timeline,
            "One bar a request, from its sending to its last byte, in the colour of the pod that served it; "
            "one row for each place in flight.",
        )
    sample = f"A uniform sample of {len(run.records):,} of {run.requests:,} requests. " if run.sampled else ""
    scatter = plots.latencies(run, colours)
    if scatter:
        yield _section("Latency over time", scatter, f"{sample}Latency counts from the intended start.")
    both = plots.concurrency(run)
    if both:
        yield _section(
            "Concurrency and pods",
            both,
            "Pods are known by their answers only: one counts from its first answer to its last.",
        )
    bars = plots.histogram(run)
    if bars:
        yield _section("Latency histogram", bars, "Successful requests.")
    yield '<div class="two">'
    yield _section("Percentiles", _percentiles(run.latency), _percentile_note(run.latency))
    yield _section("Parts of a request", _parts(run))
    yield "</div>"
    if run.pods:
        yield _section(
            "Pods", _pods(run), "" if len(run.pods) <= 100 else f"The first 100 of {len(run.pods)}."
        )
    if run.failures:
        failures = [
            (f"{one.count}", escape(one.kind), escape(one.example), f"{one.first:.1f}–{one.last:.1f} s")
            for one in run.failures
        ]
        yield _section("Failures", _table(("count", "kind", "example", "when"), failures, numbers=(0,)))
    if len(run.groups) > 1:
        groups = [
            (escape(name), f"{part.count}", f"{part.mean:.3f}", f"{part.fastest:.3f}", f"{part.slowest:.3f}")
            for name, part in list(run.groups.items())[:100]
        ]
        head = ("request", "count", "average, s", "fastest, s", "slowest, s")
        yield _section("By request", _table(head, groups, numbers=(1, 2, 3, 4)))
    if run.slowest:
        yield _section("Slowest requests", _slowest(run, run.slowest))
    yield _section("This run", _plan(run), escape(overhead_sentence(run)))


def _tiles(run: RunResult) -> Iterator[str]:
    latency = run.latency
    tiles = [(f"{run.total:.1f} s", "total", False), (f"{run.throughput:.3g}/s", "successes", False)]
    for percent in (50, 90, 95):
        value = latency.at(percent)
        tiles.append((f"{value:.2f} s" if value is not None else "–", f"P{percent}", False))
    if run.streaming is not None and run.streaming.first_progress.count:
        first = run.streaming.first_progress
        middle = first.at(50)
        tiles.append((f"{middle if middle is not None else first.mean:.2f} s", "first progress", False))
    tiles.append((f"{run.succeeded:,}/{run.requests:,}", "succeeded", run.failed > 0))
    if run.pods:
        tiles.append((f"{len(run.pods)}", "pods", False))
        tiles.append((f"{run.cold_starts}", "cold starts", False))
    if run.stickiness is not None:
        tiles.append((f"{run.stickiness.share:.0%}", "stayed on their pod", False))
    yield '<div class="tiles">'
    for text, name, bad in tiles:
        yield f'<div class="tile{" bad" if bad else ""}"><b>{text}</b><span>{name}</span></div>'
    yield "</div>"


def _percentiles(summary: Summary) -> str:
    rows = []
    for one in summary.percentiles:
        if one.value is None:
            rows.append((f"P{percent_name(one.percent)}", "–", f"needs {one.needed:,} requests"))
        else:
            low = f"{one.low:.3f}" if one.low is not None else "?"
            high = f"{one.high:.3f}" if one.high is not None else "?"
            rows.append((f"P{percent_name(one.percent)}", f"{one.value:.3f}", f"{low} – {high}"))
    rows.append(("average", f"{summary.mean:.3f}", ""))
    rows.append(("fastest – slowest", "", f"{summary.fastest:.3f} – {summary.slowest:.3f}"))
    return _table(("", "seconds", "90 % interval"), rows, numbers=(1,))


def _percentile_note(summary: Summary) -> str:
    read = "" if summary.exact else " Read from a histogram, at most 0.25 % off."
    return (
        f"{summary.count:,} successful requests. Intervals are distribution-free and assume independent "
        f"requests; “?” means that the sample sets no bound.{read}"
    )


def _parts(run: RunResult) -> str:
    names = {
        "connect": "connect (DNS, TCP, TLS)",
        "write": "send",
        "wait": "wait for the answer",
        "read": "read it",
    }
    rows = [
        (names[name], f"{part.mean:.4f}", f"{part.fastest:.4f}", f"{part.slowest:.4f}")
        for name, part in run.phases.items()
    ]
    if run.streaming is not None:
        for label, part in (
            ("to started", run.streaming.started),
            ("to progress", run.streaming.first_progress),
        ):
            rows.append((label, f"{part.mean:.4f}", f"{part.fastest:.4f}", f"{part.slowest:.4f}"))
        rows.append(("longest silence", "", "", f"{run.streaming.longest_silence:.4f}"))
    for label, part in (("cold", run.cold), ("warm", run.warm)):
        if run.cold.count and part.count:
            rows.append(
                (f"{label} ({part.count})", f"{part.mean:.4f}", f"{part.fastest:.4f}", f"{part.slowest:.4f}")
            )
    return _table(("", "average, s", "fastest", "slowest"), rows, numbers=(1, 2, 3))


def _pods(run: RunResult) -> str:
    order = sorted(range(len(run.pods)), key=lambda index: run.pods[index].first)
    rows = []
    for place, index in enumerate(order[:100]):
        pod = run.pods[index]
        colour = plots.PALETTE[place % len(plots.PALETTE)]
        rows.append(
            (
                f'<span class="swatch" style="background:{colour}"></span> {escape(pod.name)}',
                f"{pod.answers}",
                f"{pod.failures}",
                f"{pod.cold_starts}",
                f"{pod.mean:.3f}",
                f"{pod.slowest:.3f}",
                f"{pod.first:.1f}–{pod.last:.1f} s",
            )
        )
    head = ("pod", "answers", "failed", "cold starts", "average, s", "slowest, s", "first – last answer")
    return _table(head, rows, numbers=(1, 2, 3, 4, 5, 6))


def _slowest(run: RunResult, records: Iterable[Record]) -> str:
    rows = [
        (
            f"{one.latency:.3f}",
            f"{one.intended:.2f}",
            escape(run.pods[one.pod].name if one.pod >= 0 else "–"),
            "cold start" if one.cold else "",
            f"<code>{escape(one.request_id)}</code>" if one.request_id else "–",
        )
        for one in records
    ]
    return _table(("latency, s", "start, s", "pod", "", "request id"), rows, numbers=(0, 1))


def _plan(run: RunResult) -> str:
    plan = run.plan
    kind = (
        "event stream" if plan.stream else "plain",
        "kept-alive connections" if plan.keep_alive else "a connection for each request",
        f"{plan.sessions} sessions with cookies" if plan.sessions else "no cookies",
        "Retry-After honoured" if plan.honour_retry_after else "no retries",
    )
    more = f" and {plan.bodies - 1} more" if plan.bodies > 1 else ""
    within = f", starts within {plan.duration:g} s" if plan.duration else ""
    rows = [
        ("target", f"<code>{escape(plan.method)} {escape(plan.url)}</code>"),
        ("arrivals", escape(plan.arrivals) + (f", think time {escape(plan.think)}" if plan.think else "")),
        ("asked for", f"{plan.requests or 'as many as fit'} requests{within}, {plan.timeout:g} s each"),
        ("body", f"<code>{escape(plan.body) or '–'}</code>{more}"),
        ("kind", ", ".join(kind)),
        ("seed", f"{plan.seed}"),
        ("answers", f"{run.size:,} bytes" + (f", {run.retries} retries" if run.retries else "")),
    ]
    return _table(("", ""), rows)


def _section(title: str, body: str, note: str = "") -> str:
    after = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{body}{after}</section>"


def _each(tag: str, texts: Iterable[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], numbers: tuple[int, ...] = ()) -> str:
    """A table; cells are HTML already."""

    def cells(tag: str, row: Iterable[str]) -> str:
        return "".join(
            f'<{tag} class="n">{cell}</{tag}>' if index in numbers else f"<{tag}>{cell}</{tag}>"
            for index, cell in enumerate(row)
        )

    names = list(head)
    top = f"<tr>{cells('th', names)}</tr>" if any(names) else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table>{top}{body}</table>"
