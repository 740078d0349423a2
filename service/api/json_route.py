"""Routes whose JSON bodies are read strictly, within their own limit, and beside the event loop."""

from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.responses import Response

from service.api import scope as scopes
from service.api import values
from service.context import get_context
from service.core.errors import BodyTooLarge

_SMALL: Final = 16 * 1024
"""Bytes that are parsed at once: handing them to a thread would take longer."""


class JsonRoute(APIRoute):
    """For every router that takes JSON: ``APIRouter(route_class=JsonRoute)``.

    A body of many megabytes is fine where it is pictures; of anything else there is never much. What does not exist
    here (see :mod:`service.api.values`) is refused with the path to it, before any model looks at it.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with the body parsed before."""
        handle = super().get_route_handler()

        async def read_first(request: Request) -> Response:
            if request.headers.get("content-type", "").startswith("application/json"):
                await _read(request)
            return await handle(request)

        return read_first


async def _read(request: Request) -> None:
    """Parse the body and let go of its bytes: the request holds the one form or the other, not both."""
    body = request.scope.pop(scopes.BODY, None) or await request.body()
    if not body:
        return
    context, claim = get_context(request), scopes.claim_of(request.scope)
    most = int(context.settings.max_json_kb * 1024)
    try:
        if len(body) <= _SMALL:
            value = values.loads(body)
        else:
            value = await context.lanes.read(scopes.task_of(request.scope), _parse, body, most)
    except values.Unacceptable as error:
        raise RequestValidationError(
            [{"type": "json_invalid", "loc": ("body", *error.path), "msg": error.why, "input": {}}]
        ) from None
    finally:
        if claim is not None:
            claim.give_back("bodies", len(body))  # what stays are its strings
    request._json = value
    request._body = b"{}"  # read already


def _parse(body: bytes, most: int) -> Any:
    if values.weigh(body, most) > most:
        raise BodyTooLarge(
            f"The request has more than {most / 1024:g} KB of JSON beside its pictures (SD_MAX_JSON_KB): send less."
        )
    return values.loads(body)
