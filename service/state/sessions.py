"""Sessions: options that belong to one client, kept under the id in its cookie for as long as it comes back.

A client that sends no cookie has no session: what it sets holds for the whole process, as in A1111. Only sessions
that set an option are kept; an id alone costs nothing, so that any number of clients may be given one.
"""

import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

_ID: Final = re.compile(r"[A-Za-z0-9_-]{22,64}")
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


class Sessions:
    """The options of at most ``limit`` sessions, each for ``ttl`` seconds since it was last asked for.

    To be used from the event loop's thread. ``on_count`` is told how many are kept.
    """

    def __init__(
        self,
        ttl: float,
        limit: int,
        on_count: Callable[[int], object] = lambda count: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
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
        """Set options of a session. Beyond the limit the longest unused session leaves."""
        self._forget()
        session = self._kept.setdefault(session_id, _Session())
        session.options = {**session.options, **changes}
        session.seen = self._clock()
        self._kept.move_to_end(session_id)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        self._on_count(len(self._kept))

    def _forget(self) -> None:
        oldest = self._clock() - self._ttl
        before = len(self._kept)
        while self._kept and next(iter(self._kept.values())).seen <= oldest:
            self._kept.popitem(last=False)
        if len(self._kept) != before:
            self._on_count(len(self._kept))
