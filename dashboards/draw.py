"""Draws panels with matplotlib where Grafana would put them: numbers, lines, heat maps, tables, timelines."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dashboards.query import Series, Window

mpl.use("Agg")

COLUMN: Final = 0.46
"""Inches of one of Grafana's 24 columns."""
LINE: Final = 0.31
"""Inches of one line of Grafana's grid."""
PHONE: Final = 9
"""Columns' width of a phone."""
COLOURS: Final = {
    "green": "#56a64b", "dark-green": "#37872d", "orange": "#ff780a", "red": "#e02f44", "blue": "#3274d9",
    "light-blue": "#8ab8ff",
}  # fmt: skip
PALETTE: Final = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]


class Drawn(NamedTuple):
    """A panel (Grafana's JSON) and the answers to its queries, one list of series a query."""

    panel: dict[str, Any]
    answers: list[list[Series]]


class _Placed(NamedTuple):
    drawn: Drawn
    x: int
    y: int
    width: int
    height: int


def _flow(panels: list[Drawn], columns: int, *, stacked: bool) -> tuple[list[_Placed], int]:
    """Places for ``panels`` from left to right and down, as Grafana closes gaps; rows take a whole line."""
    placed: list[_Placed] = []
    x = y = tallest = 0
    for number, drawn in enumerate(panels):
        heading = drawn.panel["type"] == "row"
        last = number + 1 == len(panels) or panels[number + 1].panel["type"] == "row"
        if heading and last:
            continue  # nothing under this heading has data
        width = columns if heading or stacked else drawn.panel["gridPos"]["w"]
        height = 1 if heading else drawn.panel["gridPos"]["h"]
        if x + width > columns or heading:
            x, y, tallest = 0, y + tallest, 0
        placed.append(_Placed(drawn, x, y, width, height))
        x, tallest = x + width, max(tallest, height)
    return placed, y + tallest


def contact_sheet(sheet: dict[str, list[Drawn]], window: Window, out: Path, *, phone: bool = False) -> None:
    """Write every panel of ``sheet`` (title of the dashboard → panels) over ``window`` to the PNG ``out``."""
    columns, across = (PHONE, len(sheet)) if phone else (24, 2)
    strips: list[tuple[float, float, str, list[_Placed]]] = []
    bottoms = [0.0] * across
    for title, panels in sheet.items():
        placed, height = _flow(panels, columns, stacked=phone)
        strip = bottoms.index(min(bottoms))
        strips.append((strip * (columns + 1) + 0.5, bottoms[strip], title, placed))
        bottoms[strip] += height + 3
    size = ((columns + 1) * across * COLUMN, max(bottoms) * LINE)
    figure = Figure(figsize=size, facecolor="#f4f5f5")
    for left, top, title, placed in strips:
        figure.text(left * COLUMN / size[0], 1 - (top + 1.5) * LINE / size[1], title, size=15, weight="bold")
        for item in placed:
            box = (
                (left + item.x + 0.1) * COLUMN / size[0],
                1 - (top + 2 + item.y + item.height - 0.1) * LINE / size[1],
                (item.width - 0.2) * COLUMN / size[0],
                (item.height - 0.2) * LINE / size[1],
            )
            _panel(figure, box, item, window)
    figure.savefig(out, dpi=90)


def _panel(figure: Figure, box: tuple[float, float, float, float], item: _Placed, window: Window) -> None:
    panel, answers = item.drawn
    if panel["type"] == "row":
        figure.text(box[0], box[1] + box[3] / 4, panel["title"], size=10, weight="bold", color="#555")
        return
    frame = figure.add_axes(box)
    frame.set(xticks=[], yticks=[], facecolor="white")
    for spine in frame.spines.values():
        spine.set_color("#d0d0d0")
    width, height = (item.width - 0.2) * COLUMN, (item.height - 0.2) * LINE
    frame.text(0.06 / width, 1 - 0.06 / height, panel["title"], size=9, weight="bold", va="top")
    plotted = panel["type"] in ("timeseries", "heatmap", "state-timeline")
    left, right, below = (0.72, 0.15, 0.5) if plotted else (0.1, 0.1, 0.08)
    inner = frame.inset_axes(
        (left / width, below / height, 1 - (left + right) / width, 1 - (below + 0.3) / height), zorder=3
    )
    _DRAW[panel["type"]](inner, panel, answers, window)


def _colour(panel: dict[str, Any], value: float) -> str:
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    reached: list[str] = [s["color"] for s in steps if s["value"] is None or value >= s["value"]]
    return COLOURS.get(reached[-1], reached[-1])


def shown(value: float, unit: str) -> str:
    """``value`` with ``unit`` in few characters."""
    if math.isnan(value):
        return "–"
    if unit == "percentunit":
        return f"{value:.1%}"
    if unit == "bytes":
        return f"{value / 2**30:.3g} GiB" if value >= 2**30 else f"{value / 2**20:.3g} MiB"
    if unit == "s" and abs(value) < 1 and value != 0:
        return f"{value * 1000:.3g} ms"
    if unit == "currencyUSD":
        return f"${value:.3g}"
    names = {"s": " s", "reqps": " req/s", "reqpm": " req/min", "ops": "/s", "opm": "/min", "iops": "/s"}
    return f"{value:.4g}{names.get(unit, '')}"


def _number(axes: Axes, panel: dict[str, Any], answers: list[list[Series]], window: Window) -> None:
    del window
    axes.axis("off")
    if panel["options"]["textMode"] == "name":
        template = panel["targets"][0]["legendFormat"]
        text, colour = "\n".join(series.legend(template) for series in answers[0]), COLOURS["green"]
    else:
        value = answers[0][0].last
        text, colour = shown(value, panel["fieldConfig"]["defaults"]["unit"]), _colour(panel, value)
    size = 17 if len(text) < 10 else 12
    axes.text(0.5, 0.5, text, size=size, color=colour, ha="center", va="center", weight="bold")


