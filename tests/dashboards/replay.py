"""Serves captured expositions over HTTP, counters climbing to the captured value as they did when it was taken."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

DATA: Final = Path(__file__).parent / "data"
_TYPE: Final = re.compile(r"# TYPE (\S+) (\S+)")
_SAMPLE: Final = re.compile(r"(\S+?)(\{.*\})? (\S+)$")


def climbing(text: str, share: float) -> str:
    """``text`` (an exposition) with every counter and histogram at ``share`` (0..1) of its value."""
    counting: dict[str, bool] = {}
    lines = []
    for line in text.splitlines():
        if kind := _TYPE.match(line):
            counting[kind[1]] = kind[2] in ("counter", "histogram", "summary")
        elif not line.startswith("#") and (sample := _SAMPLE.match(line)):
            name, labels, value = sample.groups()
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            if counting.get(name) or counting.get(family):
                line = f"{name}{labels or ''} {float(value) * share}"
        lines.append(line)
    return "\n".join(lines) + "\n"


@contextmanager
def exposition(read: Callable[[], bytes]) -> Iterator[int]:
    """An HTTP server on 127.0.0.1 that answers every GET with ``read()``; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = read()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def replay(component: str, seconds: float) -> Iterator[int]:
    """The capture of ``component``, its counters climbing for ``seconds``; yields the port."""
    text = (DATA / f"{component}.txt").read_text(encoding="utf-8")
    started = time.monotonic()
    with exposition(
        lambda: climbing(text, min(1.0, 0.2 + 0.8 * (time.monotonic() - started) / seconds)).encode()
    ) as port:
        yield port
