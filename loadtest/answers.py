"""Whether an answer is what was asked for: JSON, an image, or an event stream that ends with one."""

from collections.abc import Callable
from typing import Any

import orjson

from loadtest.events import Event, EventParser
from loadtest.exchange import Check, Exchange


class AnswerError(Exception):
    """The answer is not what was asked for; ``retry_after``: seconds after which another attempt is due."""

    def __init__(self, kind: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message
        self.retry_after = retry_after


class StreamFollower:
    """Reads the events of one stream: ``queued``, ``started``, ``progress``, then ``result`` or ``error``."""

    def __init__(self, exchange: Exchange, now: Callable[[], float], check: Check) -> None:
        self._exchange = exchange
        self._now = now
        self._check = check
        self._parser = EventParser()
        self._last = now()
        self._ended = False

    def feed(self, chunk: bytes) -> None:
        """Take in bytes as they arrive."""
        now = self._now()
        self._exchange.longest_silence = max(self._exchange.longest_silence, now - self._last)
        self._last = now
        for event in self._parser.feed(chunk):
            self._event(event, now - self._exchange.intended)

    def _event(self, event: Event, since: float) -> None:
        one = self._exchange
        match event.name:
            case "started":
                one.started = since if one.started is None else one.started
            case "progress":
                one.first_progress = since if one.first_progress is None else one.first_progress
                one.progress_events += 1
            case "result":
                self._ended = True
                self._result(event.data.encode())
            case "error":
                self._ended = True
                raise _error_of(event.data)

    def _result(self, data: bytes) -> None:
        answer = check_body(self._check, data)
        if isinstance(answer, dict):
            # Headers left before the image was begun; the result knows better.
            self._exchange.cold = self._exchange.cold or answer.get("cold_start") is True
            self._exchange.pod = self._exchange.pod or str(answer.get("served_by") or "")[:253]

    def finish(self) -> None:
        """The stream has ended: it must have said how."""
        if not self._ended:
            raise AnswerError("stream without result", "the stream ended before a result or an error event")


def check_body(check: Check, body: bytes) -> Any:
    """The parsed ``body``, None unparsed; :class:`AnswerError` if it isn't what ``check`` asks for."""
    if check == "none":
        return None
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise AnswerError("bad JSON", f"{error}; the body starts with {body[:40]!r}") from None
    if check == "image" and not (isinstance(answer, dict) and answer.get("images")):
        raise AnswerError("no image", f"JSON without images; the body starts with {body[:40]!r}")
    return answer


def _error_of(data: str) -> AnswerError:
    """The failure that an ``error`` event tells: its code, its sentence, and when to come back."""
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        return AnswerError("stream error unreadable", data[:200])
    wait = fields.get("retry_after")
    return AnswerError(
        f"stream error {str(fields.get('code') or 'unnamed')[:60]}",
        str(fields.get("detail") or "")[:200],
        float(wait) if isinstance(wait, int | float) and wait >= 0 else None,
    )
