"""One exchange for images: from the request to its last byte, counted, logged and cancellable.

Every dialect goes through here, so that deadlines, disconnects, metrics and logs are the same for all.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from fastapi import Request

from service.context import Context
from service.core.errors import (
    BadRequest,
    Cancelled,
    DeadlineExceeded,
    DeviceLost,
    Draining,
    NotReady,
    OutOfMemory,
    QueueFull,
    ServiceError,
)
from service.core.generation import GenerationRequest
from service.core.tasks import Task

log = structlog.get_logger(__name__)

_OUTCOMES: dict[type[Exception], str] = {
    BadRequest: "bad_request",
    QueueFull: "queue_full",
    Draining: "draining",
    NotReady: "not_ready",
    DeadlineExceeded: "deadline",
    Cancelled: "cancelled",
    OutOfMemory: "out_of_memory",
    DeviceLost: "device_lost",
}


def outcome_of(error: BaseException | None) -> str:
    """One of ``metrics.OUTCOMES`` for how an exchange ended."""
    if error is None:
        return "ok"
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "cancelled"
    return next((name for kind, name in _OUTCOMES.items() if isinstance(error, kind)), "error")


@asynccontextmanager
async def exchange(
    context: Context, request: Request, kind: str, generation: GenerationRequest | None = None
) -> AsyncIterator[Task]:
    """A task for ``generation`` (None: other work), cancelled when the client goes away or the deadline passes.

    The deadline counts from the arrival of the request (see ``middleware.access``). The body must have been read.
    """
    arrived = request.scope.get("sd.arrived", time.monotonic())
    try:
        context.lifecycle.raise_unless_accepting()
    except ServiceError as refusal:
        context.metrics.request_done(kind, outcome_of(refusal), time.monotonic() - arrived)
        context.metrics.errors.labels(refusal.code).inc()
        raise
    task = context.tasks.open(kind, generation, request.scope.get("sd.session"))
    task.arrived = arrived
    context.requests_under_way += 1
    left = arrived + context.settings.request_timeout - time.monotonic()
    deadline = asyncio.get_running_loop().call_later(max(0.0, left), task.token.cancel, "deadline")
    watcher = asyncio.create_task(_watch(request, task))
    error: BaseException | None = None
    try:
        yield task
    except BaseException as raised:
        error = raised
        raise
    finally:
        deadline.cancel()
        watcher.cancel()
        error = error or task.failure
        task.outcome = outcome_of(error)
        context.tasks.close(task)
        context.requests_under_way -= 1
        _account(context, request, task, error)


async def _watch(request: Request, task: Task) -> None:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            task.token.cancel("disconnect")
            return


def _account(context: Context, request: Request, task: Task, error: BaseException | None) -> None:
    metrics, seconds = context.metrics, time.monotonic() - task.arrived
    metrics.request_done(task.kind, task.outcome, seconds)
    metrics.observe(task.timings)
    if task.token.cause is not None:
        metrics.cancellations.labels(task.token.cause).inc()
    if isinstance(error, ServiceError):
        metrics.errors.labels(error.code).inc()
    fields: dict[str, object] = {"task": task.id, "kind": task.kind, "outcome": task.outcome}
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
    if error is not None and str(error):
        fields["reason"] = str(error)
    if context.settings.log_prompts and asked is not None:
        fields["prompt"], fields["negative_prompt"] = asked.prompt, asked.negative_prompt
    # The access line carries these: one line a request.
    request.scope.setdefault("sd.log", {}).update(fields)
    request.scope["sd.kind"] = task.kind
