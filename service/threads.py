"""Threads of native code (OpenMP under torch): how many, and how they wait for each other.

libgomp reads its variables once, when torch is imported, so both are decided before that, in the environment:

* **Waiting is passive** (``OMP_WAIT_POLICY``). By default an OpenMP thread that has nothing to do spins, to be quick
  when there is something. Beside any other busy process on the same cores, spinning threads burn the time that the
  ones they wait for need: three services on two cores then make a small part of what one makes alone.
* **The number** is what the container may use: its cgroup's CPU quota, and where there is none, the cores that the
  process may run on. A node's cores mean nothing inside a limit of two: more threads than quota are throttled
  together. ``SD_CPU_THREADS`` says another number.

What the operator has set (``OMP_WAIT_POLICY``, ``GOMP_SPINCOUNT``, ``OMP_NUM_THREADS``) stays as it is, but that
``SD_CPU_THREADS`` wins over ``OMP_NUM_THREADS``.
"""

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

from service.cgroups import CGROUPS, MEMBERSHIP, folders


def prepare(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set what native code reads when it is imported. Does no harm when called again, or too late."""
    wanted = environ.get("SD_CPU_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        environ["OMP_NUM_THREADS"] = str(int(wanted))
    else:  # what is no number is refused where all settings are read
        environ.setdefault("OMP_NUM_THREADS", str(available()))
    if "GOMP_SPINCOUNT" not in environ:
        environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def available() -> int:
    """CPUs that this process may keep busy at once, 1 or more: the quota, rounded up, within its cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cpu_quota(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """CPUs that the cgroup (version 2, 1 or both) of this process grants; None where nothing limits it.

    A limit holds for everything below it, so the least of the group's own and its parents' counts. In a container,
    ``membership`` may name the path on the node while ``cgroups`` shows the container's own group as its root:
    folders that are not there are passed over.
    """
    found = [quota for folder in folders("cpu", cgroups, membership) if (quota := _quota(folder)) is not None]
    return min(found, default=None)


def _quota(folder: Path) -> float | None:
    """The limit of one group, in CPUs."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if quota.strip() not in ("max", "-1") else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
