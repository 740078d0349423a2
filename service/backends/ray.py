"""The backend of an ingress on Ray Serve: a deployment of GPU replicas in place of services behind addresses.

A job, its events and its result are those of :mod:`service.backends.wire`, and how it is sent again, interrupted and
queued is :class:`~service.backends.remote.RemoteBackend`'s: only the way is another, a transport that speaks to a
deployment handle. Serve chooses a replica that is free. An interrupt has to reach the replica that holds the job while
it is busy, when Serve would let no second request in; so it goes to the replica's actor, past Serve.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import httpx
import ray.exceptions
import structlog
from ray.actor import ActorHandle
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from service.backends.remote import RemoteBackend
from service.backends.wire import unpack
from service.catalogue.catalogue import Catalogue

log = structlog.get_logger(__name__)

NAME: Final = "ray"
"""The deployment as an upstream: in metrics and sentences."""

CONTROL_PATH: Final = "/v1/jobs/control"
ASK_AGAIN: Final = 1.0
"""Seconds between attempts to hear from a replica what there is, while none has told."""

_REPLICAS_KNOWN: Final = 256
_CONTROL_TIMEOUT: Final = 1.5

_LOST: Final = (ray.exceptions.RayError, RayServeException)
"""What a call raises when its replica died, was stopped, or could not be had."""

Head = tuple[int, list[tuple[str, str]], ActorHandle[Any]]
"""What a replica says first: status, headers, and itself."""


class RayTransport(httpx.AsyncBaseTransport):
    """Carries requests to replicas of a deployment; see :class:`service.ray.deployments.Gpu` for the other end.

    ``control`` runs in the process of the replica whose address is the host of a request for :data:`CONTROL_PATH`: it
    is given the actor and the body, and returns the status of its answer.
    """

    def __init__(self, handle: DeploymentHandle[Any], control: Callable[[Any, bytes], int]) -> None:
        self._call = handle.options(method_name="serve", stream=True)
        self._control_with = control
        self._replicas: OrderedDict[str, ActorHandle[Any]] = OrderedDict()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; the answer's body arrives as the replica makes it."""
        body = await request.aread()
        if request.url.path == CONTROL_PATH:
            return httpx.Response(await self._control(request.url.host, body))
        stream = self._call.remote(request.url.path, body)
        assert isinstance(stream, DeploymentResponseGenerator)
        try:
            status, headers, actor = await anext(stream)
        except BaseException as error:
            _cancel(stream)
            raise _translated(error) from error
        self._remember(actor, dict(headers).get("x-served-by", ""))
        return httpx.Response(status, headers=headers, stream=_Body(stream))

    def _remember(self, actor: ActorHandle[Any], replica: str) -> None:
        self._replicas[replica] = actor
        self._replicas.move_to_end(replica)
        while len(self._replicas) > _REPLICAS_KNOWN:
            self._replicas.popitem(last=False)

    async def _control(self, host: str, body: bytes) -> int:
        actor = self._replicas.get(host)
        if actor is None:
            return 404
        try:
            async with asyncio.timeout(_CONTROL_TIMEOUT):
                return int(await actor.__ray_call__.remote(self._control_with, body))
        except (TimeoutError, *_LOST) as error:
            raise httpx.ConnectError(str(error)) from error


class _Body(httpx.AsyncByteStream):
    """The rest of an answer. Whoever closes it before its end stops the replica's work."""

    def __init__(self, stream: DeploymentResponseGenerator[Any]) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        except _LOST as error:
            raise _translated(error) from error

    async def aclose(self) -> None:
        _cancel(self._stream)


def _cancel(stream: DeploymentResponseGenerator[Any]) -> None:
    stream.cancel()  # type: ignore[no-untyped-call]  # does nothing to one that has ended


def _translated(error: BaseException) -> BaseException:
    """``error`` as a transport says it: the replica broke off, and the job may be sent again."""
    if isinstance(error, StopAsyncIteration):
        return httpx.ReadError("the replica said nothing")
    if isinstance(error, _LOST):
        return httpx.ReadError(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return error


class RayBackend(RemoteBackend):
    """See :class:`service.backends.port.Backend`. ``handle`` is that of the GPU deployment."""

    def __init__(
        self, handle: DeploymentHandle[Any], control: Callable[[Any, bytes], int], *args: Any, **options: Any
    ) -> None:
        super().__init__({NAME: f"http://{NAME}"}, *args, **options, transport=RayTransport(handle, control))
        self._handle = handle
        self._asking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Ready at once; what there is is heard from replicas that run, none is started for it."""
        super().start()
        self._asking = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        while not self._offers.heard_of(NAME):
            try:
                for told in await self._handle.broadcast("describe").results_async():
                    self.know(NAME, unpack(told, Catalogue))
            except _LOST as error:
                log.info("no replica has told what there is", reason=str(error)[:200])
            await asyncio.sleep(ASK_AGAIN)

    async def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
        await super().close()
