"""GET /sdapi/v1/memory: what the process and the device have and use."""

import os
import resource
import sys
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from starlette.responses import Response

from service.api.problems import json_response
from service.context import Context, get_context

router = APIRouter(prefix="/sdapi/v1", tags=["A1111"])

ContextDep = Annotated[Context, Depends(get_context)]

_CGROUP_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def ram() -> dict[str, int]:
    """Bytes: what this process uses, and what it may (its container's limit, or the machine's memory)."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():  # "max" stands for none
            total = min(total, int(text))
    used = _resident()
    return {"free": max(0, total - used), "used": used, "total": total}


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux: the most it ever was, which macOS counts in bytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


@router.get("/memory", response_model=dict[str, Any], summary="Memory of process and device")
async def get_memory(context: ContextDep) -> Response:
    """``ram`` and ``cuda`` in bytes. Answers while images are made."""
    memory = context.backend.memory()
    if not memory:
        return json_response({"ram": ram(), "cuda": {"error": "unavailable"}})
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
    return json_response({"ram": ram(), "cuda": cuda})
