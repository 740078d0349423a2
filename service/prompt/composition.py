"""Composition: ``cat AND dog :1.2`` asks for several things at once, each with its own weight."""

import re
from dataclasses import dataclass
from typing import Final

from service.prompt.attention import MAX_WEIGHT

_AND: Final = re.compile(r"\bAND\b")
_WEIGHT: Final = re.compile(r"\s*+([+-]?(?:\d++\.?|\d*\.\d++))")


@dataclass(frozen=True, slots=True)
class SubPrompt:
    """One part of a composed prompt and what it counts for (1.0 unless it says otherwise)."""

    text: str
    weight: float = 1.0


def split_composition(prompt: str) -> list[SubPrompt]:
    """Split ``prompt`` at each upper-case word AND; a part may end in ``:weight`` (a number).

    So does a prompt without AND, as in A1111: "format 16:9" asks for "format 16" nine times as strongly. A word
    after the number keeps it a part of the text.
    """
    return [_weighted(part) for part in _AND.split(prompt)]


def _weighted(part: str) -> SubPrompt:
    text, colon, tail = part.rpartition(":")
    number = _WEIGHT.fullmatch(tail.rstrip()) if colon else None
    if number is None:
        return SubPrompt(part)
    return SubPrompt(text.rstrip(), max(-MAX_WEIGHT, min(MAX_WEIGHT, float(number[1]))))
