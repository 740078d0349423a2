"""Attention: which words of a prompt weigh how much, and where a chunk has to end.

``(x)`` weighs 1.1 times as much, ``[x]`` 1.1 times less, ``(x:1.3)`` 1.3 times; brackets nest and their
factors multiply. Round and square brackets are paired independently of one another, a bracket that is never
closed reaches to the end, and one that was never opened is text. ``\\(``, ``\\)``, ``\\[``, ``\\]`` and
``\\\\`` are literal. The word ``BREAK`` ends the chunk of tokens that stands before it.
"""

import math
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

STEP: Final = 1.1
"""What one bare bracket multiplies (or, square, divides) by."""

MAX_WEIGHT: Final = 100.0
"""Weights are held within ±MAX_WEIGHT: beyond it half precision overflows and the image turns black."""

_MAX_FACTOR: Final = 1e12  # keeps the product of thousands of brackets finite, so that it is never inf · 0

_LEXEME: Final = re.compile(
    r"""
      \\ (?P<escaped> [()\[\]\\]? )
    | (?P<open> [(\[] )
    | : \s*+ (?P<weight> [+-]? [.\d]++ ) \s*+ \)
    | (?P<close> [)\]] )
    | (?P<text> [^\\()\[\]:]++ | : )
    """,
    re.VERBOSE,
)
_BREAK: Final = re.compile(r"\bBREAK\b")


@dataclass(frozen=True, slots=True)
class Span:
    """A run of text that weighs ``weight`` (1.0: as the model sees it)."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Break:
    """The end of a chunk, written as ``BREAK``."""


Piece: TypeAlias = Span | Break


@dataclass(slots=True)
class _Bracket:
    """What one pair of brackets covers: pieces ``start`` to ``end`` (exclusive; None while it is open)."""

    start: int
    factor: float
    end: int | None = None


def parse_attention(prompt: str) -> list[Piece]:
    """Split ``prompt`` into weighted spans and breaks, in order; neighbours of equal weight are one span.

    Takes time linear in the length of the prompt and accepts every string. An empty prompt is one empty span.
    A ``BREAK`` inside brackets ends the chunk like any other. A number that is none (``(x:1.2.3)``) is text.
    """
    pieces: list[str | Break] = []
    brackets: dict[str, list[_Bracket]] = {"(": [], "[": []}
    waiting: dict[str, list[_Bracket]] = {"(": [], "[": []}
    for lexeme in _LEXEME.finditer(prompt):
        weight = _number(lexeme["weight"]) if lexeme["weight"] else None
        if kind := lexeme["open"]:
            bracket = _Bracket(len(pieces), STEP if kind == "(" else 1 / STEP)
            brackets[kind].append(bracket)
            waiting[kind].append(bracket)
        elif lexeme["weight"] and waiting["("]:
            bracket = waiting["("].pop()
            if weight is None:
                pieces.append(lexeme[0][:-1])
            else:
                bracket.factor = weight
            bracket.end = len(pieces)
        elif (kind := {")": "(", "]": "["}.get(lexeme["close"] or "", "")) and waiting[kind]:
            waiting[kind].pop().end = len(pieces)
        elif lexeme["escaped"] is not None:
            pieces.append(lexeme["escaped"])
        else:
            _append_text(pieces, lexeme[0])
    rounds, squares = (_factors(brackets[kind], len(pieces)) for kind in "([")
    return _merged(pieces, [_held(r * s) for r, s in zip(rounds, squares, strict=True)])


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _append_text(pieces: list[str | Break], text: str) -> None:
    """Append ``text``, cut at each BREAK; white space around the word belongs to it."""
    parts = _BREAK.split(text)
    for index, part in enumerate(parts):
        if index > 0:
            pieces.append(Break())
            part = part.lstrip()
        pieces.append(part.rstrip() if index < len(parts) - 1 else part)


def _factors(brackets: list[_Bracket], count: int) -> list[float]:
    """The product of the factors around each of ``count`` pieces; brackets of one kind only ever nest."""
    products: list[float] = []
    around: list[tuple[int, float]] = []  # (end, product) of the brackets that hold the current piece
    upcoming = iter(brackets)
    bracket = next(upcoming, None)
    for position in range(count):
        while around and around[-1][0] <= position:
            around.pop()
        while bracket is not None and bracket.start == position:
            end = count if bracket.end is None else bracket.end
            if end > position:
                outer = around[-1][1] if around else 1.0
                product = outer * bracket.factor
                around.append((end, math.copysign(min(abs(product), _MAX_FACTOR), product)))
            bracket = next(upcoming, None)
        products.append(around[-1][1] if around else 1.0)
    return products


def _held(weight: float) -> float:
    return max(-MAX_WEIGHT, min(MAX_WEIGHT, weight))


def _merged(pieces: list[str | Break], weights: list[float]) -> list[Piece]:
    merged: list[Piece] = []
    run: list[str] = []
    run_weight = 1.0

    def end_run() -> None:
        if run:
            merged.append(Span("".join(run), run_weight))
            run.clear()

    for piece, weight in zip(pieces, weights, strict=True):
        if isinstance(piece, Break):
            end_run()
            merged.append(piece)
        elif piece:
            if weight != run_weight:
                end_run()
                run_weight = weight
            run.append(piece)
    end_run()
    return merged or [Span("")]
