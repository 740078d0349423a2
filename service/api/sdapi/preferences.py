"""The options that hold for a request: process-wide < session < the request's own."""

from collections.abc import Mapping
from typing import Any

from service.api.sdapi.options import Options
from service.state.store import Store


class Preferences:
    """What clients have set. Without a session it holds for all requests, below what a session sets itself."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def layers(self, session: str | None) -> tuple[Mapping[str, Any], ...]:
        """What holds for ``session``, the strongest last."""
        return tuple(await self._store.options(session))

    async def of(self, session: str | None, *overrides: Mapping[str, Any]) -> Options:
        """The options for a request of ``session`` with its ``overrides``."""
        return Options(*await self.layers(session), *overrides)

    async def set(self, session: str | None, changes: Mapping[str, Any]) -> None:
        """Set (checked) options for ``session``; for everybody where there is no session."""
        await self._store.set_options(session, changes)
