"""What the client itself costs, measured: a load test that can't say so measures itself.

Three measures. *Per request*: the client's round trip with a trivial server on the loopback interface, minus
what a bare blocking socket needs for the same bytes with the same server (medians of alternating exchanges).
*Event loop*: how late a 50 ms timer fires during the run; a late loop stamps answers late by as much. *CPU*:
the share of one core that the process used; near 1 the client, not the service, sets the pace.
"""

import asyncio
import contextlib
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from loadtest.client import Client
from loadtest.exchange import Target
from loadtest.latencies import Latencies
from loadtest.payloads import Payload

ROUNDS: Final = 150
TICK: Final = 0.05
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@dataclass(frozen=True, slots=True)
class Overhead:
    """The client's own share, in seconds; ``cpu`` is a share of one core."""

    per_request: float | None
    """Median cost of one exchange in this client; None: not calibrated."""
    bare: float | None
    """Median round trip of the bare socket that was subtracted."""
    loop_late_p99: float | None
    loop_late_max: float
    cpu: float

    def warnings(self, typical: float, start_delay: float) -> list[str]:
        """Sentences where the client's share is no longer small against a ``typical`` latency (seconds)."""
        found = []
        if self.cpu > 0.8:
            found.append(
                f"This client used {self.cpu:.0%} of a core: it may have set the pace. "
                "Spread the load over several clients."
            )
        if self.loop_late_p99 and typical and self.loop_late_p99 > 0.05 * typical:
            found.append(
                f"The client's event loop ran {self.loop_late_p99 * 1e3:.1f} ms late (P99): "
                "that much of the latencies is its own."
            )
        if typical and start_delay > 0.05 * typical:
            found.append(
                f"Requests left up to {start_delay:.3f} s after their intended start (latencies count from "
                "there, so nothing is hidden): raise --max-in-flight or use another machine."
            )
        return found


class LoopProbe:
    """Watches the event loop it runs in, from :meth:`start` to :meth:`stop`."""

    def __init__(self) -> None:
        self.late = Latencies(exact=0)
        self._task: asyncio.Task[None] | None = None
        self._wall = self._cpu = 0.0

    def start(self) -> None:
        """Begin to watch."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> tuple[float | None, float, float]:
        """(P99 of lateness or None, its maximum, share of one core)."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        wall = max(time.perf_counter() - self._wall, 1e-9)
        return self.late.percentile(99), self.late.high, (time.process_time() - self._cpu) / wall

    async def _watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(TICK)
            self.late.add(max(0.0, time.perf_counter() - before - TICK))


@contextlib.contextmanager
def trivial_server() -> Iterator[int]:
    """A server on 127.0.0.1 that answers every request with ``{}``; yields its port. For calibration."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pending = b""
            while chunk := connection.recv(65536):
                pending += chunk
                head, found, rest = pending.partition(b"\r\n\r\n")
                if found and len(rest) >= _content_length(head):
                    connection.sendall(_ANSWER)
                    pending = b""

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        # shutdown() wakes accept(); close() alone would not.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


async def calibrate(target: Target, body: bytes, rounds: int = ROUNDS) -> tuple[float, float]:
    """(cost of one exchange in this client, round trip of a bare socket), medians in seconds.

    Takes a tenth of a second. Headers, body and code path are those of the run; TLS, name lookup and the
    reading of a large answer are not in it.
    """
    with trivial_server() as port:
        url = f"http://127.0.0.1:{port}/"
        local = replace(
            target, url=url, stream=False, check="none", proxy=None, keep_alive=True, timeout=10.0
        )
        head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in target.headers if name.lower() != "host")
        raw = head.encode() + b"\r\n" + body
        ours: list[float] = []
        bare: list[float] = []
        async with Client(local) as client:
            with socket.create_connection(("127.0.0.1", port)) as plain:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for number in range(rounds):
                    exchange = await client.send(number, Payload(body))
                    before = time.perf_counter()
                    plain.sendall(raw)
                    plain.recv(65536)
                    bare.append(time.perf_counter() - before)
                    if exchange.ok:
                        ours.append(exchange.done - exchange.sent)
        if not ours:
            return 0.0, statistics.median(bare)
        return max(0.0, statistics.median(ours) - statistics.median(bare)), statistics.median(bare)
