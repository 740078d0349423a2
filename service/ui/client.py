"""A visitor's connection to the service: the API as the page needs it, one method a question.

Work goes over the native streaming endpoint and is followed as a stream of :data:`News`; lists, options, interrupt and
skip go over A1111's routes.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import httpx

COLD_AFTER: Final = 1.5
"""Seconds without any answer after which a visitor is told that a GPU is being started."""
PATIENCE: Final = 900.0
"""Seconds for which a request waits for a server that loads its model."""
_CONNECT: Final = 5.0

Kind: TypeAlias = Literal["txt2img", "img2img", "extras"]


class Problem(Exception):
    """The service said no, or did not answer. ``code`` is one of the service's own, or "unreachable"."""

    def __init__(self, status: int, code: str, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing is drawn yet. ``position`` counts those that stand before this one, where ``why`` is "queue"."""

    why: Literal["sent", "cold", "loading", "queue"]
    seconds: float
    position: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """How far it is. ``fraction`` is 0..1 over the whole request, ``eta`` seconds, ``preview`` a data: URI."""

    fraction: float
    step: int = 0
    steps: int = 0
    eta: float | None = None
    preview: str | None = None
    stage: str = ""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The files, as base64, with the infotext of each."""

    images: list[str]
    media_type: str
    infotexts: list[str]
    seeds: list[int]
    served_by: str = ""
    cold_start: bool = False


News: TypeAlias = Waiting | Drawing | Drawn


class Api:
    """One visitor's client. It keeps the visitor's credentials and session cookie, so that options are their own."""

    def __init__(self, url: str, authorization: str | None = None) -> None:
        headers = {"Authorization": authorization} if authorization else {}
        self.url = url
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=httpx.Timeout(PATIENCE, connect=_CONNECT),
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=4),
            # The address is that of our own service, never one for a proxy of the environment.
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # --- questions -------------------------------------------------------------------------------

    async def get(self, path: str, timeout: float = 10.0) -> Any:
        """The JSON at ``path``."""
        return (await self._send("GET", path, timeout=timeout)).json()

    async def post(self, path: str, body: Any, timeout: float = PATIENCE) -> Any:
        """The JSON answered to ``body``."""
        return (await self._send("POST", path, json=body, timeout=timeout)).json()

    async def readiness(self) -> tuple[str, str, str]:
        """State, reason and pod as the readiness probe tells them; state "offline" where nobody answers."""
        try:
            answer = await self._http.get("/readyz", timeout=4.0)
        except httpx.HTTPError:
            return "offline", "", ""
        try:
            said = answer.json()
            return str(said["state"]), str(said["reason"]), answer.headers.get("x-served-by", "")
        except (ValueError, KeyError, TypeError):
            return "offline", f"{answer.status_code}", ""

    async def metrics(self) -> str:
        """The exposition in Prometheus' text format."""
        return (await self._send("GET", "/metrics", timeout=10.0)).text

    async def interrupt(self, task_id: str) -> None:
        """Stop the task; what it has is answered."""
        await self.post("/sdapi/v1/interrupt", {"id_task": task_id}, 10.0)

    async def skip(self, task_id: str) -> None:
        """Go on with the task's next batch."""
        await self.post("/sdapi/v1/skip", {"id_task": task_id}, 10.0)

    async def set_options(self, changes: dict[str, Any]) -> None:
        """Set options of this visitor's session alone."""
        # A client without the cookie would set them for everybody: any answer brings one.
        if not self._http.cookies:
            await self.get("/sdapi/v1/options")
        await self.post("/sdapi/v1/options", changes)

    # --- work ------------------------------------------------------------------------------------

    async def draw(
        self, kind: Kind, body: dict[str, Any], on_task: Callable[[str], None]
    ) -> AsyncIterator[News]:
        """The news of one request, once a second at least; ends after :class:`Drawn`.

        ``on_task`` is told the id of the task as soon as the service has one. A server that is still loading its
        model is waited for. Leaving the iteration cancels the request.
        Raises :class:`Problem`.
        """
        began = time.monotonic()
        while True:
            news: asyncio.Queue[News | None] = asyncio.Queue()
            task = asyncio.ensure_future(self._follow(kind, body, news.put_nowait, on_task))
            task.add_done_callback(partial(_end, news))
            last: News = Waiting("sent", 0.0)
            try:
                while True:
                    try:
                        said = await asyncio.wait_for(news.get(), 1.0)
                    except TimeoutError:
                        yield _again(last, time.monotonic() - began)
                        continue
                    if said is None:
                        break
                    last = said
                    yield said
                task.result()
                return
            except Problem as problem:
                seconds = time.monotonic() - began
                if problem.code not in ("not_ready", "draining") or seconds > PATIENCE:
                    raise
                yield Waiting("loading", seconds, detail=problem.detail)
                await asyncio.sleep(1.0)
            finally:
                if not task.done():
                    task.cancel()
                    with suppress(asyncio.CancelledError, Problem):
                        await task

    async def _follow(
        self,
        kind: Kind,
        body: dict[str, Any],
        tell: Callable[[News], None],
        on_task: Callable[[str], None],
    ) -> None:
        path = "/v1/upscale" if kind == "extras" else "/v1/generate"
        sent = body if kind == "extras" else {**body, "preview_every": _preview_every(body)}
        began = time.monotonic()
        try:
            async with self._http.stream(
                "POST", path, json=sent, headers={"Accept": "text/event-stream"}
            ) as answer:
                if answer.status_code >= 400:
                    await answer.aread()
                    raise _problem(answer)
                async for name, data in _events(answer):
                    if name == "error":
                        raise Problem(
                            data.get("status", 500),
                            data.get("code", "internal"),
                            data.get("detail", ""),
                            data.get("retry_after"),
                        )
                    if task_id := data.get("task_id"):
                        on_task(task_id)
                    if (told := _told(name, data, time.monotonic() - began)) is not None:
                        tell(told)
                    if name == "result":
                        return
            raise Problem(502, "broken_off", "")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = await self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if answer.status_code >= 400:
            raise _problem(answer)
        return answer

    def _unreachable(self, error: httpx.HTTPError) -> Problem:
        return Problem(0, "unreachable", f"{self.url}: {type(error).__name__}")


