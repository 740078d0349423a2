"""One at a time: the only lock in front of the device, with a bounded first-come-first-served queue.

A place is taken the moment a request arrives (:meth:`Slot.enter`, which never waits), so the bound holds
whatever the event loop does next. The permit returns exactly once, when the device is really idle: a slot that
a proxy freed is not a free GPU.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from service.core.cancel import CancelToken
from service.core.errors import QueueFull


class Place:
    """A request's place: in the queue, then on the device, then gone. Made by :meth:`Slot.enter`.

    Use as an asynchronous context manager: entering waits for the device (and raises the token's error if the
    request is cancelled first), leaving gives it back.
    """

    def __init__(self, slot: "Slot", token: CancelToken, on_position: Callable[[int], None] | None) -> None:
        self._slot = slot
        self._token = token
        self._on_position = on_position
        self._loop = asyncio.get_running_loop()
        self._granted: asyncio.Future[None] = self._loop.create_future()
        token.on_cancel(self._cancelled_anywhere)

    def _cancelled_anywhere(self) -> None:
        # Tokens are cancelled from any thread; the queue belongs to the event loop.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._slot._drop, self)

    def tell_position(self, position: int) -> None:
        """Pass on how many requests stand before this one (0 = on the device)."""
        if self._on_position is not None:
            self._on_position(position)

    async def __aenter__(self) -> Self:
        try:
            await asyncio.shield(self._granted)
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
        """Leave the queue or give the device back; only the first call counts."""
        self._slot._release(self)


class Slot:
    """The device's one permit and the queue behind it. To be used from one event loop only.

    ``queue_size`` requests may wait; 0 means that a busy device refuses at once. ``on_change(busy, waiting)`` is
    called after every change.
    """

    def __init__(self, queue_size: int, on_change: Callable[[bool, int], None] | None = None) -> None:
        if queue_size < 0:
            raise ValueError("queue_size must be 0 or more")
        self._queue_size = queue_size
        self._on_change = on_change
        self._holder: Place | None = None
        self._waiting: deque[Place] = deque()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def busy(self) -> bool:
        """True while a request holds the device."""
        return self._holder is not None

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def raise_if_full(self) -> None:
        """Raise :class:`QueueFull` if :meth:`enter` would."""
        if self._holder is not None and len(self._waiting) >= self._queue_size:
            raise QueueFull(
                f"{len(self._waiting)} requests already wait for the device and SD_QUEUE_SIZE is "
                f"{self._queue_size}: try again later.",
                retry_after=5,
            )

    def enter(self, token: CancelToken, on_position: Callable[[int], None] | None = None) -> Place:
        """Take a place at the end of the queue, at once. Raises :class:`QueueFull` when there is none."""
        token.raise_if_cancelled()
        self.raise_if_full()
        place = Place(self, token, on_position)
        self._waiting.append(place)
        self._advance()
        return place

    async def wait_idle(self) -> None:
        """Return when nothing runs and nothing waits."""
        await self._idle.wait()

    def _advance(self) -> None:
        if self._holder is None and self._waiting:
            self._holder = self._waiting.popleft()
            if not self._holder._granted.done():
                self._holder._granted.set_result(None)
            self._holder.tell_position(0)
        for position, place in enumerate(self._waiting, start=1):
            place.tell_position(position)
        if self._holder is None:
            self._idle.set()
        else:
            self._idle.clear()
        if self._on_change is not None:
            self._on_change(self.busy, self.waiting)

    def _drop(self, place: Place) -> None:
        """A waiting request was cancelled: it leaves at once. One on the device stays until it lets go."""
        if place in self._waiting:
            self._waiting.remove(place)
            if not place._granted.done():
                place._granted.set_exception(place._token.error())
            self._advance()

    def _release(self, place: Place) -> None:
        if place is self._holder:
            self._holder = None
        elif place in self._waiting:
            self._waiting.remove(place)
        else:
            return
        if not place._granted.done():
            place._granted.cancel()
        self._advance()
