"""The plots of a report, each as one inline SVG. Colours name pods: the same pod has the same colour
everywhere.
"""

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from loadtest.result import Record, RunResult

PALETTE: Final = (
    "#2f6fde", "#e8842c", "#2a9d6f", "#b24fc3", "#c9a400",
    "#17a2b8", "#8a5a3c", "#6c7a89", "#d6567f", "#5b8c00",
)  # fmt: skip
FAILED: Final = "#d62839"
COLD: Final = "#0b2e59"
INK: Final = "#26303d"
FAINT: Final = "#8993a1"
GRID: Final = "#e6eaf0"
LANES: Final = 60
"""Most rows of the timeline; a wider run shows its latencies alone."""
BARS: Final = 1200
"""Most requests drawn as bars."""
LEGEND: Final = 12
_STYLE: Final[Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.edgecolor": "#c4ccd6",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}


class Colours:
    """Pods to colours, in the order in which they first answered."""

    def __init__(self, run: RunResult) -> None:
        order = sorted(range(len(run.pods)), key=lambda index: run.pods[index].first)
        self._of = {index: PALETTE[place % len(PALETTE)] for place, index in enumerate(order)}
        self._order = order
        self._names = short_names([pod.name for pod in run.pods])

    def of(self, record: Record) -> str:
        """The colour of a request: its pod's, red for a failure, grey where the pod is unknown."""
        return FAILED if record.failure else self._of.get(record.pod, FAINT)

    def legend(self) -> list[Patch | Line2D]:
        """Entries for the first pods; empty if there are none, or too many to tell apart."""
        if not 0 < len(self._order) <= LEGEND:
            return []
        return [Patch(color=self._of[index], label=self._names[index]) for index in self._order]


def short_names(names: Sequence[str]) -> list[str]:
    """Pod names without what they share at the front, printable and at most 24 characters long."""
    shared = ""
    if len(names) > 1:
        first, last = min(names), max(names)
        length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
        shared = first[: first.rfind("-", 0, length) + 1]
    return [_printable(name[len(shared) :])[-24:] or "?" for name in names]


def timeline(run: RunResult, colours: Colours) -> str | None:
    """Each request as a bar, one row for each place in flight; None if there are too many."""
    records = run.records
    if not records or run.sampled or len(records) > BARS:
        return None
    rows = _lanes(records)
    count = max(rows) + 1
    if count > LANES:
        return None
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(max(1.6, min(7.0, 0.9 + 0.24 * count)))
        width = max(1.5, min(11.0, 150.0 / count))
        axes.add_collection(
            LineCollection(
                [[(one.sent, row), (one.done, row)] for one, row in zip(records, rows, strict=True)],
                colors=[colours.of(one) for one in records],
                linewidths=width,
                capstyle="butt",
            )
        )
        # Gaps between neighbours of the same colour, and the wait for the server before a late answer.
        axes.scatter(
            [one.done for one in records],
            rows,
            marker="|",
            s=width**2,
            color="white",
            linewidths=1,
            zorder=2.5,
        )
        late = [
            (one.intended, one.sent, row)
            for one, row in zip(records, rows, strict=True)
            if one.sent - one.intended > run.total / 500
        ]
        axes.add_collection(
            LineCollection([[(a, row), (b, row)] for a, b, row in late], colors=FAINT, linewidths=1.5)
        )
        cold = [(one.done, row) for one, row in zip(records, rows, strict=True) if one.cold]
        if cold:
            axes.scatter(
                [x for x, _ in cold],
                [y for _, y in cold],
                marker="D",
                s=34,
                color=COLD,
                edgecolors="white",
                zorder=3,
            )
        axes.set_xlim(0, run.total * 1.01)
        axes.set_ylim(count - 0.4, -0.6)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(count, 8)))
        axes.grid(axis="y", visible=False)
        axes.set_ylabel("in flight")
        axes.set_xlabel("seconds since the start")
        _legend(axes, colours, run, bool(cold))
        return _svg(figure, "timeline", f"Timeline of {len(records)} requests, coloured by pod")


def latencies(run: RunResult, colours: Colours) -> str | None:
    """Latency of each request over its intended start."""
    if not run.records:
        return None
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(3.2)
        many = len(run.records) > 1500
        axes.scatter(
            [one.intended for one in run.records],
            [one.latency for one in run.records],
            c=[colours.of(one) for one in run.records],
            s=8 if many else 22,
            alpha=0.55 if many else 0.9,
            linewidths=0,
            rasterized=many,
        )
        cold = [one for one in run.records if one.cold]
        if cold:
            axes.scatter(
                [one.intended for one in cold],
                [one.latency for one in cold],
                marker="D",
                s=30,
                facecolors="none",
                edgecolors=COLD,
                linewidths=1.2,
            )
        axes.set_xlim(0, run.total * 1.01)
        axes.set_ylim(0, None)
        axes.set_ylabel("latency, s")
        axes.set_xlabel("intended start, seconds since the start")
        _legend(axes, colours, run, bool(cold))
        return _svg(figure, "latencies", "Latency of each request over its intended start")


