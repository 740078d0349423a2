"""/livez, /readyz and /metrics: what platforms ask. Never behind auth, never behind a generation."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from service.api.dialect import Dialect
from service.api.problems import json_response
from service.context import Context, get_context
from service.core.lifecycle import Probe

router = APIRouter(tags=["operations"])

DIALECT = Dialect((router,), {})

ContextDep = Annotated[Context, Depends(get_context)]


def _answer(probe: Probe) -> Response:
    body = {"state": probe.state.value, "reason": probe.reason}
    return json_response(body, 200 if probe.ok else 503, {"Cache-Control": "no-store"})


@router.get("/livez", summary="Is the process alive?")
async def livez(context: ContextDep) -> Response:
    """200 unless only a restart can help (a poisoned CUDA context); also while weights load."""
    return _answer(context.lifecycle.liveness())


@router.get("/readyz", summary="Would a request be served?")
async def readyz(context: ContextDep) -> Response:
    """200 after the warm-up image and before SIGTERM; else 503 with the state and the reason."""
    return _answer(context.backend.readiness())


@router.get("/metrics", summary="Prometheus metrics")
async def metrics(context: ContextDep) -> Response:
    """The exposition in Prometheus' text format."""
    return Response(context.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")
