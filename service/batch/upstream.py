"""Rows made by a service: a client of its A1111 API that waits while it is away or refuses."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import orjson

from service.batch.errors import BatchError, BatchStopped
from service.batch.makers import Made, RowFailed, made, model_name
from service.batch.rows import Kind

PATIENCE: Final = 600.0
"""Seconds for which a service that is away or refuses is asked again."""

_AGAIN: Final = (429, 502, 503, 504)


class Upstream:
    """See :class:`service.batch.makers.Maker`."""

    def __init__(self, client: httpx.AsyncClient, patience: float = PATIENCE) -> None:
        self._client = client
        self._patience = patience
        self._where = client.base_url.copy_with(userinfo=b"")

    async def make(self, kind: Kind, body: Mapping[str, Any]) -> Made:
        """Refusals (503, 429, a gateway's 502 and 504) and a broken connection are tried again: seeds are fixed, so
        the picture is the same."""
        began = time.monotonic()
        response = await self._post(f"/sdapi/v1/{kind}", orjson.dumps(body))
        waited = time.monotonic() - began
        ours = "X-Error-Code" in response.headers
        if response.status_code in (401, 403) or (response.status_code in (404, 405) and not ours):
            # It is not this row: nothing that is asked here would be answered.
            raise BatchStopped(f"{self._where} doesn't make pictures for us: {_sentence(response)}")
        if response.status_code != 200:
            code = response.headers.get("X-Error-Code") or f"http_{response.status_code}"
            raise RowFailed(_sentence(response), code)
        return await asyncio.to_thread(_read, response, waited)

    async def _post(self, path: str, content: bytes) -> httpx.Response:
        deadline, pause = time.monotonic() + self._patience, 0.5
        headers = {"Content-Type": "application/json"}
        while True:
            wait = pause
            try:
                response = await self._client.post(path, content=content, headers=headers)
            except httpx.TransportError as error:
                why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            else:
                # No session: what one row sets must not reach the next, nor pin all rows to one pod.
                self._client.cookies.clear()
                if response.status_code not in _AGAIN or response.headers.get("X-Error-Code") == "deadline":
                    return response
                why = _sentence(response)
                told = response.headers.get("Retry-After", "")
                wait = max(pause, float(told)) if told.isdigit() else pause
            if time.monotonic() + wait > deadline:
                raise BatchStopped(f"{self._where} can't be reached, or refuses: {why}")
            await asyncio.sleep(wait)
            pause = min(15.0, 2 * pause)

    async def _get(self, path: str) -> Any:
        try:
            response = await self._client.get(path)
            self._client.cookies.clear()
            return response.json() if response.status_code == 200 else {}
        except (httpx.TransportError, ValueError):
            return {}

    async def model(self) -> str:
        """ "" where the service does not tell."""
        title = (await self._get("/sdapi/v1/options")).get("sd_model_checkpoint") or ""
        for one in await self._get("/sdapi/v1/sd-models") or []:
            if one.get("title") == title:
                return model_name(one.get("model_name"), one.get("hash"))
        return ""

    async def memory(self) -> Mapping[str, float]:
        """What ``/sdapi/v1/memory`` says of CUDA."""
        cuda = (await self._get("/sdapi/v1/memory")).get("cuda", {}).get("system") or {}
        return {name: round(cuda[name] / 2**30, 3) for name in ("used", "total") if cuda.get(name)}


def _read(response: httpx.Response, waited: float) -> Made:
    """The pictures of an answer; base64 of many MB is nothing for the event loop."""
    try:
        answer = orjson.loads(response.content)
    except orjson.JSONDecodeError as error:
        raise RowFailed(f"The answer is not JSON: {error}.", "backend") from None
    return made(answer, _seconds(response, waited))


def _sentence(response: httpx.Response) -> str:
    """What the answer says went wrong."""
    try:
        said = orjson.loads(response.content)["detail"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text = " ".join(response.text.split())
        return f"HTTP {response.status_code}" + (f": {text[:200]}" if text else "")
    if isinstance(said, list):  # FastAPI's list of what does not fit the body
        return "; ".join(
            f"{'.'.join(map(str, one.get('loc', [])[1:]))}: {one.get('msg')}" for one in said[:5]
        )
    return str(said)


def _seconds(response: httpx.Response, waited: float) -> dict[str, float]:
    """Stages from ``Server-Timing``; ``total`` is what the client waited, less the service's queue."""
    stages: dict[str, float] = {}
    for entry in response.headers.get("Server-Timing", "").split(","):
        name, _, duration = entry.strip().partition(";dur=")
        try:
            stages[name] = round(float(duration) / 1000, 4)
        except ValueError:
            continue
    return {**stages, "total": round(max(0.0, waited - stages.get("queue", 0.0)), 4)}


@asynccontextmanager
async def upstream(
    url: str, places: int, timeout: float, patience: float = PATIENCE
) -> AsyncIterator[Upstream]:
    """The service at ``url`` (with ``user:password@`` where it asks for it), ``places`` requests at a time, each
    at most ``timeout`` seconds long. Raises :class:`BatchError` for an address that is none."""
    try:
        address = httpx.URL(url if "://" in url else f"http://{url}")
    except httpx.InvalidURL as error:
        raise BatchError(f"--upstream {url!r} is no address: {error}.") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise BatchError(f"--upstream {url!r} is no address: write http://HOST:PORT.")
    limits = httpx.Limits(max_connections=places, max_keepalive_connections=places)
    limit = httpx.Timeout(timeout, pool=None)
    async with httpx.AsyncClient(base_url=address, timeout=limit, limits=limits) as client:
        yield Upstream(client, patience)
