"""Where the limits of this process' control groups stand, as machines and containers show them."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")


def folders(controller: str, cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> Iterator[Path]:
    """The folders that may hold a limit of ``controller`` (cpu, memory), of every hierarchy that this process is in.

    A limit holds for everything below it, so a group's parents count too. In a container, ``membership`` may name the
    path on the node while ``cgroups`` shows the container's own group as its root: folders that are not there are
    named all the same.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # no Linux, or no /proc: what is shown is all that there can be
        lines = ["0::/", f"1:{controller}:/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            roots = [cgroups, cgroups / "unified"]  # the second beside version 1
        elif controller in controllers.split(","):
            roots = [cgroups / controllers, cgroups / controller]
        else:
            continue
        below = PurePosixPath(path.lstrip("/"))
        for root in roots:
            for folder in (below, *below.parents):
                if ".." not in folder.parts:  # a group outside of what this namespace shows
                    yield root / folder