def concurrency(run: RunResult) -> str | None:
    """Requests in flight and pods seen over time, with cold starts and failures marked."""
    line = run.timeline
    if not line.concurrency:
        return None
    edges = [min(index * line.width, run.total) for index in range(len(line.concurrency) + 1)]
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(3.0)
        axes.stairs(line.concurrency, edges, fill=True, color=PALETTE[0], alpha=0.18)
        axes.stairs(line.concurrency, edges, color=PALETTE[0], linewidth=1.4, label="requests in flight")
        steps = _pods_over_time(run)
        if steps:
            axes.step(
                *zip(*steps, strict=True), where="post", color=PALETTE[1], linewidth=2, label="pods seen"
            )
        top = max([*line.concurrency, *(count for _, count in steps), 1])
        for place, mark in enumerate(run.cold_marks[:200]):
            label = "first answer of a cold pod" if place == 0 else None
            axes.axvline(mark.at, color=COLD, linewidth=1, linestyle=(0, (3, 2)), alpha=0.75, label=label)
        failed = [(edges[index], count) for index, count in enumerate(line.failed) if count]
        if failed:
            axes.scatter(
                [x for x, _ in failed],
                [top * 1.06] * len(failed),
                marker="x",
                s=26,
                color=FAILED,
                label="failures",
            )
        axes.set_xlim(0, run.total * 1.01)
        axes.set_ylim(0, top * 1.15)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_xlabel("seconds since the start")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, borderaxespad=0, fontsize=9)
        return _svg(figure, "concurrency", "Concurrency and pods over time")


def histogram(run: RunResult) -> str | None:
    """The latency histogram with its percentiles; on a log scale if latencies span a factor of 40."""
    if not run.histogram:
        return None
    fastest, slowest = max(run.latency.fastest, 1e-6), max(run.latency.slowest, 1e-6)
    log = slowest / fastest > 40
    values = np.array([value for value, _ in run.histogram])
    counts = np.array([count for _, count in run.histogram], dtype=float)
    bins = int(min(60, max(12, 2 * np.sqrt(run.latency.count))))
    spread = max(slowest - fastest, slowest * 0.02)
    edges = (
        np.geomspace(fastest * 0.995, slowest * 1.005, bins + 1)
        if log
        else np.linspace(fastest - spread * 0.005, fastest + spread * 1.005, bins + 1)
    )
    values = np.clip(values, edges[0], edges[-1])
    heights, _ = np.histogram(values, bins=edges, weights=counts)
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(3.0)
        axes.stairs(heights, edges, fill=True, color=PALETTE[0], alpha=0.85)
        cold = [one.latency for one in run.records if one.cold and not one.failure]
        if cold and not run.sampled:
            axes.hist(
                np.clip(cold, edges[0], edges[-1]), bins=edges.tolist(), color=COLD, label="cold starts"
            )
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0, fontsize=9)
        shown = [
            (name, run.latency.at(percent))
            for name, percent in (("P50", 50), ("P90", 90), ("P95", 95), ("P99", 99))
        ]
        top = max(heights.max(), 1)
        last = -np.inf
        level = 0
        for name, value in shown:
            if value is None:
                continue
            position = (
                (np.log(value / edges[0]) / np.log(edges[-1] / edges[0]))
                if log
                else (value - edges[0]) / (edges[-1] - edges[0])
            )
            # Percentiles that lie close to each other are written one above the other.
            level = level + 1 if position - last < 0.05 else 0
            last = position
            axes.axvline(value, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                name, (value, top * (1.03 + 0.09 * level)), ha="left", va="bottom", fontsize=9, xytext=(3, 0),
                textcoords="offset points", annotation_clip=False,
            )  # fmt: skip
        if log:
            axes.set_xscale("log")
        axes.set_ylim(0, top * 1.18)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.set_xlabel("latency, s")
        axes.set_ylabel("requests")
        return _svg(figure, "histogram", "Latency histogram")


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9.6, height), layout="constrained")
    return figure, figure.add_subplot()


def _legend(axes: Axes, colours: Colours, run: RunResult, cold: bool) -> None:
    entries = colours.legend()
    if cold:
        entries.append(Line2D([], [], color=COLD, marker="D", linestyle="", markersize=5, label="cold start"))
    if run.failed:
        entries.append(Patch(color=FAILED, label="failed"))
    if entries:
        axes.legend(
            handles=entries, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=6, borderaxespad=0, fontsize=9
        )


def _lanes(records: Sequence[Record]) -> list[int]:
    """The lowest free row for each request, in the order of sending."""
    ends: list[float] = []
    rows = []
    for one in records:
        row = next((index for index, end in enumerate(ends) if end <= one.sent + 1e-6), len(ends))
        if row == len(ends):
            ends.append(0.0)
        ends[row] = one.done
        rows.append(row)
    return rows


def _pods_over_time(run: RunResult) -> list[tuple[float, int]]:
    """(seconds, pods known to live): a pod counts from its first answer to its last.

    One that answered after the last request was sent counts to the end: nobody asked it again.
    """
    last_sent = max((one.sent for one in run.records), default=0.0)
    changes = sorted(
        [(pod.first, 1) for pod in run.pods] + [(pod.last, -1) for pod in run.pods if pod.last < last_sent]
    )
    if not changes:
        return []
    steps, count = [(0.0, 0)], 0
    for at, change in changes:
        count += change
        steps.append((at, count))
    return [*steps, (run.total, count)]


def _printable(text: str) -> str:
    return "".join(sign if sign.isascii() and sign.isprintable() else "?" for sign in text)


def _svg(figure: Figure, name: str, label: str) -> str:
    out = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # A plot that can't be laid out perfectly is no reason to lose the report.
        warnings.simplefilter("ignore")
        FigureCanvasSVG(figure).print_svg(  # type: ignore[no-untyped-call]
            out, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Matplotlib numbers its groups from 1 in every figure; one page holds several.
    text = re.sub(r'id="([a-zA-Z]+(?:2D)?_\d+)"', rf'id="{name}_\1"', text)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
