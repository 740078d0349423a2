"""Where work goes that is heavy but not the device's: reading and writing pictures, planning scripts."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from service.core.tasks import Task

P = ParamSpec("P")
T = TypeVar("T")


class Lanes:
    """A few threads beside the event loop. A task that is no longer wanted stops waiting for them at once.

    What clients send is read in lanes of its own: however much of it there is, what is made gets written meanwhile.
    """

    def __init__(self, threads: int = 2) -> None:
        self._writing = ThreadPoolExecutor(threads, thread_name_prefix="writing")
        self._reading = ThreadPoolExecutor(threads, thread_name_prefix="reading")

    async def run(
        self, task: Task | None, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs
    ) -> T:
        """``function(…)`` in a thread. Raises what it raises, or why ``task`` is no longer wanted.

        A thread cannot be stopped: what it makes for a task that left is thrown away.
        """
        return await self._run(self._writing, task, lambda: function(*arguments, **keywords))

    async def read(
        self, task: Task | None, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs
    ) -> T:
        """The same, for what a client sent: parsing, decoding, planning."""
        return await self._run(self._reading, task, lambda: function(*arguments, **keywords))

    def later(self, function: Callable[[], object]) -> None:
        """``function()`` in a thread, whenever there is time; nobody waits for it."""
        with suppress(RuntimeError):  # closed meanwhile
            self._writing.submit(function)

    async def _run(self, threads: ThreadPoolExecutor, task: Task | None, work: Callable[[], T]) -> T:
        if task is not None and task.token.cause not in (None, "interrupt"):
            raise task.token.error()
        future = asyncio.get_running_loop().run_in_executor(threads, work)
        return await (future if task is None else while_wanted(task, future))

    def close(self) -> None:
        """Release the threads."""
        for threads in (self._writing, self._reading):
            threads.shutdown(wait=False, cancel_futures=True)


async def while_wanted(task: Task, awaited: Awaitable[T]) -> T:
    """What ``awaited`` gives. Raises the token's error as soon as ``task`` is cancelled, unless by an interrupt.

    An interrupted task goes on to be answered, with what there is; any other cause means that nobody waits.
    """
    loop = asyncio.get_running_loop()
    given_up: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not given_up.done():
            given_up.set_result(None)

    def cancelled() -> None:
        if task.token.cause != "interrupt":
            loop.call_soon_threadsafe(tell)

    task.token.on_cancel(cancelled)
    future = asyncio.ensure_future(awaited)
    try:
        waiting: set[asyncio.Future[Any]] = {future, given_up}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise task.token.error()
        return future.result()
    finally:
        given_up.cancel()
        if not future.done():
            future.cancel()
