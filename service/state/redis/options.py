"""Options in Redis: process-wide and by session, bounded, and remembered for the time in which Redis is away."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson

from service.core.errors import StateUnavailable
from service.state.redis.link import PREFIX, Link, Query
from service.state.sessions import weight_of
from service.state.store import Layers

REMEMBERED: Final = 200
"""Sessions whose options this front remembers."""


class SharedOptions:
    """See :class:`~service.state.store.Store`. ``on_count`` is told how many sessions are kept."""

    def __init__(self, link: Link, ttl: float, limit: int, on_count: Callable[[int], object]) -> None:
        self._link = link
        self._ttl = ttl
        self._limit = limit
        self._on_count = on_count
        self._everywhere: Mapping[str, Any] | None = None
        self._sessions: OrderedDict[str, Mapping[str, Any]] = OrderedDict()

    async def read(self, session: str | None) -> Layers:
        """Both layers; while Redis is away as they were last read here."""
        queries: list[Query] = [("HGETALL", PREFIX + "options")]
        if session is not None:
            key = f"{PREFIX}session:{session}"
            queries += [
                ("HGETALL", key),
                ("EXPIRE", key, int(self._ttl)),
                ("ZADD", PREFIX + "sessions", "XX", time.time(), session),
            ]
        try:
            answers = await self._link.ask("What was set with /options", *queries)
        except StateUnavailable:
            mine = {} if session is None else self._sessions.get(session)
            if self._everywhere is None or mine is None:
                raise
            return Layers(self._everywhere, mine)
        self._everywhere = MappingProxyType(self._hash("options", answers[0]))
        if session is None:
            return Layers(self._everywhere, {})
        return Layers(self._everywhere, self._remember(session, self._hash(f"session:{session}", answers[1])))

    async def update(self, session: str | None, changes: Mapping[str, Any]) -> None:
        """Set options for every front. Beyond the limit the longest unused session leaves.

        Raises :class:`BadRequest` where one session would take too much.
        """
        if not changes:
            return
        pairs = [part for name, value in changes.items() for part in (name, orjson.dumps(value))]
        what = "What is set with /options"
        if session is None:
            await self._link.change(what, ("HSET", PREFIX + "options", *pairs))
            self._everywhere = MappingProxyType({**(self._everywhere or {}), **changes})
            return
        weight_of({**(await self.read(session)).session, **changes})
        key, index, now = f"{PREFIX}session:{session}", PREFIX + "sessions", time.time()
        answers = await self._link.change(
            what,
            ("HSET", key, *pairs),
            ("EXPIRE", key, int(self._ttl)),
            ("ZADD", index, now, session),
            ("ZREMRANGEBYSCORE", index, "-inf", now - self._ttl),
            ("ZCARD", index),
            atomic=True,
        )
        kept = int(answers[4])
        if kept > self._limit:
            (gone,) = await self._link.change(what, ("ZPOPMIN", index, kept - self._limit))
            keys = [f"{PREFIX}session:{name.decode(errors='replace')}" for name, _ in gone]
            await self._link.change(what, ("DEL", *keys))
            kept -= len(gone)
        self._on_count(kept)
        if session in self._sessions:
            self._remember(session, {**self._sessions[session], **changes})

    def _remember(self, session: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
        self._sessions[session] = MappingProxyType(dict(options))
        self._sessions.move_to_end(session)
        while len(self._sessions) > REMEMBERED:
            self._sessions.popitem(last=False)
        return self._sessions[session]

    def _hash(self, key: str, answer: Any) -> dict[str, Any]:
        """The options of a hash; what is no JSON is left out."""
        if not isinstance(answer, dict):
            self._link.garbage(key, answer)
            return {}
        found = {}
        for name, value in answer.items():
            try:
                found[name.decode()] = orjson.loads(value)
            except ValueError as error:
                self._link.garbage(f"{key} {name!r}", error)
        return found
