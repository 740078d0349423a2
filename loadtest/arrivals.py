"""When requests are meant to start: at a constant rate, at random, in ramps, or as a recording says.

Only an open loop has arrivals; in a closed loop the previous answer starts the next request. Each generator
yields seconds since the start of the run, ascending, lazily: a million arrivals need no list.
"""

import base64
import csv
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from loadtest.options import OptionError, seconds

PICTURES: Final = ("init_images", "mask", "latent_mask")
"""Fields that name pictures by their paths in a batch's manifest."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request's intended start, and what the recording says of its body and its path (empty: the run's own)."""

    at: float
    body: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """``duration`` seconds in which the rate goes in a line from ``first`` to ``last`` requests a second."""

    first: float
    last: float
    duration: float = math.inf

    @property
    def requests(self) -> float:
        """How many requests the stage brings, on average."""
        return (self.first + self.last) / 2 * self.duration if self.first + self.last else 0.0

    def when(self, mass: float) -> float:
        """Seconds into the stage at which ``mass`` requests (0..requests) have come: the inverse of its
        integral.
        """
        slope = (self.last - self.first) / self.duration if math.isfinite(self.duration) else 0.0
        if slope == 0:
            return mass / self.first
        # The quadratic solved so that it stays exact as the slope goes to 0 and where the rate ends in 0.
        root = math.sqrt(max(0.0, self.first**2 + 2 * slope * mass))
        return min(self.duration, 2 * mass / (self.first + root)) if self.first + root else 0.0


def parse_stage(text: str) -> Stage:
    """``FROM:TO:DURATION``, as in ``0.1:2:10m``: rates in requests a second."""
    parts = text.split(":")
    try:
        first, last = float(parts[0]), float(parts[1])
        stage = Stage(first, last, seconds(parts[2]))
    except (IndexError, ValueError):
        raise OptionError(
            f"{text!r} is no ramp: write FROM:TO:DURATION in requests a second, as in 0.1:2:10m."
        ) from None
    if len(parts) != 3 or first < 0 or last < 0 or not math.isfinite(first + last):
        raise OptionError(f"{text!r} is no ramp: rates are numbers of at least 0, as in 0:2:10m.")
    return stage


def staged(stages: Sequence[Stage], chance: random.Random | None = None) -> Iterator[Arrival]:
    """Arrivals that follow ``stages`` in turn: evenly spaced, or with ``chance`` a Poisson process.

    Both walk along the integral of the rate: in steps of one request, or of an exponential with mean one
    (time rescaling; Cinlar, Introduction to Stochastic Processes, 4.7).
    """
    mass = 0.0 if chance is None else chance.expovariate(1)
    begin = 0.0
    for stage in stages:
        while mass < stage.requests:
            yield Arrival(begin + stage.when(mass))
            mass += 1.0 if chance is None else chance.expovariate(1)
        mass -= stage.requests
        begin += stage.duration


def trace(path: Path, speed: float = 1.0, pictures: Path | None = None) -> Iterator[Arrival]:
    """A recording: JSON lines with ``t`` (and fields of the body), a batch's manifest, or CSV, or one time a line.

    Times are seconds or ISO 8601 and count from the first; they must not go back. In CSV the column is ``t``
    or, without a header, the first. ``speed`` 2 plays it twice as fast. ``pictures`` is the folder of those that a
    manifest names. Raises :class:`OptionError` naming the line.
    """
    begin: float | None = None
    last = -math.inf
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            for number, (when, body, kind) in _rows(lines):
                try:
                    at = _instant(when)
                except (TypeError, ValueError):
                    raise OptionError(
                        f"{path}, line {number}: {when!r} is no time; write seconds or ISO 8601."
                    ) from None
                if at < last:
                    raise OptionError(f"{path}, line {number}: time goes back; sort the recording.")
                begin = at if begin is None else begin
                last = at
                asked = _with_pictures(body, pictures, f"{path}, line {number}") if kind else body
                yield Arrival((at - begin) / speed, asked, f"/sdapi/v1/{kind}" if kind else "")
    except OSError as error:
        raise OptionError(f"{path} can't be read: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise OptionError(f"{path} is neither JSON lines nor CSV: {error}.") from None


def _rows(lines: Iterator[str]) -> Iterator[tuple[int, tuple[Any, Mapping[str, Any], str]]]:
    """Line, time, body, and of a manifest's line which route it was for."""
    column: int | None = None
    manifest: list[tuple[float, int, dict[str, Any]]] = []
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("{"):
            entry = json.loads(line)
            if entry.keys() >= {"format", "row", "index", "request"}:
                # A line a picture: the first of a row stands for its request. Rows that failed made no load.
                if entry["index"] == 0 and not entry["error"]:
                    manifest.append((float(entry["t"]), number, entry))
                continue
            when = entry.pop("t", None)
            yield number, (when, entry, "")
            continue
        cells = next(csv.reader([line]))
        if column is None:
            names = [cell.strip().lower() for cell in cells]
            column = names.index("t") if "t" in names else 0
            if "t" in names:
                continue
        yield number, (cells[column].strip() if column < len(cells) else None, {}, "")
    # In the order of its rows, which shards made at the same time.
    for at, number, entry in sorted(manifest, key=lambda one: one[:2]):
        yield number, (at, entry["request"], entry["kind"])


def _with_pictures(body: Mapping[str, Any], folder: Path | None, where: str) -> Mapping[str, Any]:
    """``body`` with pictures in place of their paths."""

    def read(name: str) -> str:
        if name.startswith(("data:", "http://", "https://")):
            return name
        if folder is None:
            raise OptionError(
                f"{where} starts from a picture, {name}: say in which folder it is with --pictures."
            )
        try:
            return base64.b64encode((folder / name).read_bytes()).decode()
        except OSError as error:
            raise OptionError(
                f"{where}: the picture {folder / name} can't be read: {error.strerror}."
            ) from None

    named = {name: body[name] for name in PICTURES if body.get(name)}
    return {
        **body,
        **{
            name: [read(one) for one in value] if isinstance(value, list) else read(value)
            for name, value in named.items()
        },
    }


def _instant(value: Any) -> float:
    if isinstance(value, str):
        try:
            return _finite(float(value))
        except ValueError:
            return datetime.fromisoformat(value).timestamp()
    return _finite(float(value))


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(value)
    return value
