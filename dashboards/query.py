"""Asks Prometheus what a Grafana panel would ask: fills in the macros and variables, then runs the query."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

_MACRO: Final = re.compile(r"\$\{?([A-Za-z_]\w*)\}?")


@dataclass(frozen=True, slots=True)
class Window:
    """A time range (Unix seconds) with the step of its points and the interval between scrapes."""

    start: float
    end: float
    step: float
    scrape: float

    def at_least(self, interval: str | None) -> "Window":
        """This range with steps of at least ``interval`` ("1m", "15s"), and then room for three of them."""
        seconds = 0 if interval is None else int(interval[:-1]) * {"s": 1, "m": 60, "h": 3600}[interval[-1]]
        if seconds <= self.step:
            return self
        return Window(min(self.start, self.end - 3 * seconds), self.end, seconds, self.scrape)

    def macros(self) -> dict[str, str]:
        """Grafana's macros for this range."""
        whole = max(1, math.ceil(self.end - self.start))
        interval = max(1, math.ceil(self.step))
        rate = max(math.ceil(self.step + self.scrape), math.ceil(4 * self.scrape))
        return {
            "__range": f"{whole}s",
            "__range_s": str(whole),
            "__interval": f"{interval}s",
            "__interval_ms": str(interval * 1000),
            "__rate_interval": f"{rate}s",
        }


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer: its labels and its (time, value) points; NaN is kept."""

    labels: dict[str, str]
    points: list[tuple[float, float]] = field(default_factory=list)

    @property
    def last(self) -> float:
        """The newest value; NaN when there is none."""
        return self.points[-1][1] if self.points else math.nan

    def legend(self, template: str) -> str:
        """The legend that Grafana shows for ``template`` (``{{label}}`` is replaced)."""
        if template in ("", "__auto"):
            return ", ".join(f"{k}={v}" for k, v in self.labels.items() if k != "__name__")
        return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: self.labels.get(found[1], ""), template)


def fill(expression: str, values: Mapping[str, str]) -> str:
    """``expression`` with every ``$name`` replaced; raises KeyError for a name that nobody defines."""
    return _MACRO.sub(lambda found: values[found[1]], expression)


class Prometheus:
    """A client of Prometheus' query API at ``url``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=url, timeout=30)

    def get(self, path: str, **parameters: str | float) -> Any:
        """The ``data`` of an API call; raises ValueError with Prometheus' own words when it refuses."""
        answer = self._client.get(f"/api/v1/{path}", params=parameters).json()
        if answer["status"] != "success":
            raise ValueError(f"{answer.get('error')} in {parameters.get('query')}")
        return answer["data"]

    def instant(self, expression: str, at: float) -> list[Series]:
        """The answer at one time."""
        return _series(self.get("query", query=expression, time=at))

    def over(self, expression: str, window: Window) -> list[Series]:
        """The answer at each step of ``window``."""
        data = self.get("query_range", query=expression, start=window.start, end=window.end, step=window.step)
        return _series(data)

    def panel(
        self, panel: Mapping[str, Any], window: Window, choices: Mapping[str, str]
    ) -> list[list[Series]]:
        """What each query of a Grafana panel brings back with ``choices`` for the dashboard's variables."""
        window = window.at_least(panel.get("interval"))
        values = {**choices, **window.macros()}
        return [
            self.instant(fill(target["expr"], values), window.end)
            if target.get("instant")
            else self.over(fill(target["expr"], values), window)
            for target in panel["targets"]
        ]

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()


def _series(data: Any) -> list[Series]:
    if data["resultType"] == "scalar":
        return [Series({}, [(float(data["result"][0]), float(data["result"][1]))])]
    return [
        Series(
            found["metric"],
            [(float(when), float(value)) for when, value in found.get("values", [found.get("value")])],
        )
        for found in data["result"]
    ]


def has_data(answer: list[Series]) -> bool:
    """True when there is a number anywhere in ``answer``."""
    return any(not math.isnan(value) for series in answer for _, value in series.points)
