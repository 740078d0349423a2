"""A real redis-server on a free port of 127.0.0.1, with nothing in it."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import free_port


class RedisServer:
    """Debian's redis-server. What was written outlives :meth:`stop`, as with a volume."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start and wait until it listens."""
        program = shutil.which("redis-server")
        assert program
        self._process = subprocess.Popen(
            [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--appendonly",
             "yes", "--appendfsync", "always", *self._options, *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                    connection.sendall(b"PING\r\n")
                    if not connection.recv(64).startswith(b"-LOADING"):
                        return
            except OSError:
                pass
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        """Kill it, as a node that fails would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def require_redis() -> None:
    """Skip where there is no redis-server; CI has one."""
    if shutil.which("redis-server") is None:
        assert not os.environ.get("CI"), "CI installs redis-server"
        pytest.skip("redis-server is not installed (Debian: redis-server)")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A running server."""
    require_redis()
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()
