"""Sessions: options that belong to one client, kept under the id in its cookie for as long as it comes back.

A client that sends no cookie has no session: what it sets holds for the whole process, as in A1111. Only sessions
that set an option are kept; an id alone costs nothing, so that any number of clients may be given one.

Not cachetools' ``TTLCache``: a session lives on with each request, and is bounded by number and bytes at once.
"""

import re
import secrets
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from service.core.errors import BadRequest

_ID: Final = re.compile(r"[A-Za-z0-9_-]{22,64}")
LARGEST: Final = 256 * 1024
"""Bytes of memory that the options of one session may take; the whole object of A1111 takes some 40 KB."""

MOST_BYTES: Final = 64 * 1024 * 1024
"""Bytes of memory of all sessions together: ids cost nothing to make up."""

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def new_id() -> str:
    """An id that nobody can guess."""
    return secrets.token_urlsafe(24)


def is_id(text: str) -> bool:
    """True for what could be an id. One that is not known here is taken all the same: another pod gave it."""
    return _ID.fullmatch(text) is not None


@dataclass(slots=True)
class _Session:
    options: dict[str, Any] = field(default_factory=dict)
    seen: float = 0.0
    weight: int = 0


class Sessions:
    """The options of at most ``limit`` sessions and ``most_bytes``, each for ``ttl`` seconds since it last came.

    To be used from the event loop's thread. ``on_count`` is told how many are kept.
    """

    def __init__(
        self,
        ttl: float,
        limit: int,
        on_count: Callable[[int], object] = lambda count: None,
        clock: Callable[[], float] = time.monotonic,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._ttl = ttl
        self._limit = limit
        self._on_count = on_count
        self._clock = clock
        self._kept: OrderedDict[str, _Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def options(self, session_id: str | None) -> Mapping[str, Any]:
        """What the session set; nothing for None, for an unknown one and for one that was away too long."""
        self._forget()
        session = self._kept.get(session_id) if session_id is not None else None
        if session is None or session_id is None:
            return _NOTHING
        session.seen = self._clock()
        self._kept.move_to_end(session_id)
        return MappingProxyType(session.options)

    def update(self, session_id: str, changes: Mapping[str, Any]) -> None:
        """Set options of a session. Beyond the limits the longest unused sessions leave.

        Raises :class:`BadRequest` where one session would be more than :data:`LARGEST`.
        """
        self._forget()
        before = self._kept.get(session_id) or _Session()
        options = {**before.options, **changes}
        weight = weight_of(options)
        self._kept[session_id] = _Session(options, self._clock(), weight)
        self._kept.move_to_end(session_id)
        self._bytes += weight - before.weight
        while len(self._kept) > self._limit or self._bytes > self._most_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].weight
        self._on_count(len(self._kept))

    def _forget(self) -> None:
        oldest = self._clock() - self._ttl
        before = len(self._kept)
        while self._kept and next(iter(self._kept.values())).seen <= oldest:
            self._bytes -= self._kept.popitem(last=False)[1].weight
        if len(self._kept) != before:
            self._on_count(len(self._kept))


def weight_of(options: Mapping[str, Any]) -> int:
    """Bytes that a session's options (JSON's types) take in memory; names are shared and count for nothing.

    Raises :class:`BadRequest` where they are more than :data:`LARGEST`.
    """
    total = 0
    pending: list[Any] = [options]
    while pending:
        item = pending.pop()
        total += sys.getsizeof(item)
        if isinstance(item, Mapping):
            pending += item.values()
        elif isinstance(item, list):
            pending += item
    if total > LARGEST:
        raise BadRequest(
            f"The options of this session take more than {LARGEST} bytes: set fewer, or shorter ones."
        )
    return total
