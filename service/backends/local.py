"""The backend of this process: one engine, in one worker thread, behind one slot."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from service.backends.engine import Engine
from service.core.errors import DeviceLost, ModelLoadError, ServiceError
from service.core.events import Progress, Queued, Started
from service.core.generation import GenerationRequest, GenerationResult
from service.core.lifecycle import Lifecycle, State
from service.core.slot import Place, Slot
from service.core.tasks import Task
from service.metrics import Metrics

log = structlog.get_logger(__name__)

T = TypeVar("T")


class LocalBackend:
    """Runs tasks on an engine of this process, one at a time. To be used from the event loop's thread.

    ``make_engine`` is called in the worker thread: importing torch takes seconds, and the probes answer meanwhile.
    """

    def __init__(
        self, make_engine: Callable[[], Engine], lifecycle: Lifecycle, metrics: Metrics, queue_size: int
    ) -> None:
        self._make_engine = make_engine
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._engine: Engine | None = None
        self._started = time.perf_counter()
        self._loading: asyncio.Task[None] | None = None
        self._first_image = True
        self._holding: set[asyncio.Task[Any]] = set()
        metrics.queue_limit.set(queue_size)
        self.slot = Slot(queue_size, self._slot_changed)

    @property
    def engine(self) -> Engine:
        """The engine. Raises what the lifecycle says while there is none."""
        if self._engine is None:
            self._lifecycle.raise_unless_accepting()
            raise ModelLoadError("There is no model.")
        return self._engine

    def _slot_changed(self, busy: bool, waiting: int) -> None:
        self._metrics.queue_depth.set(waiting)
        self._lifecycle.busy(busy)

    def start(self) -> None:
        """Begin to load; returns at once. The lifecycle tells how it goes."""
        self._loading = asyncio.get_running_loop().create_task(self._load())

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()

        def news(sentence: str, *, part: str | None = None, seconds: float = 0.0) -> None:
            loop.call_soon_threadsafe(self._news, sentence, part, seconds)

        def work() -> Engine:
            began = time.perf_counter()
            news("Importing the libraries.")
            engine = self._make_engine()
            news("Reading the checkpoint.", part="imports", seconds=time.perf_counter() - began)
            engine.load(news)
            return engine

        self._lifecycle.loading("Starting.")
        try:
            engine = await loop.run_in_executor(self._worker, work)
        except ServiceError as error:
            log.error("load failed", error=error.detail)
            self._lifecycle.fail(error)
            return
        except Exception as error:
            log.exception("load failed")
            self._lifecycle.fail(
                ModelLoadError(f"The model could not be loaded: {type(error).__name__}: {error}")
            )
            return
        self._engine = engine
        total = time.perf_counter() - self._started
        self._metrics.cold_start.labels("total").set(total)
        self._metrics.watch_device_memory(engine.device_memory)
        self.model_changed()
        if self._lifecycle.state is State.LOADING:
            self._lifecycle.ready()
        log.info(
            "ready", model=engine.current().title, device=engine.device().device, seconds=round(total, 2)
        )

    def _news(self, sentence: str, part: str | None, seconds: float) -> None:
        if self._lifecycle.state is State.LOADING:
            self._lifecycle.loading(sentence)
        if part is not None:
            self._metrics.cold_start.labels(part).set(seconds)
        log.info("loading", news=sentence)

    def model_changed(self) -> None:
        """Export which checkpoint is in use."""
        current, device = self.engine.current(), self.engine.device()
        self._metrics.set_model(current.name, current.short_hash or "", device.device, device.dtype)

    async def generate(self, task: Task) -> GenerationResult:
        """Make the images of ``task``: wait for the device, hold it until the engine has let go, give it back.

        Raises what :mod:`service.core.errors` names: refused (full, draining, loading), cancelled, past the deadline,
        out of memory …
        """
        request = task.request
        assert request is not None
        return (await self.generate_series(task, lambda engine: [request]))[0]

    def _account(self, task: Task, result: GenerationResult) -> None:
        for stage, seconds in result.timings.stages.items():
            task.timings.add(stage, seconds)
        task.cold_start, self._first_image = task.cold_start or self._first_image, False
        self._metrics.images.inc(len(result.images))
        self._metrics.pixels.inc(sum(image.shape[0] * image.shape[1] for image in result.images))
        self._metrics.steps.inc(result.steps_done)

    async def generate_series(
        self, task: Task, requests: Callable[[Engine], Sequence[GenerationRequest]]
    ) -> list[GenerationResult]:
        """Make one generation after the other in one turn on the device (A1111's scripts).

        ``requests`` is called in the engine's thread. An interrupt ends the series after what there is so far.
        """
        loop = asyncio.get_running_loop()

        def work(engine: Engine) -> list[GenerationResult]:
            results: list[GenerationResult] = []
            wanted = requests(engine)
            for number, request in enumerate(wanted):

                def sink(progress: Progress, number: int = number) -> None:
                    each = progress.job_count
                    whole = replace(
                        progress, job_no=number * each + progress.job_no, job_count=each * len(wanted)
                    )
                    loop.call_soon_threadsafe(task.publish, whole)

                results.append(engine.generate(request, task.token, sink))
                if task.token.cancelled:
                    break
            return results

        results = await self.on_device(task, work)
        for result in results:
            self._account(task, result)
        return results

    async def on_device(self, task: Task, work: Callable[[Engine], T]) -> T:
        """Run other work of the engine (upscaling, loading a checkpoint) as ``task``, in its turn."""
        self._lifecycle.raise_unless_accepting()
        place = self.slot.enter(task.token, lambda position: task.publish(Queued(position)))
        # The device is held by a task of its own: whatever becomes of the caller (a proxy that went away, a
        # cancelled response), the permit returns when the engine's thread is done and not before.
        holding = asyncio.get_running_loop().create_task(self._hold(place, self.engine, task, work))
        self._holding.add(holding)
        holding.add_done_callback(self._let_go)
        try:
            return await asyncio.shield(holding)
        except asyncio.CancelledError:
            task.token.cancel("disconnect")
            raise

    def _let_go(self, holding: "asyncio.Task[Any]") -> None:
        self._holding.discard(holding)
        if not holding.cancelled():
            holding.exception()  # its caller may be gone: nobody else would look at it

    async def _hold(self, place: Place, engine: Engine, task: Task, work: Callable[[Engine], T]) -> T:
        async with place:
            task.timings.add("queue", time.monotonic() - task.arrived)
            task.publish(Started())
            self._metrics.device_taken()
            try:
                return await asyncio.get_running_loop().run_in_executor(self._worker, work, engine)
            except DeviceLost as error:
                self._lifecycle.fail(error)
                raise
            finally:
                self._metrics.device_freed()

    async def wait_idle(self) -> None:
        """Return when nothing runs and nothing waits."""
        await self.slot.wait_idle()

    def close(self) -> None:
        """End the worker thread; a load that is under way is not waited for."""
        if self._loading is not None:
            self._loading.cancel()
        self._worker.shutdown(wait=False, cancel_futures=True)
