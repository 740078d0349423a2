"""One HTTP connection and its patience: clocks for head, body and answer, and bounds for what is no body.

uvicorn alone waits for ever: for the first byte of a connection, for the rest of a head on a reused one, for a body
that nobody reads, and for a client that does not take its answer.
"""

import functools
from asyncio import AbstractEventLoop, BaseTransport, TimerHandle
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.settings import Settings

LARGEST_HEAD: Final = 64 * 1024
"""Bytes of a request's head, of its trailers, and of what chunks cost beside their content."""

SLOWEST_CLIENT: Final = 32 * 1024
"""Bytes a second that a client has to take of its answer, on average over ``write_timeout``."""

AT_ONCE: Final = 4
"""Requests that are let in during one turn of the event loop."""

PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""What a platform asks does not wait at the door."""

_KEY: Final = "sd.connection"


class _Waits(Enum):
    """What a connection waits for."""

    NOTHING = "the next request"
    HEAD = "the rest of a head"
    BODY = "the rest of a body"
    ANSWER = "the answer"


@dataclass(frozen=True, slots=True)
class Bounds:
    """The patience of a server with its connections, in seconds; how many it has; and who is told of a closed one."""

    header_timeout: float
    body_timeout: float
    write_timeout: float
    max_connections: int
    on_closed: Callable[[str], object]


class Door:
    """Lets requests in a few at a time, so that the event loop comes round to everything else between them.

    Five hundred that arrive in one moment would otherwise all take their steps before a probe takes its first.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._entered = 0

    def enter(self, loop: AbstractEventLoop, start: Callable[[], None]) -> None:
        """Call ``start``, now or soon."""
        if self._entered >= AT_ONCE:
            self._waiting.append(start)
            return
        if self._entered == 0:
            loop.call_soon(self._next, loop)
        self._entered += 1
        start()

    def _next(self, loop: AbstractEventLoop) -> None:
        self._entered = min(AT_ONCE, len(self._waiting))
        if self._entered:
            loop.call_soon(self._next, loop)
        for _ in range(self._entered):
            self._waiting.popleft()()


