"""What the layers of the application leave for each other in an ASGI scope: each key once, here."""

from typing import Any, Final, cast

from starlette.types import Scope

from service.core.budget import Claim
from service.core.tasks import Task

ARRIVED: Final = "sd.arrived"
"""When the request arrived (``time.monotonic``); by ``middleware.access``."""

KIND: Final = "sd.kind"
"""Its kind, one of ``metrics.ENDPOINTS``; by ``admission``."""

LOG: Final = "sd.log"
"""Fields for its line in the log; by ``admission``."""

QUIET: Final = "sd.quiet"
"""True for what deserves neither a line in the log nor a count; by who serves it."""

SESSION: Final = "sd.session"
"""The session id that the client sent; by ``middleware.session``; absent where it sent none."""

BODY: Final = "sd.body"
"""The bytes of the body, until who parses them takes them; by ``middleware.body``."""

CLAIM: Final = "sd.claim"
"""The request's :class:`~service.core.budget.Claim`; by ``middleware.body``."""

TASK: Final = "sd.task"
"""Its :class:`~service.core.tasks.Task`; by ``admission``."""


def session_of(scope: Scope) -> str | None:
    """The session of the client; None for one that sent no cookie."""
    return cast("str | None", scope.get(SESSION))


def task_of(scope: Scope) -> Task | None:
    """The task of a request for work; None for any other."""
    return cast("Task | None", scope.get(TASK))


def claim_of(scope: Scope) -> Claim | None:
    """The memory that the request holds; None for one without a body."""
    return cast("Claim | None", scope.get(CLAIM))


def log_fields(scope: Scope) -> dict[str, Any]:
    """The fields for the request's line in the log, to add to."""
    return cast("dict[str, Any]", scope.setdefault(LOG, {}))
