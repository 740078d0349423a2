"""Whose turn it is: places at a device or an upstream, given in turns to the clients that wait.

A place in line is taken the moment a request arrives (:meth:`Turns.enter`, which never waits), so the bound holds
whatever the event loop does next. Within one client the order is that of arrival; between clients places go round, so
that one with two hundred jobs does not make another wait for all of them. A place returns exactly once, when whoever
had it lets go: a request whose client went away may still hold the device.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from service.core.cancel import CancelToken
from service.core.errors import QueueFull


class Turn:
    """One job's place: in the queue, then inside, then gone. Made by :meth:`Turns.enter`.

    Use as an asynchronous context manager: entering waits for the turn (and raises the token's error if the job is
    cancelled first), leaving gives the place to the next.
    """

    def __init__(
        self, turns: "Turns", client: str, token: CancelToken, on_position: Callable[[int], None]
    ) -> None:
        self.client = client
        self.since = time.monotonic()
        self._turns = turns
        self._token = token
        self._on_position = on_position
        self._told: int | None = None
        self._loop = asyncio.get_running_loop()
        self.granted: asyncio.Future[None] = self._loop.create_future()
        token.on_cancel(self._cancelled_anywhere)

    def _cancelled_anywhere(self) -> None:
        # Tokens are cancelled from any thread; the queue belongs to the event loop.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._turns._drop, self)

    def tell(self, position: int) -> None:
        """Pass on how many stand before this one, if that is news."""
        if position != self._told:
            self._told = position
            self._on_position(position)

    @property
    def error(self) -> Exception:
        """Why it left the queue."""
        return self._token.error()

    async def __aenter__(self) -> Self:
        try:
            await asyncio.shield(self.granted)
            self._token.raise_if_cancelled()
        except BaseException:
            self.release()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Leave the queue, or give the place back; only the first call counts."""
        self._turns._leave(self)


class Turns:
    """``places`` at once; at most ``queue_size`` wait (0: where all places are taken, nobody may). ``on_change`` is
    called after every change. ``name`` is what refusals call the device.

    To be used from one event loop.
    """

    def __init__(
        self,
        places: int,
        queue_size: int,
        on_change: Callable[[], None] = lambda: None,
        name: str = "the device",
    ) -> None:
        if queue_size < 0:
            raise ValueError("queue_size must be 0 or more")
        self._places = places
        self._queue_size = queue_size
        self._on_change = on_change
        self._name = name
        self._inside: set[Turn] = set()
        self._waiting: OrderedDict[str, deque[Turn]] = OrderedDict()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """Jobs that have a place."""
        return len(self._inside)

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return sum(map(len, self._waiting.values()))

    @property
    def oldest(self) -> float:
        """Seconds for which the longest waiting job has waited; 0 where none waits."""
        now = time.monotonic()
        return max((now - line[0].since for line in self._waiting.values()), default=0.0)

    def raise_if_full(self) -> None:
        """Raise :class:`QueueFull` if :meth:`enter` would."""
        if self.in_flight >= self._places and self.waiting >= self._queue_size:
            raise QueueFull(
                f"{self.waiting} requests already wait for {self._name} and SD_QUEUE_SIZE is "
                f"{self._queue_size}: try again later.",
                retry_after=5,
            )

    def enter(
        self, client: str, token: CancelToken, on_position: Callable[[int], None] = lambda position: None
    ) -> Turn:
        """Take a place at the end of ``client``'s line, at once. Raises :class:`QueueFull`."""
        token.raise_if_cancelled()
        self.raise_if_full()
        turn = Turn(self, client, token, on_position)
        self._waiting.setdefault(client, deque()).append(turn)
        self._advance()
        return turn

    async def wait_idle(self) -> None:
        """Return when nothing runs and nothing waits."""
        await self._idle.wait()

    def order(self) -> Iterator[Turn]:
        """Those that wait, in the order in which they will be granted if nobody else comes."""
        lines = [iter(line) for line in self._waiting.values()]
        while lines:
            left = []
            for line in lines:
                turn = next(line, None)
                if turn is not None:
                    yield turn
                    left.append(line)
            lines = left

    def _advance(self) -> None:
        while self._waiting and len(self._inside) < self._places:
            client, line = self._waiting.popitem(last=False)
            turn = line.popleft()
            if line:
                self._waiting[client] = line  # behind the others
            self._inside.add(turn)
            if not turn.granted.done():
                turn.granted.set_result(None)
        for position, turn in enumerate(self.order(), start=len(self._inside)):
            turn.tell(position)
        if self._inside or self._waiting:
            self._idle.clear()
        else:
            self._idle.set()
        self._on_change()

    def _drop(self, turn: Turn) -> None:
        """A waiting job was cancelled: it leaves at once. One that has its turn stays until it lets go."""
        if self._forget(turn):
            if not turn.granted.done():
                turn.granted.set_exception(turn.error)
            self._advance()

    def _leave(self, turn: Turn) -> None:
        if turn in self._inside:
            self._inside.discard(turn)
        elif not self._forget(turn):
            return
        if not turn.granted.done():
            turn.granted.cancel()
        self._advance()

    def _forget(self, turn: Turn) -> bool:
        line = self._waiting.get(turn.client)
        if line is None or turn not in line:
            return False
        line.remove(turn)
        if not line:
            del self._waiting[turn.client]
        return True
