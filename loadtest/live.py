"""What a run shows while it lasts: a panel on a terminal, a line every ten seconds in a log. Goes to
stderr.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtest.runner import Runner
from loadtest.tally import Tally

_EVERY = 0.25
_LOG_EVERY = 10.0
_RECENT = 200


class LiveView:
    """Draws a run that goes on; :meth:`follow` until cancelled."""

    def __init__(
        self, tally: Tally, runner: Runner, goal: int | None, duration: float | None, console: Console
    ) -> None:
        self._tally = tally
        self._runner = runner
        self._goal = goal
        self._duration = duration
        self._console = console
        self._begin = time.perf_counter()
        self._rate: deque[tuple[float, int]] = deque(maxlen=41)

    async def follow(self) -> None:
        """Refresh until cancelled. Drawing is done between requests and takes about a millisecond."""
        if not self._console.is_terminal:
            while True:
                await asyncio.sleep(_LOG_EVERY)
                self._console.print(self._line(), highlight=False, soft_wrap=True)
        with Live(self.panel(), console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                await asyncio.sleep(_EVERY)
                live.update(self.panel(), refresh=True)

    def panel(self) -> Group:
        """The panel as it stands now."""
        tally, elapsed = self._tally, time.perf_counter() - self._begin
        self._rate.append((elapsed, tally.count))
        bar = ProgressBar(
            total=self._goal or self._duration,
            completed=tally.count if self._goal else min(elapsed, self._duration or elapsed),
            width=48,
            pulse=not (self._goal or self._duration),
        )
        goal = f"/{self._goal}" if self._goal else ""
        head = Text.assemble(
            (f" {tally.count}{goal} done", "bold"),
            f" · {self._runner.in_flight} in flight · {self._pace():.2f}/s · {elapsed:.0f} s",
        )
        table = Table.grid(padding=(0, 3))
        table.add_row(*(Text.assemble((f"{name} ", "dim"), value) for name, value in self._figures()))
        rows: list[RenderableType] = [bar, head, table]
        if tally.pods:
            rows.append(self._pods())
        for kind, failure in sorted(tally.failures.items(), key=lambda item: -item[1].count)[:4]:
            rows.append(Text(f" {failure.count} × {kind}: {failure.example[:80]}", style="red"))
        return Group(*rows)

    def _figures(self) -> list[tuple[str, str]]:
        recent = sorted(one.latency for one in self._tally.records[-_RECENT:] if one.ok)
        figures = [("recent P50", f"{recent[len(recent) // 2]:.2f} s")] if recent else []
        if len(recent) >= 20:
            figures.append(("P90", f"{recent[len(recent) * 9 // 10]:.2f} s"))
        figures.append(("failed", str(self._tally.count - self._tally.succeeded)))
        figures.append(("cold starts", str(self._tally.cold_starts)))
        if self._tally.progress_after.count:
            figures.append(("first progress", f"{self._tally.progress_after.mean:.2f} s"))
        return [(" " + name if not index else name, value) for index, (name, value) in enumerate(figures)]

    def _pods(self) -> Table:
        most = max(pod.answers for pod in self._tally.pods.values())
        table = Table.grid(padding=(0, 2))
        shown = sorted(self._tally.pods.items(), key=lambda item: -item[1].answers)[:8]
        for name, pod in shown:
            table.add_row(
                Text(f" {name[-40:]}", style="dim"),
                Text("■" * max(1, round(24 * pod.answers / most)), style="cyan"),
                Text(str(pod.answers)),
            )
        if len(self._tally.pods) > len(shown):
            table.add_row(Text(f" and {len(self._tally.pods) - len(shown)} more pods", style="dim"))
        return table

    def _pace(self) -> float:
        (first, before), (last, after) = self._rate[0], self._rate[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def _line(self) -> str:
        tally = self._tally
        goal = f" of {self._goal}" if self._goal else ""
        return (
            f"{time.perf_counter() - self._begin:.0f} s: {tally.count}{goal} done, "
            f"{self._runner.in_flight} in flight, {tally.count - tally.succeeded} failed, "
            f"{len(tally.pods)} pods, {tally.cold_starts} cold starts"
        )


@contextlib.asynccontextmanager
async def shown(view: LiveView | None) -> AsyncIterator[None]:
    """Show ``view`` (None: nothing) while the body runs."""
    task = asyncio.create_task(view.follow()) if view else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
