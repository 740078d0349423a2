"""Which numbers and strings exist for this service: what JSON may hold, and what text may stand for a number.

Whatever passes here can be kept, echoed and answered: finite numbers, whole numbers of 64 bits, strings that UTF-8 can
write, and nesting that a parser can follow. All that a client sends comes through :func:`loads`.
"""

import json
import math
from collections.abc import Iterator
from typing import Any, Final

import orjson

SMALLEST_INT: Final = -(2**63)
LARGEST_INT: Final = 2**63 - 1

DEEPEST: Final = 64
"""Levels of lists and objects; A1111's own bodies have five."""

LONGEST_TEXT: Final = 100_000
"""Characters of a text that is no picture."""

PICTURE: Final = 4096
"""Bytes from which a text in JSON may be a picture. Fields that hold none have limits of their own."""

_OUTSIDE: Final = (b"", b":", b",", b"]", b"}")
"""How JSON goes on behind a text; b"" for nothing but white space."""

_EXPLAINED: Final = (
    1_000_000  # bytes up to which a body that is refused is read once more for a better sentence
)


class Unacceptable(ValueError):
    """``path`` in the body leads to a value that does not exist here; the text says why."""

    def __init__(self, path: tuple[str | int, ...], why: str) -> None:
        super().__init__(why)
        self.path = path
        self.why = why


def weigh(data: bytes, most: int) -> int:
    """Bytes of a JSON text apart from its pictures: texts of :data:`PICTURE` bytes and more. Counts to ``most`` or so.

    Nothing is parsed: the text is cut at its quotes, which neither base64 nor an address has, and what lies between
    two of them is no picture if it has lists or objects in it.
    """
    beside, start = 0, 0
    while beside <= most and start <= len(data):
        end = data.find(b'"', start)
        end = len(data) if end < 0 else end
        beside += 1 + (0 if _is_picture(data, start, end) else end - start)
        start = end + 1
    return beside


def _is_picture(data: bytes, start: int, end: int) -> bool:
    """Whether what stands between two quotes is long, begins as no JSON does, and has no lists or objects in it."""
    if end - start < PICTURE or start == 0:
        return False
    begin = data[start : start + 16].lstrip()[:1]
    return begin not in _OUTSIDE and all(data.count(mark, start, end) <= 16 for mark in (b",", b"[", b"{"))


def loads(data: bytes) -> Any:
    """The value of a JSON text. Raises :class:`Unacceptable` for what is none, and for what may not be in one."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        _explain(data)
        raise Unacceptable((error.pos,), f"JSON decode error: {error.msg}") from None
    check(value)
    return value


def check(value: Any) -> None:
    """Raise :class:`Unacceptable` for the first value inside ``value`` (JSON's types) that does not exist here."""
    for path, item in _walk(value):
        if len(path) > DEEPEST:
            raise Unacceptable(path[:3], f"nested more than {DEEPEST} levels deep")
        if isinstance(item, str):
            if not is_text(item):
                raise Unacceptable(path, "a lone surrogate (\\ud800 … \\udfff) is no character")
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise Unacceptable(path, "must be a finite number")
        elif isinstance(item, int) and not SMALLEST_INT <= item <= LARGEST_INT:
            raise Unacceptable(path, f"must be a whole number from {SMALLEST_INT} to {LARGEST_INT}")


def is_text(text: str) -> bool:
    """Whether UTF-8 can write ``text``."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def finite(text: str) -> float:
    """The finite number that ``text`` stands for. Raises ValueError."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]!r} is not finite")
    return value


def whole(text: str) -> int:
    """The whole number of 64 bits that ``text`` stands for; "20.7" is 20, as in A1111. Raises ValueError."""
    try:
        value = int(text) if len(text) < 40 else int(finite(text))
    except ValueError:
        value = int(finite(text))
    if not SMALLEST_INT <= value <= LARGEST_INT:
        raise ValueError(f"{text[:40]!r} has more than 64 bits")
    return value


def _walk(value: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value with the path to it, containers first; never deeper than one level beyond what is allowed."""
    pending: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while pending:
        path, item = pending.pop()
        yield path, item
        if isinstance(item, dict):
            for key, inner in item.items():
                if not is_text(key):
                    raise Unacceptable(path, "a lone surrogate (\\ud800 … \\udfff) is no character")
                pending.append(((*path, key), inner))
        elif isinstance(item, list):
            pending.extend(((*path, index), inner) for index, inner in enumerate(item))


def _explain(data: bytes) -> None:
    """Raise a better sentence than the strict parser's where a lax one can read ``data``: it names the field."""
    if len(data) > _EXPLAINED:
        return
    try:
        value = json.loads(data)
    except RecursionError:
        raise Unacceptable((), f"nested more than {DEEPEST} levels deep") from None
    except ValueError:
        return
    check(value)
