"""One service behind the front: one attempt to have it run a job, and how that attempt can fail."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx
import msgspec

from service.backends.frames import frames
from service.backends.wire import (
    MEDIA_TYPE,
    VERSION,
    Control,
    Order,
    Told,
    name_of,
    pack,
    read_result,
    unpack,
)
from service.catalogue.catalogue import Catalogue
from service.core.errors import BadRequest, Cancelled, ServiceError, UpstreamError
from service.core.events import Progress, Queued, Started
from service.core.jobs import Job
from service.core.tasks import Task

T = TypeVar("T")

SILENCE: Final = 30.0
"""Seconds without a frame, heartbeats included, after which a stream is taken for dead."""

_CONTROL_TIMEOUT: Final = 2.0
_PASSING: Final = frozenset(
    {"not_ready", "draining", "queue_full", "device_lost", "model_load", "upstream", "cancelled"}
)
"""Codes of errors that another pod, or the same one later, need not have."""

_MESSAGE_PACK: Final = {"Content-Type": "application/msgpack"}


class Passing(Exception):
    """An attempt failed in a way that says nothing of the job: it can be sent again. ``cause`` is for the metrics."""

    def __init__(self, cause: str, detail: str, retry_after: float = 0.0) -> None:
        super().__init__(detail)
        self.cause = cause
        self.retry_after = retry_after


class Unreachable(Exception):
    """The pod did not take the interrupt, so its stream was closed: the job ends with what was seen of it."""


@dataclass(slots=True)
class News:
    """What an attempt learns beside the result."""

    served_by: str = ""
    control: Control | None = None
    address: str = ""
    started: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    cold_start: bool = False
    memory: dict[str, int] = field(default_factory=dict)


class Upstream:
    """A service of this kind at ``url``; ``name`` stands for it in settings, metrics and sentences.

    ``largest_event`` bounds what is taken at once, in bytes. ``on_catalogue`` is told when the upstream has something
    else than before.
    """

    def __init__(
        self,
        name: str,
        url: str,
        client: httpx.AsyncClient,
        *,
        largest_event: int,
        on_catalogue: Callable[[str, Catalogue], None],
    ) -> None:
        self.name = name
        self.url = url.rstrip("/")
        self.digest = ""
        self.refresh_due = False
        self._client = client
        self._largest = largest_event
        self._on_catalogue = on_catalogue

    async def attempt(self, job: Job[Any], task: Task, seconds: float, news: News) -> Any:
        """The result of ``job``, which has ``seconds`` left. Publishes on ``task`` what happens meanwhile.

        Raises :class:`Passing` for what another attempt may cure, :class:`Unreachable` for an interrupt that could
        not be delivered, and else what answers the request.
        """
        content = pack(job)
        order = Order(VERSION, name_of(job), task.id, seconds, content, self.digest, self.refresh_due)
        running = asyncio.ensure_future(self._send(order, job, task, news))
        reins = _Reins(self, task, running, news)
        try:
            return await running
        except asyncio.CancelledError:
            if not reins.cut:
                raise
            if task.token.cause == "interrupt" and news.started:
                raise Unreachable from None
            raise task.token.error() from None
        finally:
            reins.let_go()

    async def control(self, address: str, control: Control) -> bool:
        """Post ``control`` to the pod itself; False where that cannot be reached or does not know the task."""
        with suppress(httpx.HTTPError, httpx.InvalidURL):
            answer = await self._client.post(
                f"{address}/v1/jobs/control",
                content=pack(control),
                headers=_MESSAGE_PACK,
                timeout=_CONTROL_TIMEOUT,
            )
            return answer.status_code == 200
        return False

    async def _send(self, order: Order, job: Job[Any], task: Task, news: News) -> Any:
        try:
            async with self._client.stream(
                "POST",
                f"{self.url}/v1/jobs",
                content=pack(order),
                headers={**_MESSAGE_PACK, "Accept": MEDIA_TYPE, "X-Request-Id": task.id},
            ) as answer:
                kind = answer.headers.get("content-type", "")
                if answer.status_code != 200 or not kind.startswith(MEDIA_TYPE):
                    raise self._refusal(answer, await _start_of(answer))
                self.refresh_due = False
                async for data in _without_silence(frames(answer.aiter_raw(), self._largest)):
                    told = _read(data, Told)
                    if told.event == "result":
                        news.seconds, news.cold_start = dict(told.seconds or {}), told.cold_start
                        news.memory = dict(told.memory or {})
                        return _result(job, told.result)
                    self._hear(told, task, news)
        except httpx.ConnectError as error:
            raise Passing("connect", f"Upstream {self.name} cannot be reached ({error})") from None
        except httpx.HTTPError as error:
            raise Passing(
                "broken", f"Upstream {self.name} broke off ({type(error).__name__} {error})"
            ) from None
        except UpstreamError as error:
            raise Passing("garbage", error.detail) from None
        except TimeoutError:
            raise Passing("stalled", f"Upstream {self.name} said nothing for {SILENCE:g} s") from None
        raise Passing("broken", f"Upstream {self.name} ended its answer before the result")

    def _hear(self, told: Told, task: Task, news: News) -> None:
        """Take in one event that is not the result. Raises the error that it tells."""
        match told.event:
            case "waiting":
                pass
            case "queued":
                task.publish(Queued(told.position))
            case "started":
                news.started, news.served_by = True, told.served_by
                news.address, news.control = told.control, Control(told.token, "")
                if told.catalogue is not None:
                    self.digest = told.digest
                    self._on_catalogue(self.name, told.catalogue)
                task.publish(Started())
            case "progress":
                task.publish(_read(told.progress, Progress))
            case "error":
                raise _error(told)
            case other:
                raise Passing(
                    "garbage", f"Upstream {self.name} told of {other[:40]!r}, which is not known here"
                )

    def _refusal(self, answer: httpx.Response, text: str) -> Exception:
        """What an answer without a stream means."""
        status, code = answer.status_code, answer.headers.get("x-error-code", "")
        detail = text[:300].strip()
        if code in _PASSING or (not code and status in (429, 500, 502, 503, 504)):
            after = answer.headers.get("retry-after", "")
            return Passing(
                code or str(status),
                f"{status} from upstream {self.name}: {detail}",
                float(after) if after.isdecimal() else 0.0,
            )
        if status != 401 and code and (kind := _kind(code)) is not None:
            return kind(detail)
        if status == 401:
            return UnusableUpstream(
                f"Upstream {self.name} asks for credentials: put them into its address in SD_UPSTREAM."
            )
        if status == 404 and not code:
            return UnusableUpstream(
                f"Upstream {self.name} has no /v1/jobs: it is no service of this kind, or of an older release."
            )
        return UnusableUpstream(f"Upstream {self.name} refused the job with {status}: {detail}")


class UnusableUpstream(Exception):
    """The upstream can take no job of ours; another attempt would not help."""


class _Reins:
    """What is done to a job while it is at an upstream: interrupt and skip reach the pod, anything else cuts it off."""

    def __init__(self, upstream: Upstream, task: Task, running: "asyncio.Future[Any]", news: News) -> None:
        self.cut = False
        self._upstream = upstream
        self._task = task
        self._running = running
        self._news = news
        self._under_way: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        task.token.on_skip(lambda: loop.call_soon_threadsafe(self._act, "skip"))
        task.token.on_cancel(lambda: loop.call_soon_threadsafe(self._cancelled))

    def _cancelled(self) -> None:
        if self._task.token.cause == "interrupt" and self._news.address:
            self._act("interrupt")
        else:
            self._cut_off()

    def _act(self, action: str) -> None:
        if self._running.done() or not self._news.address:
            return
        acting = asyncio.get_running_loop().create_task(self._post(action))
        self._under_way.add(acting)
        acting.add_done_callback(self._under_way.discard)

    async def _post(self, action: str) -> None:
        assert self._news.control is not None
        control = Control(self._news.control.token, action)
        if not await self._upstream.control(self._news.address, control) and action == "interrupt":
            self._cut_off()

    def _cut_off(self) -> None:
        if not self._running.done():
            self.cut = True
            self._running.cancel()

    def let_go(self) -> None:
        """The attempt is over."""
        self._running.cancel()


def _read(data: bytes, kind: type[T]) -> T:
    try:
        return unpack(data, kind)
    except BadRequest as error:
        raise Passing("garbage", error.detail) from None


def _result(job: Job[Any], raw: bytes) -> Any:
    try:
        return read_result(job, raw)
    except BadRequest as error:
        raise Passing("garbage", error.detail) from None


def _error(told: Told) -> Exception:
    """The error of an ``error`` event: another attempt's chance, or an exception of the tree."""
    if told.code in _PASSING and told.cause != "interrupt":
        return Passing(told.code, told.detail, told.retry_after or 0.0)
    if told.code == Cancelled.code:
        return Cancelled(told.detail, cause="interrupt")
    if (kind := _kind(told.code)) is not None:
        return kind(told.detail, retry_after=told.retry_after)
    return UpstreamError(told.detail or f"The service behind this one failed ({told.code[:40]}).")


def _kind(code: str) -> type[ServiceError] | None:
    return next((kind for kind in _every(ServiceError) if kind.code == code), None)


def _every(kind: type[ServiceError]) -> list[type[ServiceError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in _every(child))]


async def _start_of(answer: httpx.Response) -> str:
    """The sentence of an error's answer, or the first of its text: nobody knows how much there is."""
    text = b""
    async for chunk in answer.aiter_bytes():
        text += chunk
        if len(text) > 10_000:
            break
    try:
        return str(msgspec.json.decode(text, type=dict[str, Any]).get("detail", ""))
    except msgspec.MsgspecError:
        return text.decode(errors="replace")


async def _without_silence(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """``chunks``; raises TimeoutError when none comes for :data:`SILENCE` seconds."""
    while True:
        async with asyncio.timeout(SILENCE):
            try:
                chunk = await anext(chunks)
            except StopAsyncIteration:
                return
        yield chunk