def _named(panel: dict[str, Any], answers: list[list[Series]]) -> list[tuple[str, Series]]:
    return [
        (series.legend(target["legendFormat"]) or panel["title"], series)
        for target, answer in zip(panel["targets"], answers, strict=True)
        for series in answer
        if not all(math.isnan(value) for _, value in series.points)
    ]


def _times(axes: Axes, window: Window) -> float:
    """Let the x axis show ``window`` in seconds from its start; returns that start."""
    axes.tick_params(labelsize=7, length=2)
    axes.set_xlim(0, window.end - window.start)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f} s"))
    return window.start


def _lines(axes: Axes, panel: dict[str, Any], answers: list[list[Series]], window: Window) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    custom, unit = defaults["custom"], defaults["unit"]
    named = _named(panel, answers)
    start = _times(axes, window)
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    times = sorted({when for _, series in named for when, _ in series.points})
    base = np.zeros(len(times))
    for number, (name, series) in enumerate(named):
        colour = PALETTE[number % len(PALETTE)]
        values = dict(series.points)
        y = np.array([values.get(when, math.nan) for when in times])
        x = np.array(times) - start
        if stacked:
            upper = base + np.nan_to_num(y)
            axes.fill_between(x, base, upper, color=colour, alpha=0.5, linewidth=0, label=name)
            base = upper
        elif custom["drawStyle"] == "bars":
            width = min(np.diff(x), default=window.end - window.start)
            axes.bar(x, y, width=-width, align="edge", color=colour, alpha=0.8, label=name)
        else:
            axes.plot(x, y, color=colour, linewidth=1.4, label=name, marker="." if len(x) < 5 else "")
    axes.set_ylim(bottom=0, top=defaults.get("max", axes.get_ylim()[1] * 1.08))
    highest = axes.get_ylim()[1]
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is not None and step["value"] <= highest:
            axes.axhline(step["value"], color=COLOURS[step["color"]], linestyle="--", linewidth=0.8)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: shown(y, unit)))
    axes.grid(alpha=0.25)
    _legend(axes, len(named))


def _legend(axes: Axes, entries: int) -> None:
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(-0.12, -0.1),
        ncols=min(entries, 5),
        fontsize=6,
        frameon=False,
        handlelength=0.8,
        columnspacing=0.8,
    )


def _heat(axes: Axes, panel: dict[str, Any], answers: list[list[Series]], window: Window) -> None:
    del panel
    start = _times(axes, window)
    found = sorted(answers[0], key=lambda series: float(series.labels["le"]))
    times = sorted({when for series in found for when, _ in series.points})
    below = np.array([[dict(series.points).get(when, 0.0) for when in times] for series in found])
    cells = np.diff(below, axis=0, prepend=0)
    bounds = [series.labels["le"].removesuffix(".0") for series in found]
    used = np.flatnonzero(cells.sum(axis=1) > 0)
    low, high = (int(used[0]), int(used[-1]) + 1) if used.size else (0, len(found))
    x = np.array(times) - start
    cells = np.where(cells[low:high] > 0, cells[low:high], np.nan)
    axes.pcolormesh(x, np.arange(high - low), cells, cmap="Oranges", shading="nearest", vmin=0)
    axes.set_yticks(range(high - low), [f"≤ {bound} s" for bound in bounds[low:high]])


def _table(axes: Axes, panel: dict[str, Any], answers: list[list[Series]], window: Window) -> None:
    del window
    axes.axis("off")
    unit = panel["fieldConfig"]["defaults"]["unit"]
    labels = [name for name in answers[0][0].labels if name != "__name__"] if answers[0] else []
    heads = [target["legendFormat"] for target in panel["targets"]]
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for head, answer in zip(heads, answers, strict=True):
        for series in answer:
            rows.setdefault(tuple(series.labels.get(name, "") for name in labels), {})[head] = series.last
    cells = [[*key, *(shown(row.get(head, math.nan), unit) for head in heads)] for key, row in rows.items()]
    drawn = axes.table(
        cells, colLabels=[*labels, *heads], loc="upper center", edges="horizontal", cellLoc="left"
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7.5)
    drawn.auto_set_column_width(list(range(len(labels) + len(heads))))


def _timeline(axes: Axes, panel: dict[str, Any], answers: list[list[Series]], window: Window) -> None:
    states = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    start = _times(axes, window)
    named = _named(panel, answers)
    for row, (_, series) in enumerate(named):
        times = [when - start for when, _ in series.points]
        step = times[1] - times[0] if len(times) > 1 else 1
        for when, (_, value) in zip(times, series.points, strict=True):
            state = states.get(f"{value:g}")
            if state is not None:
                axes.barh(row, step, left=when, height=0.7, color=COLOURS[state["color"]], linewidth=0)
    seen = {f"{value:g}" for _, series in named for _, value in series.points}
    for key, state in states.items():
        if key in seen:
            axes.barh(0, 0, color=COLOURS[state["color"]], label=state["text"])
    axes.set_yticks(range(len(named)), [name for name, _ in named])
    _legend(axes, 6)


_DRAW: Final[dict[str, Callable[[Axes, dict[str, Any], list[list[Series]], Window], None]]] = {
    "stat": _number,
    "timeseries": _lines,
    "heatmap": _heat,
    "table": _table,
    "state-timeline": _timeline,
}
