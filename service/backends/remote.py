"""The backend of a front: other services of this kind, each scaled by its platform, reached by one request a job.

The front opens at most ``SD_UPSTREAM_CONCURRENCY`` jobs at each; behind that they take turns (``service.core.turns``).
Seeds are fixed before a job leaves, so one whose pod died is sent again and makes the same picture.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar, cast

import httpx
import numpy as np
import structlog
from PIL import Image

from service.backends.offers import Offers
from service.backends.upstream import News, Passing, Unreachable, UnusableUpstream, Upstream
from service.catalogue.catalogue import Catalogue
from service.core.errors import Cancelled, QueueFull, UpstreamError
from service.core.events import Queued
from service.core.generation import GenerationRequest, GenerationResult
from service.core.jobs import (
    Generate,
    Job,
    LoadCheckpoint,
    Refresh,
    Series,
    Unload,
    Upscaled,
    with_requests,
)
from service.core.lifecycle import Lifecycle, Probe
from service.core.tasks import Task
from service.core.turns import Turns
from service.metrics import Metrics

log = structlog.get_logger(__name__)

R = TypeVar("R")

FIRST_DELAY: Final = 0.2
LONGEST_DELAY: Final = 5.0
"""Seconds between attempts: from the first on, doubled each time and with jitter."""

CONNECT_TIMEOUT: Final = 5.0


class RemoteBackend:
    """See :class:`service.backends.port.Backend`. ``upstreams`` are addresses by name, the first one the default.

    What ``read_catalogue`` finds at the start (a models folder mounted here) wins over what upstreams tell;
    ``seconds`` is a request's deadline, ``tries`` how often a job is sent in all. ``transport`` takes the place of
    sockets.
    """

    def __init__(
        self,
        upstreams: Mapping[str, str],
        lifecycle: Lifecycle,
        metrics: Metrics,
        *,
        concurrency: int,
        queue_size: int,
        seconds: float,
        tries: int,
        largest_event: int,
        on_catalogue: Callable[[str, Catalogue], None] = lambda name, catalogue: None,
        read_catalogue: Callable[[], Catalogue | None] = lambda: None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._addresses = upstreams
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._concurrency = concurrency
        self._queue_size = queue_size
        self._seconds = seconds
        self._tries = tries
        self._largest = largest_event
        self._read_catalogue = read_catalogue
        self._upstreams: dict[str, Upstream] = {}
        self._turns: dict[str, Turns] = {}
        self._offers = Offers(upstreams, on_catalogue)
        self._memory: dict[str, int] = {}
        self._transport = transport
        self._client: httpx.AsyncClient | None = None
        metrics.queue_limit.set(queue_size)

    def start(self) -> None:
        """Ready at once: a front has nothing to load."""
        # A job may wait for a cold start as long as its deadline allows; that is the token's to say.
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=15)
        client = self._client = httpx.AsyncClient(
            timeout=timeout,
            limits=limits,
            trust_env=False,
            follow_redirects=False,
            transport=self._transport,
        )
        for name, url in self._addresses.items():
            self._upstreams[name] = Upstream(
                name, url, client, largest_event=self._largest, on_catalogue=self._offers.learn
            )
            turns = self._turns[name] = Turns(self._concurrency, self._queue_size, self._changed, name)
            self._metrics.upstream_oldest.labels(name).set_function(partial(getattr, turns, "oldest"))
            for cause in _CAUSES:
                self._metrics.upstream_retries.labels(name, cause)
        self._changed()
        self._offers.mount(self._read_catalogue())
        self._lifecycle.loading("Starting.")
        self._lifecycle.ready()

    def _changed(self) -> None:
        for name, turns in self._turns.items():
            self._metrics.upstream_waiting.labels(name).set(turns.waiting)
            self._metrics.upstream_in_flight.labels(name).set(turns.in_flight)
        self._metrics.queue_depth.set(self.waiting)

    # --- what there is -------------------------------------------------------------------------------

    def know(self, name: str, catalogue: Catalogue) -> None:
        """What was known of an upstream before this process began."""
        self._offers.know(name, catalogue)

    @property
    def catalogue(self) -> Catalogue:
        """Of all upstreams together: from the models folder here, or from what they last told."""
        return self._offers.catalogue

    def memory(self) -> dict[str, int]:
        """Of the device that answered last."""
        return dict(self._memory)

    @property
    def running(self) -> bool:
        """True while a job is at an upstream."""
        return any(turns.in_flight for turns in self._turns.values())

    @property
    def waiting(self) -> int:
        """Jobs that wait here."""
        return sum(turns.waiting for turns in self._turns.values())

    def readiness(self) -> Probe:
        """Of this process: whether a device can be had is the platform's affair."""
        return self._lifecycle.readiness()

    def raise_if_refusing(self) -> None:
        """Raise what :meth:`run` would raise at once, whichever upstream is meant."""
        self._lifecycle.raise_unless_accepting()
        for turns in self._turns.values():
            try:
                turns.raise_if_full()
                return
            except QueueFull as error:
                full = error
        raise full

    # --- jobs ----------------------------------------------------------------------------------------

    async def run(self, job: Job[R], task: Task) -> R:
        """Have an upstream run ``job``, in its turn; again elsewhere where that fails for no fault of the job."""
        self._lifecycle.raise_unless_accepting()
        match job:
            # Talk: no device is woken for it.
            case LoadCheckpoint():
                return cast(R, self.catalogue.find(job.name))
            case Refresh():
                self._offers.mount(await asyncio.to_thread(self._read_catalogue))
                for upstream in self._upstreams.values():
                    upstream.refresh_due = True
                return cast(R, None)
            case Unload():
                return cast(R, None)
        name = self._offers.choose(job)
        turn = self._turns[name].enter(task.client, task.token, lambda place: task.publish(Queued(place)))
        async with turn:
            task.timings.add("queue", time.monotonic() - task.arrived)
            try:
                return cast(R, await self._persist(self._upstreams[name], _addressed(job, name), task))
            except asyncio.CancelledError:
                task.token.cancel("disconnect")
                raise

    async def _persist(self, upstream: Upstream, job: Job[Any], task: Task) -> Any:
        """Attempt after attempt, within the deadline and the tries."""
        delay = FIRST_DELAY
        for number in range(1, self._tries + 1):
            news = News()
            try:
                left = task.arrived + self._seconds - time.monotonic()
                result = await upstream.attempt(job, task, max(0.1, left), news)
            except Unreachable:
                return _half_done(job, task)
            except UnusableUpstream as error:
                raise UpstreamError(str(error)) from None
            except Passing as failure:
                self._note(failure, upstream, task, number)
                if number == self._tries:
                    raise UpstreamError(
                        f"{str(failure).rstrip('.')}. The job was sent {number} times; try again later.",
                        retry_after=5,
                    ) from None
                pause = max(delay, min(failure.retry_after, LONGEST_DELAY)) * random.uniform(0.5, 1.0)
                await _unless_cancelled(task, pause)
                delay = min(delay * 2, LONGEST_DELAY)
                continue
            return self._received(job, result, task, news)
        raise AssertionError("a last try returns or raises")

    def _note(self, failure: Passing, upstream: Upstream, task: Task, number: int) -> None:
        self._metrics.upstream_retries.labels(upstream.name, _bounded(failure.cause)).inc()
        log.warning(
            "job failed upstream",
            task=task.id,
            upstream=upstream.name,
            attempt=number,
            cause=failure.cause,
            reason=str(failure),
        )

    def _received(self, job: Job[Any], result: Any, task: Task, news: News) -> Any:
        for stage, seconds in news.seconds.items():
            if stage != "queue":
                task.timings.add(cast(Any, stage), seconds)
        task.cold_start, task.served_by = news.cold_start, news.served_by
        if news.memory:
            self._memory = news.memory
        if isinstance(job, Generate | Series):
            return tuple(_with_pictures(made, _sent(job, index)) for index, made in enumerate(result))
        return result

    async def wait_idle(self) -> None:
        """Return when nothing is at an upstream and nothing waits."""
        for turns in self._turns.values():
            await turns.wait_idle()

    async def close(self) -> None:
        """Let go of the connections."""
        if self._client is not None:
            await self._client.aclose()


