"""Main memory of this process: what it uses, what it may, and what of that is for requests."""

import contextlib
import os
import resource
import sys
from pathlib import Path
from typing import Final

from service import cgroups

_MIB: Final = 1024**2
LEAST: Final = 128 * _MIB
"""Bytes for requests however little there is: below it hardly one image comes through."""

MOST: Final = 2048 * _MIB
"""Bytes for requests however much there is: what waits should wait at the client."""


def machine(root: Path = Path("/")) -> int:
    """Bytes of main memory that the machine has. ``root`` is where ``proc`` and ``sys`` are mounted."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def limit(root: Path = Path("/")) -> int:
    """Bytes that this process may use: the least limit of its control groups, or the machine's memory."""
    found = [machine(root)]
    for folder, name in control_groups(root):
        with contextlib.suppress(OSError, ValueError):  # no such group, or no limit ("max")
            found.append(int((folder / name).read_text()))
    return min(amount for amount in found if amount > 0)


def control_groups(root: Path = Path("/")) -> list[tuple[Path, str]]:
    """The folders that may limit this process' memory, each with the file of the limit (v2 and v1): its own group's
    and those around it.
    """
    folders = cgroups.folders("memory", root / "sys/fs/cgroup", root / "proc/self/cgroup")
    names = ("memory.max", "memory.high", "memory.limit_in_bytes")
    return [(folder, name) for folder in folders for name in names]


def resident() -> int:
    """Bytes that this process uses."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux: the most it ever was, which macOS counts in bytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def for_requests(may: int, used: int) -> int:
    """Bytes for what clients send and get, of ``may`` in all when ``used`` are taken: half of what is left.

    The other half is for what nobody counts: copies on their way, the engine's own work, fragmentation.
    """
    return max(LEAST, min(MOST, (may - used) // 2))
