"""Rules that a run must meet, as in ``p95>30``: the exit code says whether it did.

Percentiles are judged over all requests, a failure counting as slower than any success, so that a service
can't pass by dropping its slow requests. A percentile that the sample can't bear breaks its rule: it wasn't
shown.
"""

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from loadtest.options import OptionError, seconds
from loadtest.result import RunResult, Verdict
from loadtest.statistics import needed, percent_name, rank
from loadtest.tally import Tally

_OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_RULE: Final = re.compile(r"\s*([a-z_]+[\d.]*)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*")
_PERCENTILE: Final = re.compile(r"(progress_)?p(\d{1,2}(?:\.\d+)?)")
MEASURES: Final[dict[str, tuple[str, Callable[[RunResult], float]]]] = {
    "mean": ("s", lambda run: run.latency.mean),
    "fastest": ("s", lambda run: run.latency.fastest),
    "slowest": ("s", lambda run: run.latency.slowest),
    "total": ("s", lambda run: run.total),
    "rps": ("", lambda run: run.throughput),
    "requests": ("", lambda run: run.requests),
    "errors": ("", lambda run: run.failed),
    "error_rate": ("%", lambda run: run.failed / run.requests if run.requests else 1.0),
    "cold_starts": ("", lambda run: run.cold_starts),
    "pods": ("", lambda run: len(run.pods)),
    "unfinished": ("", lambda run: run.unfinished),
    "stickiness": ("%", lambda run: run.stickiness.share if run.stickiness else 0.0),
}
"""Name to unit and value. Besides these: ``pN`` (latency) and ``progress_pN`` (time to the first
progress).
"""


@dataclass(frozen=True, slots=True)
class Threshold:
    """``measure`` compared with ``limit``: broken if the comparison holds."""

    text: str
    measure: str
    comparison: str
    limit: float

    @property
    def percent(self) -> float | None:
        """The percentile it speaks of, or None."""
        match = _PERCENTILE.fullmatch(self.measure)
        return float(match[2]) if match else None

    def check_sample(self, requests: int | None) -> None:
        """Raise :class:`OptionError` if a run of ``requests`` (None: unknown) can't bear the percentile."""
        percent = self.percent
        if percent is not None and requests is not None and requests < needed(percent):
            raise OptionError(
                f"--fail-if {self.text!r}: P{percent_name(percent)} needs at least {needed(percent)} "
                f"requests and this run sends {requests}: send more (-n) or judge a lower percentile."
            )

    def judge(self, run: RunResult, tally: Tally) -> Verdict:
        """Whether ``run`` breaks the rule."""
        percent = self.percent
        if percent is None:
            unit, measure = MEASURES[self.measure]
            value = measure(run)
        else:
            unit = "s"
            log = tally.progress_after if self.measure.startswith("progress_") else tally.latencies
            if run.requests < needed(percent):
                text = (
                    f"{self.measure} can't be judged by {run.requests} requests: {needed(percent)} are needed"
                )
                return Verdict(self.text, True, text)
            position = min(rank(percent, run.requests), run.requests - 1)
            value = log.at(position) if position < log.count else math.inf
        broken = _OPERATORS[self.comparison](value, self.limit)
        return Verdict(self.text, broken, f"{self.measure} is {_show(value, unit)}")


def parse(text: str) -> Threshold:
    """``p95>30``, ``p99.9>=1.5m``, ``error_rate>1%``, ``cold_starts>5`` …; raises :class:`OptionError`."""
    match = _RULE.fullmatch(text)
    known = ", ".join(("pN", "progress_pN", *MEASURES))
    if match is None:
        raise OptionError(
            f"--fail-if {text!r}: write MEASURE OPERATOR NUMBER, as in 'p95>30'. Measures: {known}."
        )
    measure, comparison, number = match.groups()
    percentile = _PERCENTILE.fullmatch(measure)
    if percentile is None and measure not in MEASURES:
        raise OptionError(f"--fail-if {text!r}: there is no measure {measure!r}. Measures: {known}.")
    if percentile is not None and not 0 < float(percentile[2]) < 100:
        raise OptionError(f"--fail-if {text!r}: a percentile lies between 0 and 100.")
    unit = "s" if percentile else MEASURES[measure][0]
    try:
        limit = _number(number, unit)
    except (OptionError, ValueError):
        raise OptionError(
            f"--fail-if {text!r}: {number!r} is no number (units: s, ms, m, h for times, %)."
        ) from None
    return Threshold(text.strip(), measure, comparison, limit)


def _number(text: str, unit: str) -> float:
    if text.endswith("%"):
        if unit != "%":
            raise ValueError(text)
        return float(text[:-1]) / 100
    try:
        value = float(text)
    except ValueError:
        if unit != "s":
            raise
        return seconds(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _show(value: float, unit: str) -> str:
    if math.isinf(value):
        return "beyond every answer (too many requests failed)"
    if unit == "%":
        return f"{value:.2%}"
    return f"{value:.4g} s" if unit == "s" else f"{value:.4g}"
