"""When requests come: intended start times of open traffic, in seconds from the start.

Closed traffic has no times of its own (a worker sends when it has its answer) and lives in ``simulation``.
"""

import math
from collections.abc import Iterator

import numpy as np

from loadtest.simulate.scenario import Daily, Open, ScenarioError, Trace

_CHUNK = 4096
_SLOT = 60.0
_DAY = 86_400.0

Arrival = tuple[float, float | None]
"""Intended start and, if the trace knows it, service seconds."""


def arrivals(traffic: Open | Daily | Trace, rng: np.random.Generator) -> Iterator[Arrival]:
    """Rising arrivals. Raises :class:`ScenarioError` for a trace that cannot be read."""
    if isinstance(traffic, Trace):
        return _trace(traffic)
    times = _daily(traffic, rng) if isinstance(traffic, Daily) else _open(traffic, rng)
    return ((t, None) for t in times)


def _open(traffic: Open, rng: np.random.Generator) -> Iterator[float]:
    if traffic.kind == "constant":
        for i in range(math.ceil(traffic.duration * traffic.rate)):
            yield i / traffic.rate
        return
    now = 0.0
    while True:
        for gap in rng.exponential(1 / traffic.rate, _CHUNK).tolist():
            now += gap
            if now >= traffic.duration:
                return
            yield now


def _daily(traffic: Daily, rng: np.random.Generator) -> Iterator[float]:
    """Exactly ``images_per_day`` a day: multinomial over minutes, uniform within (a Poisson process given
    its total).

    The hourly weights stand for the middle of their hour and are joined by straight lines.
    """
    slots = int(_DAY / _SLOT)
    middles = (np.arange(slots) + 0.5) * _SLOT / 3600
    hours = np.arange(-1, 25) + 0.5
    around = np.array([traffic.curve[-1], *traffic.curve, traffic.curve[0]])
    weights = np.interp(middles, hours, around)
    weights /= weights.sum()
    for day in range(traffic.days):
        for slot, count in enumerate(rng.multinomial(traffic.images_per_day, weights).tolist()):
            start = day * _DAY + slot * _SLOT
            yield from (start + np.sort(rng.uniform(0.0, _SLOT, count))).tolist()


def _trace(traffic: Trace) -> Iterator[Arrival]:
    try:
        lines = traffic.file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ScenarioError(
            f"traffic.file {traffic.file} cannot be read ({getattr(e, 'strerror', None) or e}): "
            "give a text file with one arrival a line, relative to the scenario"
        ) from e
    found: list[Arrival] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            fields = [float(field) for field in line.split(",")]
        except ValueError:
            fields = []
        if not 1 <= len(fields) <= 2 or not all(math.isfinite(f) and f >= 0 for f in fields):
            raise ScenarioError(
                f"{traffic.file} line {number}: {line.strip()[:60]!r} should be seconds, or seconds,service "
                f"seconds"
            )
        if found and fields[0] < found[-1][0]:
            raise ScenarioError(f"{traffic.file} line {number}: arrivals go back in time; sort the file")
        found.append((fields[0], fields[1] if len(fields) == 2 else None))
    if not found:
        raise ScenarioError(f"{traffic.file} holds no arrival: write one number of seconds a line")
    return iter(found)
