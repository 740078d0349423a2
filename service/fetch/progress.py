"""What a person sees of a fetch: a bar on a terminal, a line every few seconds in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

SECONDS_BETWEEN_LINES = 5.0

Report = Callable[[str, int], None]
"""Called with the name of a file and how many bytes of it are new."""


@contextmanager
def progress(total: int) -> Iterator[Report]:
    """Show on standard error how much of ``total`` bytes is there, as :data:`Report` tells."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total)
        yield lambda name, new: bar.update(task, description=name, advance=new)


class _Lines:
    """For logs, which a bar would fill with carriage returns."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._next = time.monotonic() + SECONDS_BETWEEN_LINES

    def __call__(self, name: str, new: int) -> None:
        self._done += new
        now = time.monotonic()
        if now >= self._next or self._done >= self._total:
            self._next = now + SECONDS_BETWEEN_LINES
            share = 100 * self._done // max(1, self._total)
            print(
                f"{_megabytes(self._done)} of {_megabytes(self._total)} MB ({share} %), {name}",
                file=sys.stderr,
                flush=True,
            )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f}"
