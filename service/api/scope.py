"""What the layers of the application leave for each other in an ASGI scope: each key once, here."""

from typing import Any, Final, cast

from starlette.types import Scope

ARRIVED: Final = "sd.arrived"
"""When the request arrived (``time.monotonic``); by ``middleware.access``."""

KIND: Final = "sd.kind"
"""Its kind, one of ``metrics.ENDPOINTS``; by ``admission``."""

LOG: Final = "sd.log"
"""Fields for its line in the log; by ``admission``."""

SESSION: Final = "sd.session"
"""The session id that the client sent; by ``middleware.session``; absent where it sent none."""

TASK: Final = "sd.task"
"""Its :class:`~service.core.tasks.Task`; by ``admission``."""


def session_of(scope: Scope) -> str | None:
    """The session of the client; None for one that sent no cookie."""
    return cast("str | None", scope.get(SESSION))


def log_fields(scope: Scope) -> dict[str, Any]:
    """The fields for the request's line in the log, to add to."""
    return cast("dict[str, Any]", scope.setdefault(LOG, {}))
