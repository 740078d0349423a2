"""What every route needs, made once by ``create_app`` and found on the application."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, cast

from fastapi import FastAPI, Request

from service.api.board import Board
from service.api.lanes import Lanes
from service.api.sdapi.preferences import Preferences
from service.api.sdapi.styles import StyleBook
from service.backends.port import Backend
from service.backends.wire import Digest
from service.core.budget import Budget
from service.core.lifecycle import Lifecycle
from service.core.tasks import TaskRegistry
from service.metrics import Metrics
from service.settings import Settings
from service.state.store import Store

LAST_CHANCE: Final = 10.0
"""Seconds that work has to end after it was cancelled at the end of a drain; then the process leaves without it."""


@dataclass(eq=False)
class Context:
    """The parts of one application."""

    settings: Settings
    lifecycle: Lifecycle
    metrics: Metrics
    tasks: TaskRegistry
    backend: Backend
    store: Store
    board: Board
    preferences: Preferences
    styles: StyleBook
    budget: Budget
    """Main memory for what clients send and get."""
    lanes: Lanes
    stop_server: Callable[[], None] = field(default=lambda: os.kill(os.getpid(), signal.SIGTERM))
    """Ends this process as a platform would: what runs and waits is finished first."""

    digest: Digest = field(default_factory=Digest)
    """Of the catalogue, by which fronts know whether theirs is the latest."""
    aborting: bool = False
    on_drained: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """Called when all work is answered: whoever keeps connections open that have no end of their own ends them."""

    async def drain(self, grace: float) -> None:
        """Stop taking work and let what runs and waits finish and be sent; after ``grace`` seconds cancel it."""
        self.lifecycle.drain()
        try:
            async with asyncio.timeout(grace):
                await self._idle()
        except TimeoutError:
            self.abort()
            with suppress(TimeoutError):  # a device that hangs lets go of nothing
                async with asyncio.timeout(LAST_CHANCE):
                    await self._idle()
        for farewell in self.on_drained:
            await farewell()

    async def _idle(self) -> None:
        await self.tasks.wait_empty()
        await self.backend.wait_idle()

    def abort(self) -> None:
        """Cancel everything under way."""
        self.aborting = True
        self.tasks.cancel_all("shutdown")

    async def close(self) -> None:
        """Release threads and connections."""
        await self.store.close()
        await self.backend.close()
        self.lanes.close()


def attach(app: FastAPI, context: Context) -> None:
    """Make ``context`` the one of ``app``."""
    app.state.context = context


def get_context(request: Request) -> Context:
    """The context of the application that serves ``request``; a FastAPI dependency."""
    return cast(Context, request.app.state.context)
