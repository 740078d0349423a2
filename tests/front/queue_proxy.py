"""A stand-in for Knative's proxies in tests: one request at a time to each pod, others wait, dead clients leave.

It speaks plain HTTP/1.1 on sockets, so that what passes through is exactly what was sent. What it imitates was seen on
a real cluster: requests wait for a free pod, a client that goes away gives its slot back at once, a pod that dies
mid-answer is a reset, one that cannot be reached is 502 with a text that is not JSON.
"""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

_UNREACHABLE = (
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nContent-Length: 34\r\nConnection: close\r\n\r\n"
    b"dial tcp: connect: connection lost"
)


@dataclass
class Pod:
    """Where one pod listens, and the permit that is its ``containerConcurrency: 1``."""

    port: int
    permit: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))


def _length(head: bytes) -> int:
    lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    return int(lengths[0].split(b":")[1]) if lengths else 0


class QueueProxy:
    """Listens on ``port`` in a thread of its own; ``pods`` says at each request where pods listen now."""

    def __init__(self, pods: Callable[[], list[int]]) -> None:
        self._ports = pods
        self._pods: dict[int, Pod] = {}
        self._freed: asyncio.Condition | None = None
        self.port = 0
        self._next = 0
        self.requests: list[str] = []
        """The first line of every request that arrived."""
        self.most_in_flight = 0
        self.in_flight = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "QueueProxy":
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._freed = asyncio.Condition()
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _length(head)
                body = await reader.readexactly(length)
                self.requests.append(head.split(b"\r\n")[0].decode())
                await self._pass_on(head, body, reader, writer)
                break  # one request a connection: what matters here is who waits for whom
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _free_pod(self) -> Pod:
        assert self._freed is not None
        async with self._freed:
            while True:
                ports = self._ports()
                self._next += 1
                first = self._next % len(ports) if ports else 0
                for port in (*ports[first:], *ports[:first]):
                    pod = self._pods.setdefault(port, Pod(port))
                    if not pod.permit.locked():
                        await pod.permit.acquire()
                        return pod
                try:
                    async with asyncio.timeout(0.05):  # pods come and go
                        await self._freed.wait()
                except TimeoutError:
                    continue

    async def _pass_on(
        self, head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        gone = asyncio.ensure_future(reader.read(1))
        waiting = asyncio.ensure_future(self._free_pod())
        await asyncio.wait({gone, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            return
        pod = waiting.result()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        passing = asyncio.ensure_future(self._exchange(pod, head, body, writer))
        try:
            await asyncio.wait({gone, passing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            passing.cancel()
            gone.cancel()
            self.in_flight -= 1
            pod.permit.release()
            assert self._freed is not None
            async with self._freed:
                self._freed.notify_all()

    async def _exchange(self, pod: Pod, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", pod.port)
        except OSError:
            writer.write(_UNREACHABLE)
            await writer.drain()
            return
        try:
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
            upstream.write(b"\r\n".join([lines[0], b"Connection: close", *lines[1:]]) + body)
            await upstream.drain()
            while chunk := await upstream_reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            upstream.close()
