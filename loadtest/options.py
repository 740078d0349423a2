"""Small notations of the command line: durations, sizes, think times. Errors are sentences that say what to
write.
"""

import random
import re
from collections.abc import Callable
from typing import Final

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


class OptionError(ValueError):
    """The command line asks for something that can't be done; the text says what to change."""


def seconds(text: str) -> float:
    """``90``, ``90s``, ``1.5m``, ``1h30m`` or ``250ms`` as seconds, more than zero."""
    total, position = 0.0, 0
    for match in _DURATION.finditer(text):
        if match.start() != position:
            break
        total += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if position != len(text) or total <= 0:
        raise OptionError(
            f"{text!r} is no duration: write seconds or a unit, as in 90, 250ms, 1.5m or 1h30m."
        )
    return total


def size(text: str) -> tuple[int, int]:
    """``512x768`` (width x height, pixels)."""
    match = re.fullmatch(r"(\d+)[x×](\d+)", text)
    if match is None or not int(match[1]) or not int(match[2]):
        raise OptionError(f"{text!r} is no size: write width x height in pixels, as in 512x768.")
    return int(match[1]), int(match[2])


def think_time(text: str, chance: random.Random) -> Callable[[], float]:
    """A pause between requests: ``2`` s always, ``1-5`` s evenly, ``exp:3`` exponential with mean 3 s."""
    if text.startswith("exp:"):
        mean = seconds(text.removeprefix("exp:"))
        return lambda: chance.expovariate(1 / mean)
    low, dash, high = text.partition("-")
    if dash:
        first, last = seconds(low), seconds(high)
        if first > last:
            raise OptionError(f"{text!r} is no think time: the shorter one comes first, as in 1-5.")
        return lambda: chance.uniform(first, last)
    constant = seconds(text)
    return lambda: constant
