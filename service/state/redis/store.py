"""The store in Redis: options, tasks, catalogues and commands behind one writer and one listener."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson

from service.core.errors import StateUnavailable
from service.core.tasks import Phase
from service.state.redis.link import PREFIX, Link, Query
from service.state.redis.options import SharedOptions
from service.state.redis.tasks import SharedTasks
from service.state.store import Command, CommandHandler

WRITE_SECONDS: Final = 0.1
"""What has changed is written this often."""
RENEW_SECONDS: Final = 10.0
"""Signs of life are given this often."""


class RedisStore:
    """A :class:`~service.state.store.Store` in a Redis (or Valkey) server, not a cluster of them."""

    def __init__(
        self,
        url: str,
        *,
        session_ttl: float,
        max_sessions: int,
        on_sessions: Callable[[int], object] = lambda count: None,
        on_error: Callable[[str], object] = lambda kind: None,
    ) -> None:
        """``on_sessions`` is told how many sessions are kept; ``on_error`` of each failure, which is ``unreachable``,
        ``refused`` or ``garbage``. Raises :class:`ValueError` for a URL that is none.
        """
        self.owner = uuid.uuid4().hex
        self._link = Link(url, on_error, self._back)
        self._something = asyncio.Event()
        self._options = SharedOptions(self._link, session_ttl, max_sessions, on_sessions)
        self._tasks = SharedTasks(self._link, self.owner, self._something)
        self._catalogues: dict[str, Mapping[str, Any]] = {}
        self._new_catalogues: dict[str, Mapping[str, Any]] = {}
        self._on_command: CommandHandler = lambda command: None
        self._work: list[asyncio.Task[None]] = []
        self.options = self._options.read
        self.set_options = self._options.update
        self.open = self._tasks.open
        self.tell = self._tasks.tell
        self.finish = self._tasks.finish
        self.find = self._tasks.find
        self.under_way = self._tasks.under_way
        self.preview = self._tasks.preview

    @property
    def reachable(self) -> bool:
        """True while Redis answers."""
        return self._link.reachable

    async def start(self, on_command: CommandHandler) -> None:
        """Look for Redis, write what there is to write, listen for commands. Waits a second for Redis at most."""
        self._on_command = on_command
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._link.look()
        listening = self._link.listen(f"front:{self.owner}", self._obey)
        loop = asyncio.get_running_loop()
        self._work = [
            loop.create_task(work) for work in (self._link.keep_looking(), self._keep_writing(), listening)
        ]

    async def close(self) -> None:
        """Write what is left, for a second at most, and close the connections."""
        left = set(self._work)
        while left:  # redis-py loses a cancellation now and then, while it connects
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=0.1)
        with contextlib.suppress(TimeoutError, StateUnavailable):
            async with asyncio.timeout(1):
                await self._write()
        await self._link.close()

    def _back(self) -> None:
        """Redis is there, again or for the first time."""
        self._tasks.write_all_again()
        self._new_catalogues = {**self._catalogues, **self._new_catalogues}
        self._something.set()

    async def _keep_writing(self) -> None:
        renewed = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_SECONDS):
                    await self._something.wait()
            self._something.clear()
            if time.monotonic() - renewed >= RENEW_SECONDS:
                self._tasks.renew()
                renewed = time.monotonic()
            with contextlib.suppress(StateUnavailable):
                await self._write()
            await asyncio.sleep(WRITE_SECONDS)

    async def _write(self) -> None:
        await self._tasks.write()
        seen, self._new_catalogues = self._new_catalogues, {}
        queries: list[Query] = [
            ("SET", f"{PREFIX}catalogue:{upstream}", orjson.dumps(dict(catalogue)))
            for upstream, catalogue in seen.items()
        ]
        if not queries:
            return
        try:
            await self._link.change("What there is to choose from", *queries)
        except (StateUnavailable, asyncio.CancelledError):
            self._new_catalogues = seen | self._new_catalogues
            raise

    # --- commands ------------------------------------------------------------------------------------

    async def send(self, command: Command) -> bool:
        """Have a command carried out here, or publish it to the task's front."""
        record = await self.find(command.task_id)
        if record is None or record.phase is Phase.DONE:
            return False
        if record.owner == self.owner:
            self._on_command(command)
            return True
        message = orjson.dumps({"action": command.action, "task_id": command.task_id})
        (heard,) = await self._link.change("That task", ("PUBLISH", f"{PREFIX}front:{record.owner}", message))
        return int(heard) > 0

    def _obey(self, data: bytes) -> None:
        match self._link.parsed(f"front:{self.owner}", data):
            case {"action": ("interrupt" | "skip") as action, "task_id": str(task_id)}:
                self._on_command(Command(action, task_id))

    # --- the catalogue -------------------------------------------------------------------------------

    async def catalogue(self, upstream: str) -> Mapping[str, Any] | None:
        """What an upstream last said to any front; while Redis is away, to this one."""
        if upstream in self._new_catalogues:
            return self._new_catalogues[upstream]
        key = f"catalogue:{upstream}"
        try:
            (value,) = await self._link.ask("What there is to choose from", ("GET", PREFIX + key))
        except StateUnavailable:
            return self._catalogues.get(upstream)
        content = self._link.parsed(key, value)
        if not isinstance(content, dict):
            return self._catalogues.get(upstream)
        self._catalogues[upstream] = MappingProxyType(content)
        return self._catalogues[upstream]

    def see(self, upstream: str, catalogue: Mapping[str, Any]) -> None:
        """Remember what an upstream has."""
        self._catalogues[upstream] = self._new_catalogues[upstream] = MappingProxyType(dict(catalogue))
        self._something.set()