class GuardedProtocol(HttpToolsProtocol):
    """A connection whose every request is held to the same limits, the first as the last.

    Made by :func:`guarded`, whose ``bounds`` and ``_idle`` (those that ask nothing, longest first) a server shares.
    """

    bounds: ClassVar[Bounds]
    _idle: ClassVar[dict["GuardedProtocol", None]]
    _door: ClassVar[Door]

    _waits = _Waits.NOTHING
    _clock: TimerHandle | None = None
    _write_clock: TimerHandle | None = None
    _idle_until = 0.0
    _in_head = False
    _in_body = False
    _beside_body = 0
    _body_bytes = 0
    _unsent = 0
    slow = False
    """True once the client was given up because it did not take its answer."""
    lost = False
    """True once the connection is gone with a part of an answer untaken."""

    # --- what the application asks --------------------------------------------------------------------

    async def flushed(self) -> None:
        """Return when the client's side has taken all that was written, or is gone."""
        await self.flow.drain()

    # --- the connection ----------------------------------------------------------------------------------

    def connection_made(self, transport: BaseTransport) -> None:
        """Start the clock: a head has to come."""
        super().connection_made(transport)  # type: ignore[arg-type]
        # Whatever the kernel has not taken yet counts as not written: see flushed.
        self.transport.set_write_buffer_limits(high=0)
        self._wait(_Waits.HEAD, self.bounds.header_timeout)
        if len(self.connections) > self.bounds.max_connections:
            # Those who ask nothing give way, the longest silent one first; where all are busy, the newcomer does.
            next(iter(self._idle))._give_up("too_many")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.lost = self.flow is not None and self.flow.write_paused
        self._idle.pop(self, None)
        self._stop("_clock")
        self._stop("_write_clock")
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came. Blank lines between requests are none: they do not keep a connection."""
        was_idle = self._waits is _Waits.NOTHING
        self._beside_body += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if was_idle and self._waits is _Waits.NOTHING:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_at(
                self._idle_until, self.timeout_keep_alive_handler
            )
        if (self._in_head or self._in_body) and self._beside_body > LARGEST_HEAD + 8 * self._body_bytes:
            self._refuse_head()

    # --- the parser --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self.scope[_KEY] = self  # type: ignore[typeddict-unknown-key]
        self._in_head, self._in_body, self._beside_body, self._body_bytes = True, False, 0, 0
        if self._waits is _Waits.NOTHING:
            self._wait(_Waits.HEAD, self.bounds.header_timeout)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers, which come behind a body in chunks, are nothing that anybody here reads."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there: it is the body's turn, unless the answer before it is still on its way."""
        busy = self._busy()
        self._in_head, self._in_body = False, True
        super().on_headers_complete()
        if not busy:
            self._wait(_Waits.BODY, self.bounds.body_timeout)

    def on_body(self, body: bytes) -> None:
        """A part of the body, whether anybody reads it or not."""
        self._body_bytes += len(body)
        self._beside_body -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        self._in_body = False
        super().on_message_complete()
        if self._waits is _Waits.BODY:
            if self._busy():
                self._wait(_Waits.ANSWER)
            else:
                self._rest()

    def on_response_complete(self) -> None:
        """The answer is written: the next request's turn, or what is left of this one."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._busy():  # a request that was sent ahead
            if self._in_body:
                self._wait(_Waits.BODY, self.bounds.body_timeout)
        elif self._in_body:  # answered before it was read: the clock that runs goes on
            self._unset_keepalive_if_required()
        elif self._in_head:
            self._unset_keepalive_if_required()
            self._wait(_Waits.HEAD, self.bounds.header_timeout)
        else:
            self._rest()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        self.bounds.on_closed("malformed")
        super().send_400_response(msg)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """uvicorn's start of the application for one request."""
        start = functools.partial(super()._start_asgi_task, cycle, app)
        if cycle.scope["path"] in PROBES:
            start()
        else:
            self._door.enter(self.loop, start)

    # --- writing -----------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The client does not take as fast as is written: watch that it takes at all."""
        super().pause_writing()
        if self._write_clock is None:
            self._unsent = self.transport.get_write_buffer_size()
            self._write_clock = self.loop.call_later(self.bounds.write_timeout, self._look_whether_it_reads)

    def resume_writing(self) -> None:
        """The client has all of it."""
        self._stop("_write_clock")
        super().resume_writing()

    def _look_whether_it_reads(self) -> None:
        self._write_clock = None
        left = self.transport.get_write_buffer_size()
        if left and self._unsent - left < min(self._unsent, SLOWEST_CLIENT * self.bounds.write_timeout):
            self.slow = True
            self.bounds.on_closed("slow_client")
            self.transport.abort()
            return
        self._unsent = left
        self._write_clock = self.loop.call_later(self.bounds.write_timeout, self._look_whether_it_reads)

    # --- the clock -----------------------------------------------------------------------------------------

    def _busy(self) -> bool:
        """Whether an answer is owed."""
        return self.cycle is not None and not self.cycle.response_complete

    def _rest(self) -> None:
        """Nothing is owed and nothing was begun: uvicorn's own clock for idle connections runs."""
        self._wait(_Waits.NOTHING)
        self._idle_until = self.loop.time() + self.timeout_keep_alive
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_at(
                self._idle_until, self.timeout_keep_alive_handler
            )

    def _wait(self, what: _Waits, seconds: float | None = None) -> None:
        """Wait for ``what``, at most ``seconds``."""
        self._waits = what
        self._stop("_clock")
        self._idle.pop(self, None)
        if what in (_Waits.NOTHING, _Waits.HEAD):
            self._idle[self] = None
        if seconds is not None:
            self._clock = self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        self._clock = None
        self._give_up("slow_head" if self._waits is _Waits.HEAD else "slow_body")

    def _give_up(self, reason: str) -> None:
        if not self.transport.is_closing():
            self.bounds.on_closed(reason)
            self.transport.close()

    def _refuse_head(self) -> None:
        self.bounds.on_closed("large_head")
        if not self._busy():
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
        self.transport.close()

    def _stop(self, clock: str) -> None:
        timer: TimerHandle | None = getattr(self, clock)
        if timer is not None:
            timer.cancel()
            setattr(self, clock, None)


def guarded(settings: Settings, on_closed: Callable[[str], object]) -> type[GuardedProtocol]:
    """The connections of one server. ``on_closed`` is told of each closed before its time (see ``metrics.CLOSED``)."""
    bounds = Bounds(
        header_timeout=settings.header_timeout,
        # The application refuses a slow body itself, with a sentence; this clock is for those that it never reads.
        body_timeout=settings.body_timeout + 1.0,
        write_timeout=settings.write_timeout,
        max_connections=settings.max_connections,
        on_closed=on_closed,
    )
    return type("BoundProtocol", (GuardedProtocol,), {"bounds": bounds, "_idle": {}, "_door": Door()})


def connection_of(scope: Any) -> GuardedProtocol | None:
    """The connection on which a request came; None where there is none (an application under test)."""
    found = scope.get(_KEY)
    return found if isinstance(found, GuardedProtocol) else None
