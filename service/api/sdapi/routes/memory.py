"""GET /sdapi/v1/memory: what the process and the device have and use."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.responses import Response

from service import main_memory
from service.api.problems import json_response
from service.context import Context, get_context
from service.metrics import PLAN_KINDS

router = APIRouter(prefix="/sdapi/v1", tags=["A1111"])

ContextDep = Annotated[Context, Depends(get_context)]


def ram() -> dict[str, int]:
    """Bytes: what this process uses, and what it may (its container's limit, or the machine's memory)."""
    total, used = main_memory.limit(), main_memory.resident()
    return {"free": max(0, total - used), "used": used, "total": total}


@router.get("/memory", response_model=dict[str, Any], summary="Memory of process and device")
async def get_memory(context: ContextDep) -> Response:
    """``ram``, ``cuda`` and the memory ``plan`` in bytes. Answers while images are made."""
    memory = context.backend.memory()
    plan = _plan(context, memory)
    if "total" not in memory:
        return json_response({"ram": ram(), "cuda": {"error": "unavailable"}} | plan)
    total, used = memory["total"], memory["used"]

    def both(value: int, peak: int | None = None) -> dict[str, int]:
        return {"current": value, "peak": value if peak is None else peak}

    allocated, reserved = memory.get("allocated", 0), memory.get("reserved", 0)
    cuda = {
        "system": {"free": max(0, total - used), "used": used, "total": total},
        "active": both(memory.get("active", allocated), memory.get("active_peak")),
        "allocated": both(allocated, memory.get("allocated_peak")),
        "reserved": both(reserved, memory.get("reserved_peak")),
        "inactive": both(memory.get("inactive", max(0, reserved - allocated)), memory.get("inactive_peak")),
        "events": {"retries": memory.get("retries", 0), "oom": memory.get("oom", 0)},
    }
    return json_response({"ram": ram(), "cuda": cuda} | plan)


def _plan(context: Context, memory: dict[str, int]) -> dict[str, Any]:
    """The memory plan, where the backend has one: bytes, the sentence, and the measures that it chose at load."""
    kinds = {kind.removeprefix("plan_"): memory[kind] for kind in PLAN_KINDS if kind in memory}
    if not kinds:
        return {}
    device = context.backend.catalogue.device
    return {"plan": kinds | {"sentence": device.plan, "measures": list(device.measures)}}