def _addressed(job: Job[Any], upstream: str) -> Job[Any]:
    """``job`` for an upstream that is called by its name in the settings: it means what it has by default."""

    def own(request: GenerationRequest) -> GenerationRequest:
        return replace(request, checkpoint=None) if request.checkpoint == upstream else request

    return with_requests(job, own)


def _sent(job: Generate | Series, index: int) -> GenerationRequest | None:
    if isinstance(job, Generate):
        return job.request
    return job.requests[index] if index < len(job.requests) else None


def _with_pictures(made: GenerationResult, sent: GenerationRequest | None) -> GenerationResult:
    """Upstreams leave the pictures of a request out of its result: they are here already."""
    init = made.request.init
    if init is None or sent is None or sent.init is None:
        return made
    init = replace(init, images=sent.init.images, mask=sent.init.mask)
    return replace(made, request=replace(made.request, init=init))


def _half_done(job: Job[Any], task: Task) -> tuple[GenerationResult, ...] | Upscaled:
    """What an interrupted job shows where its pod could not be told: the last preview, at the size of the picture."""
    preview = task.progress.preview if task.progress is not None else None
    if not isinstance(job, Generate | Series) or preview is None:
        raise Cancelled("The request was interrupted.", cause="interrupt")
    request = job.request if isinstance(job, Generate) else (job.requests or (job.tiles.request,))[0]  # type: ignore[union-attr]
    size = (request.hires.width, request.hires.height) if request.hires else (request.width, request.height)
    picture = np.asarray(Image.fromarray(preview).resize(size, Image.Resampling.LANCZOS))
    checkpoint = request.checkpoint or ""
    return (
        GenerationResult(
            (picture,),
            request,
            (request.seed_of(0),),
            (request.subseed_of(0),),
            checkpoint.rsplit(" [", 1)[0],
            "",
            checkpoint,
            sampler=request.sampler,
            scheduler=request.scheduler,
            interrupted=True,
            comments=("Interrupted: the pod could not be reached, so this picture is its last preview.",),
        ),
    )


async def _unless_cancelled(task: Task, seconds: float) -> None:
    """Wait; raise as soon as the task is cancelled."""
    loop = asyncio.get_running_loop()
    cancelled = asyncio.Event()
    task.token.on_cancel(lambda: loop.call_soon_threadsafe(cancelled.set))
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await cancelled.wait()
    task.token.raise_if_cancelled()


_CAUSES: Final = (
    "connect", "broken", "garbage", "stalled", "not_ready", "draining", "queue_full", "device_lost", "model_load",
    "upstream", "cancelled", "429", "500", "502", "503", "504",
)  # fmt: skip


def _bounded(cause: str) -> str:
    return cause if cause in _CAUSES else "other"
