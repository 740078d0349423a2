"""Carries out a run: a closed loop of users, or an open loop of arrivals that waits for nobody.

Memory is bounded by the requests in flight (and those by ``max_in_flight``), whatever the length of the run.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.arrivals import Arrival
from loadtest.client import Client
from loadtest.exchange import Session
from loadtest.payloads import Payloads
from loadtest.tally import Tally


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """``concurrency`` users, each of whom sends, waits for the answer, thinks, and sends again."""

    concurrency: int
    requests: int | None
    """Stop after so many; None: when the duration is over."""
    duration: float | None = None
    """Start nothing after so many seconds; what is in flight may finish."""
    think: Callable[[], float] | None = None


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Requests start when ``arrivals`` say so, however long earlier ones take."""

    arrivals: Iterable[Arrival]
    requests: int | None
    duration: float | None = None
    max_in_flight: int = 10_000
    """More than so many wait here; their latency counts from the intended start all the same."""


class Runner:
    """One run. :meth:`execute` returns when all requests have ended or :meth:`stop` was called."""

    def __init__(
        self,
        loop: ClosedLoop | OpenLoop,
        client: Client,
        payloads: Payloads,
        tally: Tally,
        sessions: int = 0,
    ) -> None:
        self._loop = loop
        self._client = client
        self._payloads = payloads
        self._tally = tally
        self._sessions: Sequence[Session] = [Session(number) for number in range(sessions)]
        self._issued = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self._stopped = False
        self.in_flight = 0
        self.unfinished = 0
        """Requests that were in flight when the run was stopped."""
        self.held_back = 0
        """Requests of an open loop that waited because ``max_in_flight`` were under way."""

    @property
    def interrupted(self) -> bool:
        """True once :meth:`stop` was called."""
        return self._stopped

    def stop(self) -> None:
        """End the run now: nothing new starts, what is in flight is given up and counted as unfinished."""
        if not self._stopped:
            self._stopped = True
            for task in self._tasks:
                task.cancel()

    async def execute(self) -> None:
        """Run to the end. Never raises for what a server does."""
        self._client.start()
        if isinstance(self._loop, ClosedLoop):
            for user in range(self._loop.concurrency):
                self._spawn(self._user(self._loop, user))
        else:
            self._spawn(self._dispatch(self._loop))
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        if self._error is not None:
            raise self._error

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = self._error or error
            self.stop()

    async def _user(self, loop: ClosedLoop, user: int) -> None:
        session = self._sessions[user % len(self._sessions)] if self._sessions else None
        while self._more(loop, self._client.now()):
            await self._request(self._next(), None, session)
            if loop.think is not None and self._more(loop, self._client.now()):
                await asyncio.sleep(loop.think())

    async def _dispatch(self, loop: OpenLoop) -> None:
        room = asyncio.Semaphore(loop.max_in_flight)
        for arrival in loop.arrivals:
            if not self._more(loop, arrival.at):
                return
            # Also when late: sleep(0) lets answers be read before the next request leaves.
            await asyncio.sleep(max(0.0, arrival.at - self._client.now()))
            self.held_back += room.locked()
            await room.acquire()
            number = self._next()
            session = self._sessions[number % len(self._sessions)] if self._sessions else None
            task = self._spawn(self._request(number, arrival, session))
            task.add_done_callback(lambda _: room.release())

    def _more(self, loop: ClosedLoop | OpenLoop, at: float) -> bool:
        """Whether another request may start at ``at`` seconds."""
        return (loop.requests is None or self._issued < loop.requests) and (
            loop.duration is None or at < loop.duration
        )

    def _next(self) -> int:
        self._issued += 1
        return self._issued - 1

    async def _request(self, number: int, arrival: Arrival | None, session: Session | None) -> None:
        self.in_flight += 1
        try:
            body, path = (arrival.body, arrival.path) if arrival is not None else ({}, "")
            payload = self._payloads.of(number, body, path)
            at = None if arrival is None else arrival.at
            exchange = await self._client.send(number, payload, session, at)
        except asyncio.CancelledError:
            self.unfinished += 1
            raise
        finally:
            self.in_flight -= 1
        self._tally.add(exchange, session)
