"""The backend of this process: one engine, in one worker thread, behind one slot."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog

from service import allocator
from service.backends.engine import Engine
from service.backends.perform import check, perform
from service.catalogue.catalogue import Catalogue
from service.core.errors import DeviceLost, ModelLoadError, ServiceError
from service.core.events import Progress, Queued, Started
from service.core.generation import GenerationResult
from service.core.jobs import Generate, Job, LoadCheckpoint, Series, Upscaled
from service.core.lifecycle import Lifecycle, Probe, State
from service.core.tasks import Task
from service.core.turns import Turn, Turns
from service.metrics import Metrics

log = structlog.get_logger(__name__)

R = TypeVar("R")

RETRY_DELAYS: Final = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""Seconds before a failed load is tried again; the last one for ever. A volume or a registry may come back."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Seconds without work after which the weights leave the device, and after which they leave memory; 0: never."""

    sleep: float = 0.0
    unload: float = 0.0


NEVER: Final = Idle()

PAUSE: Final = 60.0
"""Seconds without work after which main memory that was kept for the next picture goes back to the system."""

_WHERE: Final = {"memory": "in main memory", "disk": "on the disk"}


def _sleep(engine: Engine) -> str:
    return engine.sleep()


def _unload(engine: Engine) -> str:
    engine.unload()
    return "disk"


