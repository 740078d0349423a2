"""How JSON and errors are answered: A1111's four keys, and headers that say who is to blame and when to try again."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response
from starlette.types import Scope

from service.api.scope import TASK
from service.core.errors import BadRequest, Cancelled, NotAuthenticated, ServiceError, UnknownName
from service.core.tasks import Task

log = structlog.get_logger(__name__)

Shapes: TypeAlias = Sequence[tuple[tuple[str, ...], Callable[[ServiceError], Response]]]

AS_IT_IS: Final = {"Content-Encoding": "identity"}
"""Keeps the compressing middleware off."""


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response, rendered by orjson (NaN and infinities become null); ``content`` may be rendered already."""
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    return Response(body, status, headers, "application/json")


def picture_response(content: Any, headers: dict[str, str] | None = None) -> Response:
    """A JSON response with pictures in it. Base64 of a PNG hardly shrinks, and trying costs the event loop much."""
    return json_response(content, headers={**(headers or {}), **AS_IT_IS})


def problem_response(error: ServiceError) -> Response:
    """The answer to ``error``: ``{"error", "detail", "body", "errors"}``, as A1111 shapes it."""
    headers = {"X-Error-Code": error.code, "X-Error-Source": error.blame}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if isinstance(error, NotAuthenticated):
        headers["WWW-Authenticate"] = 'Basic realm="knative-diffusion"'
    # A1111 leaves `errors` empty where it refuses; where it fails, the text stands there alone.
    refused = isinstance(error, BadRequest | NotAuthenticated) and not isinstance(error, UnknownName)
    errors = "" if refused else error.detail
    body = {"error": type(error).__name__, "detail": error.detail, "body": "", "errors": errors}
    return json_response(body, error.status, headers)


def response_to(scope: Scope, error: ServiceError) -> Response:
    """The answer to ``error`` in the shape of the dialect that the request speaks."""
    return (_shape_of(scope) or problem_response)(error)


def _shape_of(scope: Scope) -> Callable[[ServiceError], Response] | None:
    shapes: Shapes = getattr(scope["app"].state, "problem_shapes", ())
    return next((shape for paths, shape in shapes if scope.get("path", "").startswith(paths)), None)


def mistake(error: Exception) -> ServiceError:
    """What is answered for an exception that nobody foresaw; its text stays in the log."""
    return ServiceError(f"The server made a mistake ({type(error).__name__}): see its log.")


def foreseen(error: BaseException) -> ServiceError:
    """``error`` as it may be told; what nobody foresaw is logged first."""
    if isinstance(error, ServiceError):
        return error
    log.error("unexpected error", exc_info=error)
    if isinstance(error, Exception):
        return mistake(error)
    return Cancelled("The server is stopping.", cause="shutdown")


def validation_problem(error: RequestValidationError) -> Response:
    """422 with FastAPI's ``detail`` list; what the client sent is not echoed (it may be huge, or no JSON at all)."""
    detail = [
        {
            "loc": [str(part) for part in problem["loc"]],
            "msg": str(problem["msg"]),
            "type": str(problem["type"]),
        }
        for problem in error.errors()[:50]
    ]
    return json_response({"detail": detail}, 422, {"X-Error-Code": "bad_request", "X-Error-Source": "client"})


def note(scope: Scope, error: ServiceError) -> None:
    """Let the door know why a request for work is refused."""
    task = scope.get(TASK)
    if isinstance(task, Task):
        task.failure = error


def install(app: FastAPI, shapes: Shapes = ()) -> None:
    """Answer every error of ``app`` as A1111 does, or as ``shapes`` say for paths that begin so."""
    app.state.problem_shapes = shapes

    async def service_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        note(request.scope, error)
        return response_to(request.scope, error)

    async def validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        told = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()[:3])
        refusal = BadRequest(told or "The request's fields are not what they must be.")
        note(request.scope, refusal)
        shape = _shape_of(request.scope)
        return validation_problem(error) if shape is None else shape(refusal)

    app.add_exception_handler(ServiceError, service_error)
    app.add_exception_handler(RequestValidationError, validation_error)
