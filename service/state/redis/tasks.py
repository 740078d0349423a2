"""Tasks in Redis: this front's, written for the others, and the others', read for this one.

This front's own are answered from its memory; Redis gets the last word of each a few times a second, and a sign of life
now and then. Others' tasks are read together, at most ten times a second, however many clients poll.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from dataclasses import asdict, replace
from typing import Final

import orjson
from pydantic import TypeAdapter

from service.core.errors import BadRequest, StateUnavailable
from service.state.redis.link import PREFIX, Link, Query
from service.state.store import ENDED_KEPT, ENDED_SECONDS, PREVIEW_BYTES, Preview, TaskRecord

TASK_SECONDS: Final = 30
"""A task whose front has not renewed it for so long is gone, and the front with it."""
SNAPSHOT_SECONDS: Final = 0.1
"""Others' tasks are at most this old."""
LISTED: Final = 10_000
"""Tasks under way that are listed, at most."""

_WHAT: Final = "Which tasks there are"
_RECORDS: Final = TypeAdapter(TaskRecord)


class SharedTasks:
    """See :class:`~service.state.store.Store`. ``dirty`` is set when there is something to :meth:`write`."""

    def __init__(self, link: Link, owner: str, dirty: asyncio.Event) -> None:
        self._link = link
        self._owner = owner
        self._something = dirty
        # What this front knows by itself.
        self._opening: set[str] = set()
        self._own: dict[str, TaskRecord] = {}
        self._previews: dict[str, Preview] = {}
        self._ended: OrderedDict[str, TaskRecord] = OrderedDict()
        # What of it is still to be written.
        self._dirty: set[str] = set()
        self._dirty_previews: set[str] = set()
        self._dirty_ended: OrderedDict[str, TaskRecord] = OrderedDict()
        # What was last read of the others.
        self._others: tuple[TaskRecord, ...] = ()
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    # --- this front's --------------------------------------------------------------------------------

    async def open(self, record: TaskRecord) -> None:
        """Make a task known; without Redis to this front alone, until it is back."""
        name = record.id
        record = replace(record, owner=self._owner)
        taken = name in self._own or name in self._opening
        if not taken:
            self._opening.add(name)
            queries: list[Query] = [
                ("SET", f"{PREFIX}task:{name}", _json(record), "NX", "EX", TASK_SECONDS),
                ("DEL", f"{PREFIX}ended:{name}"),
            ]
            if name in self._ended:  # it may not have been written yet that it has ended
                queries.insert(0, ("DEL", f"{PREFIX}task:{name}", f"{PREFIX}preview:{name}"))
            try:
                taken = (await self._link.ask(_WHAT, *queries))[-2] is None
            except StateUnavailable:
                taken = False
            finally:
                self._opening.discard(name)
        if taken:
            raise BadRequest(f"A task with id {name!r} is already under way: choose another force_task_id.")
        self._ended.pop(name, None)
        self._dirty_ended.pop(name, None)
        self.tell(record)

    def tell(self, record: TaskRecord, preview: Preview | None = None) -> None:
        """The latest of a task."""
        self._own[record.id] = replace(record, owner=self._owner)
        self._dirty.add(record.id)
        if preview is not None and len(preview.data) <= PREVIEW_BYTES:
            self._previews[record.id] = preview
            self._dirty_previews.add(record.id)
        self._something.set()

    def finish(self, record: TaskRecord) -> None:
        """A task has ended."""
        for known in (self._own, self._previews):
            known.pop(record.id, None)
        for marks in (self._dirty, self._dirty_previews):
            marks.discard(record.id)
        for ended in (self._ended, self._dirty_ended):
            ended[record.id] = replace(record, owner=self._owner)
            ended.move_to_end(record.id)
            while len(ended) > ENDED_KEPT:
                ended.popitem(last=False)
        self._something.set()

    def renew(self) -> None:
        """All that live are to be written again, as a sign of life."""
        self._dirty.update(self._own)

    def write_all_again(self) -> None:
        """Redis was away, and may have lost what it knew."""
        self.renew()
        self._dirty_previews.update(self._previews)

    async def write(self) -> None:
        """Write what is to be written. Raises :class:`StateUnavailable`, and all of it still is."""
        tasks = [self._own[name] for name in self._dirty if name in self._own]
        previews = {name: self._previews[name] for name in self._dirty_previews if name in self._previews}
        ended = dict(self._dirty_ended)
        queries: list[Query] = []
        for record in tasks:
            queries.append(("SET", f"{PREFIX}task:{record.id}", _json(record), "EX", TASK_SECONDS))
            queries.append(("ZADD", PREFIX + "tasks", record.arrived, record.id))
            queries.append(("EXPIRE", f"{PREFIX}preview:{record.id}", TASK_SECONDS))
        for name, preview in previews.items():
            value = preview.media_type.encode() + b"\n" + preview.data
            queries.append(("SET", f"{PREFIX}preview:{name}", value, "EX", TASK_SECONDS))
        for name, record in ended.items():
            queries.append(("SET", f"{PREFIX}ended:{name}", _json(record), "EX", int(ENDED_SECONDS)))
            queries.append(("DEL", f"{PREFIX}task:{name}", f"{PREFIX}preview:{name}"))
            queries.append(("ZREM", PREFIX + "tasks", name))
            queries.append(("ZADD", PREFIX + "ended", time.time(), name))
        if not queries:
            return
        # Unmarked before, marked again where it fails: what changes meanwhile is written next time.
        self._dirty.difference_update(record.id for record in tasks)
        self._dirty_previews.difference_update(previews)
        for name in ended:
            del self._dirty_ended[name]
        try:
            await self._link.change(_WHAT, *queries)
        except (StateUnavailable, asyncio.CancelledError):
            self._dirty.update(record.id for record in tasks)
            self._dirty_previews.update(previews)
            still = {name: record for name, record in ended.items() if name in self._ended}
            self._dirty_ended = OrderedDict(still | self._dirty_ended)
            raise
        if ended:
            await self._forget_ended()

    async def _forget_ended(self) -> None:
        """Keep the last ended tasks of all fronts, and no more."""
        index = PREFIX + "ended"
        _, kept = await self._link.change(
            _WHAT, ("ZREMRANGEBYSCORE", index, "-inf", time.time() - ENDED_SECONDS), ("ZCARD", index)
        )
        if kept > ENDED_KEPT:
            (gone,) = await self._link.change(_WHAT, ("ZPOPMIN", index, kept - ENDED_KEPT))
            keys = [f"{PREFIX}ended:{name.decode(errors='replace')}" for name, _ in gone]
            await self._link.change(_WHAT, ("DEL", *keys))

    # --- everybody's ---------------------------------------------------------------------------------

    async def find(self, task_id: str) -> TaskRecord | None:
        """The task of that id, of whichever front."""
        known = self._own.get(task_id) or self._ended.get(task_id)
        if known is not None:
            return known
        keys = f"task:{task_id}", f"ended:{task_id}"
        (values,) = await self._link.ask("That task", ("MGET", *(PREFIX + key for key in keys)))
        if not isinstance(values, list):
            return None
        under_way = self._record(keys[0], values[0])
        if under_way is not None and under_way.owner != self._owner:  # else one of ours that has ended since
            return under_way
        return self._record(keys[1], values[1])

    async def under_way(self) -> tuple[TaskRecord, ...]:
        """This front's tasks as they are, others' as they were a moment ago."""
        if time.monotonic() - self._read_at > SNAPSHOT_SECONDS and self._link.reachable:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.get_running_loop().create_task(self._read_others())
            await asyncio.shield(self._reading)
        if time.monotonic() - self._read_at > TASK_SECONDS:
            self._others = ()  # nobody knows how they fared
        return tuple(
            sorted((*self._own.values(), *self._others), key=lambda record: (record.arrived, record.id))
        )

    async def _read_others(self) -> None:
        """Read all tasks but our own; ids whose record is gone leave the index."""
        with contextlib.suppress(StateUnavailable):
            (found,) = await self._link.ask(_WHAT, ("ZRANGE", PREFIX + "tasks", 0, LISTED - 1))
            if not isinstance(found, list):
                self._link.garbage("tasks", found)
                found = []
            names = [name.decode(errors="replace") for name in found]
            names = [name for name in names if name not in self._own]
            records: list[TaskRecord] = []
            gone: list[str] = []
            if names:
                keys = [f"task:{name}" for name in names]
                (values,) = await self._link.ask(_WHAT, ("MGET", *(PREFIX + key for key in keys)))
                for name, key, value in zip(names, keys, values, strict=True):
                    record = self._record(key, value)
                    if record is not None and record.owner != self._owner:
                        records.append(record)
                    elif value is None:
                        gone.append(name)
            if gone:
                await self._link.ask(_WHAT, ("ZREM", PREFIX + "tasks", *gone))
            self._others, self._read_at = tuple(records), time.monotonic()

    async def preview(self, task_id: str) -> Preview | None:
        """The last preview of a task under way; None while Redis is away and it is another front's."""
        if task_id in self._own or task_id in self._ended:
            return self._previews.get(task_id)
        with contextlib.suppress(StateUnavailable):
            (value,) = await self._link.ask("That preview", ("GET", f"{PREFIX}preview:{task_id}"))
            if isinstance(value, bytes):
                media_type, _, data = value.partition(b"\n")
                return Preview(media_type.decode(errors="replace"), data)
        return None

    def _record(self, key: str, value: bytes | None) -> TaskRecord | None:
        try:
            return None if value is None else _RECORDS.validate_json(value)
        except ValueError as error:
            self._link.garbage(key, error)
            return None


def _json(record: TaskRecord) -> bytes:
    return orjson.dumps(asdict(record))  # an enum is written as its value
