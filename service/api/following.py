"""A task followed while it is worked on: what is told of it as it comes, and how it ended."""

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Final, Generic, Literal, Self, TypeVar

from service.core.events import TaskEvent
from service.core.tasks import Task

R = TypeVar("R")

SILENCE: Final = "silence"
"""What is told where nothing was for so long."""


class Following(Generic[R]):
    """``work``, done for ``task`` within a ``with`` block; whoever leaves that before the end wants it no more.

    An iteration gives the task's events until the work ends, and :data:`SILENCE` after each ``silence`` seconds
    without one; then :meth:`failure` and :meth:`result` say how that was.
    """

    def __init__(self, task: Task, work: Awaitable[R], silence: float | None = None) -> None:
        self._task = task
        self._work = work
        self._silence = silence
        self._outbox: asyncio.Queue[TaskEvent | None] = asyncio.Queue()

    def __enter__(self) -> Self:
        self._task.listen(self._outbox.put_nowait)
        self._working = asyncio.ensure_future(self._work)
        self._working.add_done_callback(lambda _: self._outbox.put_nowait(None))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._working.done():
            self._task.token.cancel("disconnect")
            self._working.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TaskEvent | Literal["silence"]:
        try:
            async with asyncio.timeout(self._silence):
                event = await self._outbox.get()
        except TimeoutError:
            return SILENCE
        if event is None:
            raise StopAsyncIteration
        return event

    def failure(self) -> BaseException | None:
        """Why the work that ended failed, for the door too; nothing where :meth:`result` has what it gave."""
        error = self._working.exception()
        if error is not None:
            self._task.failure = error
        return error

    def result(self) -> R:
        """What the work that ended gave."""
        return self._working.result()
