"""A run from its first request to its last report: calibration, load, live view, Ctrl-C, verdict, files."""

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import typer
from rich.console import Console

from loadtest.client import Client
from loadtest.digest import build
from loadtest.exchange import Target
from loadtest.findings import findings
from loadtest.live import LiveView, shown
from loadtest.overhead import LoopProbe, Overhead, calibrate
from loadtest.payloads import Payloads
from loadtest.report_text import render
from loadtest.result import Plan, RunResult
from loadtest.runner import ClosedLoop, OpenLoop, Runner
from loadtest.tally import Tally
from loadtest.thresholds import Threshold

FINE: Final = 0
BROKEN: Final = 1
NOTHING_SUCCEEDED: Final = 3
INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Campaign:
    """A run with all that surrounds it."""

    plan: Plan
    target: Target
    loop: ClosedLoop | OpenLoop
    payloads: Payloads
    sessions: int
    thresholds: Sequence[Threshold] = ()
    json_file: Path | None = None
    html_file: Path | None = None
    title: str = ""
    quiet: bool = False
    calibrate: bool = True


def carry_out(campaign: Campaign) -> int:
    """Run it, print and write the report, and return the exit code."""
    with asyncio.Runner(loop_factory=_fast_loop) as runner:
        result = runner.run(measure(campaign))
    typer.echo(render(result), nl=False)
    if campaign.json_file:
        campaign.json_file.write_bytes(result.to_json())
    if campaign.html_file:
        from loadtest.report_html import render as render_html

        campaign.html_file.write_text(render_html(result, campaign.title), encoding="utf-8")
    if result.interrupted:
        return INTERRUPTED
    if any(verdict.broken for verdict in result.thresholds):
        return BROKEN
    return FINE if result.succeeded else NOTHING_SUCCEEDED


async def measure(campaign: Campaign) -> RunResult:
    """The run itself. SIGINT and SIGTERM end it early, with a report of what was seen until then."""
    body = campaign.payloads.of(0, {}).body
    cost: tuple[float, float] | tuple[None, None] = (None, None)
    if campaign.calibrate:
        cost = await calibrate(campaign.target, body)
    else:
        # One exchange all the same: what httpx imports on its first request is no latency of the target.
        await calibrate(campaign.target, body, rounds=1)
    tally = Tally(campaign.plan.seed)
    probe = LoopProbe()
    started_at = datetime.now(UTC)
    async with Client(campaign.target) as client:
        runner = Runner(campaign.loop, client, campaign.payloads, tally, campaign.sessions)
        view = None
        if not campaign.quiet:
            view = LiveView(
                tally, runner, campaign.loop.requests, campaign.loop.duration, Console(stderr=True)
            )
        with _signals(runner):
            probe.start()
            async with shown(view):
                await runner.execute()
            late_p99, late_max, cpu = await probe.stop()
        total = client.now() if runner.interrupted or not tally.count else tally.last_done
    result = build(
        campaign.plan,
        tally,
        Overhead(cost[0], cost[1], late_p99, late_max, cpu),
        started_at=started_at,
        unfinished=runner.unfinished,
        interrupted=runner.interrupted,
        total=total,
    )
    return replace(
        result,
        thresholds=tuple(threshold.judge(result, tally) for threshold in campaign.thresholds),
        notes=tuple(findings(result, runner.held_back)),
    )


class _signals:  # noqa: N801 - reads as a statement: with _signals(runner)
    """While open, the first Ctrl-C ends the run and a second one the process."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._stop)

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.remove_signal_handler(number)

    def _stop(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.remove_signal_handler(number)
        self._runner.stop()


def _fast_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it exists: it halves the client's own share."""
    try:
        import uvloop
    except ImportError:  # the service requires it on Linux only
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
