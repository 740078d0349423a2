"""The one door for work: what every request for a device goes through, whatever its dialect.

It opens before anything of the request can be refused and closes with the last byte of the answer. In between
it holds the deadline and watches for the client to go away, also while the body arrives and pictures are read. At the
end it counts and logs the request once: every refusal is in the metrics, with the status that the client saw.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Final, TypeAlias, cast

import structlog
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import allocator
from service.api import scope as scopes
from service.api.lanes import while_wanted
from service.api.problems import response_to
from service.connections import connection_of
from service.context import Context
from service.core.errors import (
    BadRequest,
    Cancelled,
    DeadlineExceeded,
    DeviceLost,
    Draining,
    MemoryFull,
    NotReady,
    OutOfMemory,
    QueueFull,
    ServiceError,
)
from service.core.tasks import Phase, Task

log = structlog.get_logger(__name__)

Work: TypeAlias = Mapping[tuple[str, str], str]
"""The routes of a dialect that ask for work: (method, path) → kind, one of ``metrics.ENDPOINTS``."""

_OUTCOMES: Final[dict[type[Exception], str]] = {
    BadRequest: "bad_request",
    QueueFull: "queue_full",
    MemoryFull: "memory_full",
    Draining: "draining",
    NotReady: "not_ready",
    DeadlineExceeded: "deadline",
    Cancelled: "cancelled",
    OutOfMemory: "out_of_memory",
    DeviceLost: "device_lost",
}


_WORTH_TRIMMING: Final = 64 * 1024**2
"""Bytes of a request from which what it freed is given back to the system at once."""


def outcome_of(error: BaseException | None) -> str:
    """One of ``metrics.OUTCOMES`` for how a request ended."""
    if error is None:
        return "ok"
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "cancelled"
    return next((name for kind, name in _OUTCOMES.items() if isinstance(error, kind)), "error")


def get_task(request: Request) -> Task:
    """The task of a request for work; a FastAPI dependency of every route that is in its dialect's ``WORK``."""
    return cast(Task, request.scope[scopes.TASK])


class Admission:
    """Pure ASGI. ``work`` says which routes are for work; others pass as they are."""

    def __init__(self, app: ASGIApp, *, work: Work) -> None:
        self.app = app
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        kind = None
        if scope["type"] == "http":
            kind = self._work.get((scope["method"], scope["path"]))
        if kind is None:
            await self.app(scope, receive, send)
            return
        context = cast(Context, scope["app"].state.context)
        task = context.tasks.open(kind, scopes.session_of(scope))
        task.client = task.session or (scope.get("client") or ("",))[0]
        task.arrived = scope.get(scopes.ARRIVED, task.arrived)
        task.claim = context.budget.claim()
        scope[scopes.TASK], scope[scopes.KIND] = task, kind
        left = task.arrived + context.settings.request_timeout - time.monotonic()
        deadline = asyncio.get_running_loop().call_later(max(0.0, left), task.token.cancel, "deadline")
        client = _Client(task, receive, send)
        try:
            if (
                scope["method"] == "GET"
            ):  # its routes read no body, and nobody else would notice that it went away
                await client.receive()
            await self.app(scope, client.receive, client.send)
        except ServiceError as error:  # raised below the routes: while the body arrived
            task.failure = error
            if client.answering:
                raise
            await response_to(scope, error)(scope, receive, send)
        except BaseException as error:
            task.failure = task.failure or error
            raise
        finally:
            deadline.cancel()
            client.close()
            task.claim.close()
            if task.claim.peak > _WORTH_TRIMMING:
                context.lanes.later(allocator.tidy)
            if task.failure is None and not client.delivered(scope):
                task.failure = (
                    task.token.error() if task.token.cancelled else Cancelled("The client went away.")
                )
            task.outcome = outcome_of(task.failure)
            _account(context, scope, task)
            context.board.close(task)
            _let_go(task)


class _Client:
    """The two directions of one request, and whether its client is still there."""

    def __init__(self, task: Task, receive: Receive, send: Send) -> None:
        self._task = task
        self._receive = receive
        self._send = send
        self._gone = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self.answering = False
        """The answer has begun."""
        self.answered = False
        """The last byte of the answer was given to the server."""

    async def receive(self) -> Message:
        """The next message; once the body is whole, only that the client went away."""
        if self._watcher is not None:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        message = await while_wanted(self._task, self._receive())
        if message["type"] == "http.disconnect":
            self._leave()
        elif not message.get("more_body", False):
            self._watcher = asyncio.get_running_loop().create_task(self._watch())
        return message

    async def send(self, message: Message) -> None:
        """Pass on a part of the answer."""
        self.answering = True
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.answered = True
        await self._send(message)

    def delivered(self, scope: Scope) -> bool:
        """Whether the client's side took the whole answer; where it did not, the token says why."""
        connection = connection_of(scope)
        if self.answered and connection is not None and connection.lost:
            self._task.token.cancel("slow_client" if connection.slow else "disconnect")
            return False
        return self.answered

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        self._gone.set()
        if not self.answered:  # after the last byte it is no news
            self._task.token.cancel("disconnect")

    def close(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._watcher.cancel()


def _let_go(task: Task) -> None:
    """Cut what would keep bodies and pictures alive behind an ended task: its error's frames, and its request."""
    error, task.failure, task.request = task.failure, None, None
    while error is not None:
        error.__traceback__, error = None, error.__cause__ or error.__context__


def _code(error: BaseException) -> str:
    if isinstance(error, ServiceError):
        return error.code
    return Cancelled.code if isinstance(error, asyncio.CancelledError | GeneratorExit) else ServiceError.code


def _account(context: Context, scope: Scope, task: Task) -> None:
    metrics, error, seconds = context.metrics, task.failure, time.monotonic() - task.arrived
    if task.kind != "other" or task.phase is not Phase.ARRIVED:
        metrics.request_done(task.kind, task.outcome, seconds)
    metrics.observe(task.timings)
    if task.token.cause is not None:
        metrics.cancellations.labels(task.token.cause).inc()
    if error is not None:
        metrics.errors.labels(_code(error)).inc()
    # The access line carries these: one line a request.
    fields = scopes.log_fields(scope)
    fields |= {"task": task.id, "kind": task.kind, "outcome": task.outcome}
    if (asked := task.request) is not None:
        fields |= {
            "size": f"{asked.width}x{asked.height}",
            "steps": asked.steps,
            "sampler": asked.sampler,
            "images": asked.image_count,
        }
    fields["seconds"] = {stage: round(spent, 4) for stage, spent in task.timings.stages.items()}
    if task.token.cause is not None:
        fields["cancelled_by"] = task.token.cause
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        fields["reason"] = "The client went away."
    elif error is not None and str(error):
        fields["reason"] = str(error)
    if context.settings.log_prompts and asked is not None:
        fields["prompt"], fields["negative_prompt"] = asked.prompt, asked.negative_prompt
