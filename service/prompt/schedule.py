"""Prompt editing: which text a prompt reads at which step.

``[from:to:when]``, ``[to:when]`` and ``[from::when]`` change the text once, ``[a|b|c]`` changes it at every
step. Both nest, in each other and in attention brackets, which this module leaves as they are. ``when`` is
a step if it is written as an integer, a fraction of the steps if it has a point. During the second pass of
hires fix an integer counts on from the steps of the first pass and a fraction from 1: ``[a:b:1.5]`` changes
half-way through the second pass.

The language is A1111's: a bracket that makes none of these forms is text, and so are all brackets around
it. A ``|`` that separates nothing turns editing off for the whole prompt, which then is read as it is
written.
"""

import math
import re
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final, TypeAlias

_LEXEME: Final = re.compile(r"(?P<plain>(?:[^\\\[\]():|]++|\\.?)++)|[\[\]():|]", re.DOTALL)
_WHEN: Final = re.compile(r"\s*+([+-]?(?:\d++(?:\.\d*+)?+|\.\d++)(?:[eE][+-]?\d++)?+)\s*+")


@dataclass(frozen=True, slots=True)
class ScheduledText:
    """The text that is valid up to and with step ``until`` (from the step after the one before's)."""

    until: int
    text: str


@dataclass(frozen=True, slots=True)
class _Change:
    before: "tuple[_Node, ...]"
    after: "tuple[_Node, ...]"
    when: str


@dataclass(frozen=True, slots=True)
class _Alternation:
    options: "tuple[tuple[_Node, ...], ...]"


@dataclass(frozen=True, slots=True)
class _Group:
    """Attention brackets and what they hold; they stay in the text."""

    nodes: "tuple[_Node, ...]"


_Node: TypeAlias = str | _Change | _Alternation | _Group


class _Separator(str):
    """A ``:`` or ``|`` that may yet turn out to part the branches of a form."""


class _Frame:
    """A bracket that has been opened and not yet closed."""

    __slots__ = ("colons", "nodes", "opening", "pipes")

    def __init__(self, opening: str) -> None:
        self.opening = opening
        self.nodes: list[_Node] = []
        self.colons = 0
        self.pipes = 0

    def close(self) -> _Node | None:
        """The form that the bracket makes if it ends here; None if it makes none."""
        if self.opening == "(":
            if self.pipes or self.colons > 1:
                return None
            return _Group(("(", *self.nodes, ")"))
        if self.pipes:
            return None if self.colons else _Alternation(self._branches())
        if self.colons == 0:
            return _Group(("[", *self.nodes, "]"))
        if self.colons > 2:
            return None
        *branches, last = self._branches()
        when = _WHEN.fullmatch(last[0]) if len(last) == 1 and isinstance(last[0], str) else None
        if when is None:
            return None
        return _Change(branches[0] if len(branches) == 2 else (), branches[-1], when[1])

    def _branches(self) -> tuple[tuple[_Node, ...], ...]:
        branches: list[list[_Node]] = [[]]
        for node in self.nodes:
            if isinstance(node, _Separator):
                branches.append([])
            else:
                branches[-1].append(node)
        return tuple(tuple(branch) for branch in branches)


def _parse(prompt: str) -> tuple[_Node, ...]:
    """The prompt as nodes, in time linear in its length."""
    root: list[_Node] = []
    frames: list[_Frame] = []

    def give_up() -> bool:
        """Make text of all open brackets; False if that leaves a ``|`` that separates nothing."""
        for frame in frames:
            root.append(frame.opening)
            root.extend(frame.nodes)
        sound = not any(frame.pipes for frame in frames)
        frames.clear()
        return sound

    for lexeme in _LEXEME.finditer(prompt):
        text = lexeme[0]
        if lexeme["plain"]:
            (frames[-1].nodes if frames else root).append(text)
        elif text in "([":
            frames.append(_Frame(text))
        elif text == "|":
            if not frames:
                return (prompt,)
            frames[-1].pipes += 1
            frames[-1].nodes.append(_Separator(text))
        elif text == ":":
            if frames:
                frames[-1].colons += 1
            (frames[-1].nodes if frames else root).append(_Separator(text))
        else:
            node = None
            if frames and frames[-1].opening == {")": "(", "]": "["}[text]:
                node = frames[-1].close()
            if node is not None:
                frames.pop()
                (frames[-1].nodes if frames else root).append(node)
            elif give_up():
                root.append(text)
            else:
                return (prompt,)
    return tuple(root) if give_up() else (prompt,)


@dataclass(frozen=True, slots=True)
class _Pass:
    """One run of the sampler: its steps, and what the numbers of a prompt count from."""

    steps: int
    first_step: int
    first_fraction: float

    def step_of(self, when: str) -> int:
        """The last step before the change; less than 1 means that the change is made from the start."""
        value = float(when)
        value = (value - self.first_fraction) * self.steps if "." in when else value - self.first_step
        return int(max(-1.0, min(float(self.steps), value)))


def _changes(nodes: tuple[_Node, ...], run: _Pass) -> tuple[list[int], int]:
    """The steps after which a change is made, in order, the last step among them; and the period of alternations.

    The period is 1 where there are none, and never more than the steps: beyond them nothing repeats.
    """
    found = {run.steps}
    lengths: set[int] = set()
    pending: list[_Node] = list(nodes)
    while pending:
        match pending.pop():
            case _Change(before, after, when):
                if (step := run.step_of(when)) >= 1:
                    found.add(step)
                pending += before
                pending += after
            case _Alternation(options):
                lengths.add(len(options))
                pending += (node for option in options for node in option)
            case _Group(inner):
                pending += inner
    period = 1
    for length in lengths:
        period = min(run.steps, math.lcm(period, length))
    return sorted(found), period


def _text_at(nodes: tuple[_Node, ...], step: int, run: _Pass) -> str:
    text: list[str] = []
    pending: list[_Node] = list(reversed(nodes))
    while pending:
        match pending.pop():
            case _Change(before, after, when):
                pending += reversed(before if step <= run.step_of(when) else after)
            case _Alternation(options):
                pending += reversed(options[(step - 1) % len(options)])
            case _Group(inner):
                pending += reversed(inner)
            case str(plain):
                text.append(plain)
    return "".join(text)


def schedule(prompt: str, steps: int, hires_steps: int | None = None) -> list[ScheduledText]:
    """The texts of ``prompt`` over one pass, in order; the last one is valid until the pass ends.

    ``steps`` (≥ 1) is the number of steps of the first pass. With ``hires_steps`` (≥ 1) the schedule is
    that of the second pass, else that of the first. Neighbours are always different. Accepts every string.
    """
    run = _Pass(steps, 0, 0.0) if hires_steps is None else _Pass(hires_steps, steps, 1.0)
    nodes = _parse(prompt)
    changes, period = _changes(nodes, run)
    texts: list[ScheduledText] = []
    made: dict[tuple[int, int], str] = {}
    for step in changes if period == 1 else range(1, run.steps + 1):
        # The text depends on which changes lie behind and where the alternations are, on nothing else.
        key = bisect_left(changes, step), (step - 1) % period
        if key not in made:
            made[key] = _text_at(nodes, step, run)
        text = made[key]
        if texts and texts[-1].text == text:
            texts.pop()
        texts.append(ScheduledText(step, text))
    return texts
