"""Errors as OpenAI's clients read them: ``{"error": {"message", "type", "param", "code"}}``."""

from starlette.responses import Response

from service.api.problems import json_response, problem_response
from service.core.errors import NotFound, ServiceError

_TYPES = {"client": "invalid_request_error", "server": "server_error", "model": "server_error"}


def openai_problem(error: ServiceError) -> Response:
    """The answer to ``error``; headers are those of every error here."""
    status = 400 if error.status == 422 else error.status
    code = "model_not_found" if isinstance(error, NotFound) else error.code
    told = {
        "message": error.detail,
        "type": _TYPES.get(error.blame, "server_error"),
        "param": None,
        "code": code,
    }
    headers = {
        name: value
        for name, value in problem_response(error).headers.items()
        if name.lower() not in ("content-length", "content-type")
    }
    return json_response({"error": told}, status, headers)