def _preview_every(body: dict[str, Any]) -> int:
    """About ten previews a picture."""
    return max(1, round(int(body.get("steps", 20)) / 10))


def _end(news: "asyncio.Queue[News | None]", _: object) -> None:
    news.put_nowait(None)


def _again(last: News, seconds: float) -> News:
    """What is told while nothing happens."""
    if not isinstance(last, Waiting):
        return last
    why = "cold" if last.why == "sent" and seconds >= COLD_AFTER else last.why
    return Waiting(why, seconds, last.position, last.detail)


def _told(name: str, data: dict[str, Any], seconds: float) -> News | None:
    match name:
        case "queued":
            position = int(data.get("position", 0))
            # At position 0 it is its turn, and a device is fetched: where that takes long, one is being started.
            return Waiting("queue" if position else "sent", seconds, position)
        case "started":
            return Drawing(0.0)
        case "progress":
            return Drawing(
                data["progress"], data["step"], data["steps"], data["eta"], data["preview"], data["stage"]
            )
        case "result":
            return Drawn(
                data["images"],
                data["media_type"],
                data.get("infotexts", []),
                data.get("seeds", []),
                data["served_by"],
                data.get("cold_start", False),
            )
        case _:
            return None  # events may be added within a version


async def _events(answer: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Server-sent events: the name and the JSON of each. Comments keep the connection and say nothing."""
    name, lines = "", []
    async for line in answer.aiter_lines():
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            lines.append(line[5:].strip())
        elif not line and lines:
            yield name, json.loads("\n".join(lines))
            name, lines = "", []


def _problem(answer: httpx.Response) -> Problem:
    """What a refusal says, whichever of the shapes it has."""
    try:
        said = answer.json()
        detail = said["detail"]
        if isinstance(detail, list):
            detail = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in detail)
        detail = str(detail or said.get("errors", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        detail = f"{answer.status_code} {answer.reason_phrase}"
    code = answer.headers.get("x-error-code", "")
    if not code and answer.status_code in (502, 503, 504):
        code = "not_ready" if answer.status_code == 503 else "gateway"
    if answer.status_code == 401:
        code = "not_authenticated"
    after = answer.headers.get("retry-after", "")
    return Problem(answer.status_code, code, detail, float(after) if after.isdigit() else None)
