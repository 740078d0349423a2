"""What a run shows while it lasts."""

import asyncio
import io
import re

from rich.console import Console

from loadtest.client import Client
from loadtest.exchange import Exchange, Target
from loadtest.live import LiveView, shown
from loadtest.payloads import Payloads
from loadtest.runner import ClosedLoop, Runner
from loadtest.tally import Tally


def tally_of_a_run() -> Tally:
    tally = Tally()
    for number in range(30):
        failed = number % 10 == 9
        tally.add(
            Exchange(
                number=number, intended=number, sent=number, done=number + 2.5, status=500 if failed else 200,
                failure="HTTP 500" if failed else "", message="broken [red]", pod=f"pod-{number % 12}",
                cold=number < 3, first_progress=0.5,
            )
        )  # fmt: skip
    return tally


def drawn(tally: Tally, *, terminal: bool, goal: int | None = 50, duration: float | None = None) -> str:
    """The panel as text."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, no_color=True)
    client = Client(Target("http://127.0.0.1:1/"))
    runner = Runner(ClosedLoop(5, goal, duration), client, Payloads(None), tally)
    console.print(LiveView(tally, runner, goal, duration, console).panel())
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())


def test_the_panel_shows_pods_failures_and_pace() -> None:
    text = drawn(tally_of_a_run(), terminal=True)
    for word in ("30/50 done", "recent P50 2.50 s", "failed 3", "cold starts 3", "first progress 0.50 s",
                 "and 4 more pods", "3 × HTTP 500: broken [red]"):  # fmt: skip
        assert word in text
    assert "30 done" in drawn(tally_of_a_run(), terminal=True, goal=None, duration=60)
    assert "0/50 done" in drawn(Tally(), terminal=True)


def test_the_view_ends_with_the_run_and_leaves_the_screen_as_it_was() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    tally = tally_of_a_run()
    runner = Runner(ClosedLoop(5, 50), Client(Target("http://127.0.0.1:1/")), Payloads(None), tally)

    async def watch() -> None:
        async with shown(LiveView(tally, runner, 50, None, console)):
            while "done" not in out.getvalue():
                await asyncio.sleep(0.01)
        async with shown(None):
            pass

    asyncio.run(asyncio.wait_for(watch(), 60))
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1, (
        "the cursor comes back"
    )
