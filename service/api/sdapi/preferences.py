"""The options that hold for a request: process-wide < session < the request's own."""

from collections.abc import Mapping
from typing import Any

from service.api.sdapi.options import Options
from service.state.sessions import Sessions


class Preferences:
    """What clients have set. Without a session it holds for all requests, below what a session sets itself."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self.shared: dict[str, Any] = {}
        """What clients without a session have set."""

    async def layers(self, session: str | None) -> tuple[Mapping[str, Any], ...]:
        """What holds for ``session``, the strongest last."""
        return self.shared, self._sessions.options(session)

    async def of(self, session: str | None, *overrides: Mapping[str, Any]) -> Options:
        """The options for a request of ``session`` with its ``overrides``."""
        return Options(*await self.layers(session), *overrides)

    async def set(self, session: str | None, changes: Mapping[str, Any]) -> None:
        """Set (checked) options for ``session``; for all of the process where there is no session."""
        if session is None:
            self.shared.update(changes)
        else:
            self._sessions.update(session, changes)
