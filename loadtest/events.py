"""Server-sent events out of a byte stream (WHATWG HTML, 9.2.6), comments counted: heartbeats are a sign of
life.
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its name ("message" if the server gave none) and its data, lines joined by a line feed."""

    name: str
    data: str


class EventParser:
    """Feed it chunks as they arrive; it yields the events that are complete.

    A large event (an image is one line of some hundred kilobytes) may come in many chunks: they are
    joined once.
    """

    def __init__(self) -> None:
        self.comments = 0
        self._pieces: list[bytes] = []
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that ``chunk`` completes. Lines end in LF or CR LF; data must be UTF-8 (else
        replaced).
        """
        if b"\n" not in chunk:
            self._pieces.append(chunk)
            return
        *lines, rest = b"".join((*self._pieces, chunk)).split(b"\n")
        self._pieces = [rest] if rest else []
        for raw in lines:
            event = self._line(raw.removesuffix(b"\r").decode("utf-8", "replace"))
            if event is not None:
                yield event

    def _line(self, line: str) -> Event | None:
        if not line:
            event = Event(self._name or "message", "\n".join(self._data)) if self._data else None
            self._name, self._data = "", []
            return event
        if line.startswith(":"):
            self.comments += 1
            return None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        return None
