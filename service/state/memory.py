"""State in this process: for one front, or for a pod that has none."""

import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from service.core.errors import BadRequest
from service.state.sessions import Sessions
from service.state.store import (
    ENDED_KEPT,
    ENDED_SECONDS,
    PREVIEW_BYTES,
    Command,
    CommandHandler,
    Layers,
    Preview,
    TaskRecord,
)


class MemoryStore:
    """A :class:`~service.state.store.Store` that ends with its process."""

    reachable = True

    def __init__(
        self,
        *,
        session_ttl: float,
        max_sessions: int,
        on_sessions: Callable[[int], object] = lambda count: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``on_sessions`` is told how many sessions are kept; ``clock`` is for tests."""
        self.owner = uuid.uuid4().hex
        self._clock = clock
        self._everywhere: dict[str, Any] = {}
        self._sessions = Sessions(session_ttl, max_sessions, on_sessions, clock)
        self._under_way: OrderedDict[str, TaskRecord] = OrderedDict()
        self._previews: dict[str, Preview] = {}
        self._ended: OrderedDict[str, tuple[TaskRecord, float]] = OrderedDict()
        self._catalogues: dict[str, Mapping[str, Any]] = {}
        self._on_command: CommandHandler | None = None

    async def start(self, on_command: CommandHandler) -> None:
        """Remember who carries out commands."""
        self._on_command = on_command

    async def close(self) -> None:
        """Nothing to let go of."""
        self._on_command = None

    async def options(self, session: str | None) -> Layers:
        """Both layers, as they are now."""
        return Layers(MappingProxyType(dict(self._everywhere)), self._sessions.options(session))

    async def set_options(self, session: str | None, changes: Mapping[str, Any]) -> None:
        """Set options of a session, or of the process."""
        if session is None:
            self._everywhere.update(changes)
        else:
            self._sessions.update(session, changes)

    async def open(self, record: TaskRecord) -> None:
        """Make a task known. Raises :class:`BadRequest` if one of that id is under way."""
        if record.id in self._under_way:
            raise BadRequest(
                f"A task with id {record.id!r} is already under way: choose another force_task_id."
            )
        self._ended.pop(record.id, None)
        self._under_way[record.id] = replace(record, owner=self.owner)

    def tell(self, record: TaskRecord, preview: Preview | None = None) -> None:
        """The latest of a task."""
        self._under_way[record.id] = replace(record, owner=self.owner)
        if preview is not None and len(preview.data) <= PREVIEW_BYTES:
            self._previews[record.id] = preview

    def finish(self, record: TaskRecord) -> None:
        """A task has ended."""
        self._under_way.pop(record.id, None)
        self._previews.pop(record.id, None)
        self._ended[record.id] = replace(record, owner=self.owner), self._clock()
        self._ended.move_to_end(record.id)
        while len(self._ended) > ENDED_KEPT:
            self._ended.popitem(last=False)

    async def find(self, task_id: str) -> TaskRecord | None:
        """The task of that id."""
        if (record := self._under_way.get(task_id)) is not None:
            return record
        ended = self._ended.get(task_id)
        return ended[0] if ended is not None and self._clock() - ended[1] < ENDED_SECONDS else None

    async def under_way(self) -> tuple[TaskRecord, ...]:
        """All that have not ended, by arrival."""
        return tuple(sorted(self._under_way.values(), key=lambda record: record.arrived))

    async def preview(self, task_id: str) -> Preview | None:
        """The last preview of a task under way."""
        return self._previews.get(task_id)

    async def send(self, command: Command) -> bool:
        """Carry it out here."""
        if command.task_id not in self._under_way or self._on_command is None:
            return False
        self._on_command(command)
        return True

    async def catalogue(self, upstream: str) -> Mapping[str, Any] | None:
        """What the upstream last said."""
        return self._catalogues.get(upstream)

    def see(self, upstream: str, catalogue: Mapping[str, Any]) -> None:
        """Remember what an upstream has."""
        self._catalogues[upstream] = MappingProxyType(dict(catalogue))
