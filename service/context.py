"""What every route needs, made once by ``create_app`` and found on the application."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

from fastapi import FastAPI, Request

from service.api.sdapi.options import Options
from service.api.sdapi.styles import StyleBook
from service.backends.local import LocalBackend
from service.core.lifecycle import Lifecycle
from service.core.tasks import TaskRegistry
from service.metrics import Metrics
from service.settings import Settings
from service.state.sessions import Sessions


@dataclass(eq=False)
class Context:
    """The parts of one application. ``encoders`` runs what is heavy but not the device's (PNG, base64, JSON)."""

    settings: Settings
    lifecycle: Lifecycle
    metrics: Metrics
    tasks: TaskRegistry
    backend: LocalBackend
    sessions: Sessions
    styles: StyleBook
    options: dict[str, Any] = field(default_factory=dict)
    """What clients without a session have set: it holds for all requests, below what a session sets itself."""

    stop_server: Callable[[], None] = field(default=lambda: os.kill(os.getpid(), signal.SIGTERM))
    """Ends this process as a platform would: what runs and waits is finished first."""

    encoders: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="encoder")
    )
    requests_under_way: int = 0
    """Exchanges for images that have not been answered to their last byte."""

    aborting: bool = False

    def options_of(self, session: str | None, *overrides: Mapping[str, Any]) -> Options:
        """The options that hold for a request of ``session``: process-wide < session < ``overrides``."""
        return Options(self.options, self.sessions.options(session), *overrides)

    def set_options(self, session: str | None, changes: Mapping[str, Any]) -> None:
        """Set (checked) options for ``session``; for all of the process where there is no session."""
        if session is None:
            self.options.update(changes)
        else:
            self.sessions.update(session, changes)

    async def drain(self, grace: float) -> None:
        """Stop taking work and let what runs and waits finish and be sent; after ``grace`` seconds cancel it."""
        self.lifecycle.drain()
        deadline = time.monotonic() + grace
        while self.requests_under_way or self.backend.slot.busy:
            if time.monotonic() > deadline:
                self.abort()
            await asyncio.sleep(0.02)

    def abort(self) -> None:
        """Cancel everything under way."""
        self.aborting = True
        self.tasks.cancel_all("shutdown")

    def close(self) -> None:
        """Release the threads."""
        self.backend.close()
        self.encoders.shutdown(wait=False, cancel_futures=True)


def attach(app: FastAPI, context: Context) -> None:
    """Make ``context`` the one of ``app``."""
    app.state.context = context


def get_context(request: Request) -> Context:
    """The context of the application that serves ``request``; a FastAPI dependency."""
    return cast(Context, request.app.state.context)