class LocalBackend:
    """See :class:`service.backends.port.Backend`. Runs jobs on an engine of this process, one at a time.

    ``make_engine`` is called in the worker thread: importing torch takes seconds, and the probes answer meanwhile.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        lifecycle: Lifecycle,
        metrics: Metrics,
        queue_size: int,
        idle: Idle = NEVER,
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
        self._turns = Turns(1, queue_size, self._turn_changed)
        self._idle = idle
        self._timers: list[asyncio.TimerHandle] = []

    def _turn_changed(self) -> None:
        busy = self.running
        self._metrics.queue_depth.set(self.waiting)
        self._lifecycle.busy(busy)
        for timer in self._timers:
            timer.cancel()
        self._timers = []
        if busy:
            self._metrics.set_asleep(None)
        else:
            self._rest()

    # --- idle ----------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Nothing is to be done: let freed memory and then the weights leave after a while."""
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(PAUSE, self._give_back))
        for seconds, work in ((self._idle.sleep, _sleep), (self._idle.unload, _unload)):
            if seconds:
                self._timers.append(loop.call_later(seconds, self._leave, work))

    def _give_back(self) -> None:
        if not self.running:
            asyncio.get_running_loop().run_in_executor(self._worker, allocator.give_back)

    def _leave(self, work: Callable[[Engine], str]) -> None:
        if self._engine is not None and not self.running:
            # In the engine's thread: a request that comes meanwhile runs after it.
            going = asyncio.get_running_loop().run_in_executor(self._worker, work, self._engine)
            going.add_done_callback(self._left)

    def _left(self, going: "asyncio.Future[str]") -> None:
        if going.cancelled():
            return
        if (error := going.exception()) is not None:
            log.error("the weights could not leave the device", error=str(error))
        elif not self.running:
            self._metrics.set_asleep(going.result())
            self._lifecycle.asleep(_WHERE[going.result()])
            log.info("asleep", weights=going.result())

    # --- getting ready -------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to load; the lifecycle tells how it goes."""
        self._loading = asyncio.get_running_loop().create_task(self._load_until_it_works())

    async def _load_until_it_works(self) -> None:
        attempt = 0
        while (error := await self._load()) is not None:
            delay = RETRY_DELAYS[min(attempt, len(RETRY_DELAYS) - 1)]
            attempt += 1
            log.error("load failed", error=error.detail, next_attempt_in=delay)
            self._lifecycle.fail(error)
            if isinstance(error, DeviceLost):
                return
            await asyncio.sleep(delay)

    async def _load(self) -> ServiceError | None:
        """One attempt; the error that ended it."""
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

        if self._lifecycle.state is State.DRAINING:
            return None
        self._lifecycle.loading("Starting.")
        try:
            engine = await loop.run_in_executor(self._worker, work)
        except ServiceError as error:
            return error
        except Exception as error:
            log.exception("load failed")
            return ModelLoadError(f"The model could not be loaded: {type(error).__name__}: {error}")
        self._engine = engine
        total = time.perf_counter() - self._started
        self._metrics.cold_start.labels("total").set(total)
        self._metrics.watch_device_memory(engine.device_memory)
        catalogue = engine.catalogue()
        self._in_use(catalogue.default.name, catalogue.default.short_hash)
        if self._lifecycle.state is State.LOADING:
            self._lifecycle.ready()
            self._rest()
        log.info(
            "ready",
            model=catalogue.default.title,
            device=catalogue.device.device,
            seconds=round(total, 2),
        )
        return None

    def _news(self, sentence: str, part: str | None, seconds: float) -> None:
        if self._lifecycle.state is State.LOADING:
            self._lifecycle.loading(sentence)
        if part is not None:
            self._metrics.cold_start.labels(part).set(seconds)
        log.info("loading", news=sentence)

    # --- what there is -------------------------------------------------------------------------------

    def _require(self) -> Engine:
        if self._engine is None:
            self._lifecycle.raise_unless_accepting()
            raise ModelLoadError("There is no model.")
        return self._engine

    @property
    def catalogue(self) -> Catalogue:
        """What the engine found when it last looked."""
        return self._require().catalogue()

    def memory(self) -> dict[str, int]:
        """Bytes of the device by kind."""
        return self._require().device_memory()

    @property
    def running(self) -> bool:
        """True while a job holds the device."""
        return self._turns.in_flight > 0

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return self._turns.waiting

    def readiness(self) -> Probe:
        """After the warm-up image, before SIGTERM."""
        return self._lifecycle.readiness()

    def raise_if_refusing(self) -> None:
        """Raise what :meth:`run` would raise at once."""
        self._lifecycle.raise_unless_accepting()
        self._turns.raise_if_full()

    # --- jobs ----------------------------------------------------------------------------------------

    async def run(self, job: Job[R], task: Task) -> R:
        """Run ``job`` in its turn: wait for the device, hold it until the engine has let go, give it back."""
        self._lifecycle.raise_unless_accepting()
        check(self._require(), job)
        # One line for all: whoever comes first is first, as before one device of A1111's.
        turn = self._turns.enter("", task.token, lambda position: task.publish(Queued(position)))
        # The device is held by a task of its own: whatever becomes of the caller (a proxy that went away, a
        # cancelled response), the permit returns when the engine's thread is done and not before.
        holding = asyncio.get_running_loop().create_task(self._hold(turn, self._require(), task, job))
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

    async def _hold(self, turn: Turn, engine: Engine, task: Task, job: Job[R]) -> R:
        loop = asyncio.get_running_loop()

        def sink(progress: Progress) -> None:
            loop.call_soon_threadsafe(task.publish, progress)

        async with turn:
            task.publish(Queued(0))
            task.timings.add("queue", time.monotonic() - task.arrived)
            task.publish(Started())
            self._metrics.device_taken()
            try:
                result: R = await loop.run_in_executor(self._worker, perform, engine, job, task.token, sink)
            except DeviceLost as error:
                self._lifecycle.fail(error)
                raise
            finally:
                self._metrics.device_freed()
        self._account(job, result, task)
        return result

    def _account(self, job: Job[Any], result: Any, task: Task) -> None:
        match job:
            case Generate() | Series():
                for made in result:
                    self._count(made, task)
            case LoadCheckpoint():
                self._in_use(result.name, result.short_hash)
        if isinstance(result, Upscaled):
            task.timings.add("upscale", result.seconds)

    def _count(self, made: GenerationResult, task: Task) -> None:
        for stage, seconds in made.timings.stages.items():
            task.timings.add(stage, seconds)
        task.cold_start, self._first_image = task.cold_start or self._first_image, False
        self._metrics.images.inc(len(made.images))
        self._metrics.pixels.inc(sum(image.shape[0] * image.shape[1] for image in made.images))
        self._metrics.steps.inc(made.steps_done)
        self._in_use(made.model_name, made.model_hash)

    def _in_use(self, name: str, short_hash: str | None) -> None:
        """Export which checkpoint was used last."""
        if self._engine is not None:
            device = self._engine.catalogue().device
            self._metrics.set_model(name, short_hash or "", device.device, device.dtype)

    async def wait_idle(self) -> None:
        """Return when nothing runs and nothing waits."""
        await self._turns.wait_idle()

    async def close(self) -> None:
        """End the worker thread; a load that is under way is not waited for."""
        if self._loading is not None:
            self._loading.cancel()
        for timer in self._timers:
            timer.cancel()
        self._worker.shutdown(wait=False, cancel_futures=True)
