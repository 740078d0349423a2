"""Small notations of the command line: durations, sizes, think times. Errors are sentences that say what to
write.
"""

import random
import re
from collections.abc import Callable

from loadtest.durations import AS_IN, in_seconds


class OptionError(ValueError):
    """The command line asks for something that can't be done; the text says what to change."""


def seconds(text: str) -> float:
    """A duration (see :mod:`loadtest.durations`) as seconds, more than zero."""
    try:
        total = in_seconds(text)
    except ValueError as error:
        raise OptionError(f"{error}.") from None
    if total <= 0:
        raise OptionError(f"{text!r} is no time at all: {AS_IN}.")
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
