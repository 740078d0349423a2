"""How errors are answered: A1111's four keys, and headers that say who is to blame and when to try again."""

import math
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response

from service.core.errors import NotAuthenticated, ServiceError


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response, rendered by orjson (NaN and infinities become null)."""
    return Response(orjson.dumps(content), status, headers, "application/json")


def problem_response(error: ServiceError) -> Response:
    """The answer to ``error``: ``{"error", "detail", "body", "errors"}``, as A1111 shapes it."""
    headers = {"X-Error-Code": error.code, "X-Error-Source": error.blame}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if isinstance(error, NotAuthenticated):
        headers["WWW-Authenticate"] = 'Basic realm="knative-diffusion"'
    body = {"error": type(error).__name__, "detail": error.detail, "body": "", "errors": error.detail}
    return json_response(body, error.status, headers)


def mistake(error: Exception) -> ServiceError:
    """What is answered for an exception that nobody foresaw; its text stays in the log."""
    return ServiceError(f"The server made a mistake ({type(error).__name__}): see its log.")


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


def install(app: FastAPI) -> None:
    """Answer every error of ``app`` in these shapes."""

    async def service_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return problem_response(error)

    async def validation_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return validation_problem(error)

    app.add_exception_handler(ServiceError, service_error)
    app.add_exception_handler(RequestValidationError, validation_error)
