"""Rows made by this process' own engine, behind the same preparation and the same answer as the API's."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from service.api.sdapi import respond
from service.api.sdapi.prepared import prepare
from service.backends.engine import Engine
from service.batch.errors import BatchError, BatchStopped
from service.batch.makers import Made, RowFailed, made, model_name
from service.batch.plan import validated
from service.batch.rows import Kind
from service.context import Context
from service.core.errors import DeviceLost, ServiceError
from service.core.events import Progress, TaskEvent
from service.core.lifecycle import State
from service.settings import Settings


class Local:
    """See :class:`service.batch.makers.Maker`. ``on_progress`` is told of every sampler step."""

    def __init__(self, context: Context, on_progress: Callable[[Progress], None] | None = None) -> None:
        self._context = context
        self._on_progress = on_progress

    async def make(self, kind: Kind, body: Mapping[str, Any]) -> Made:
        """Prepare, run and encode a row. The device is free while another row is prepared or encoded."""
        context = self._context
        task = context.tasks.open(kind)
        task.listen(self._told)
        try:
            parsed = validated(kind, body)
            prepared = await context.lanes.run(
                task, prepare, parsed, (), context.settings, context.backend.catalogue, context.styles
            )
            results = await context.backend.run(prepared.job, task)
            answer = await respond.answer(prepared, results, context, task)
            seconds: dict[str, float] = {
                stage: round(spent, 4) for stage, spent in task.timings.stages.items()
            }
            spent = time.monotonic() - task.arrived - seconds.get("queue", 0.0)
            return await context.lanes.run(task, made, answer, {**seconds, "total": round(spent, 4)})
        except DeviceLost as error:
            raise BatchStopped(error.detail) from None
        except ServiceError as error:
            raise RowFailed(error.detail, error.code) from None
        finally:
            context.tasks.close(task)

    def _told(self, event: TaskEvent) -> None:
        if self._on_progress is not None and isinstance(event, Progress):
            self._on_progress(event)

    async def model(self) -> str:
        """The catalogue's default."""
        default = self._context.backend.catalogue.default
        return model_name(default.name, default.short_hash)

    async def memory(self) -> Mapping[str, float]:
        """What the device says."""
        found = self._context.backend.memory()
        return {name: round(found[name] / 2**30, 3) for name in ("used", "total") if name in found}


@asynccontextmanager
async def local(
    settings: Settings,
    on_news: Callable[[str], None] = lambda news: None,
    on_progress: Callable[[Progress], None] | None = None,
    make_engine: Callable[[], Engine] | None = None,
) -> AsyncIterator[Local]:
    """The engine of this process (``make_engine`` replaces diffusers'), loaded; ``on_news`` is told how that goes.

    Raises :class:`BatchError` where the model cannot be loaded.
    """
    from service.app import create_app

    app = create_app(settings, make_engine)
    async with app.router.lifespan_context(app):
        context: Context = app.state.context
        while not context.lifecycle.accepts_work:
            if context.lifecycle.state is State.FAILED:
                raise BatchError(f"The model can't be loaded: {context.lifecycle.reason}")
            on_news(context.lifecycle.reason)
            await asyncio.sleep(0.02)
        yield Local(context, on_progress)
