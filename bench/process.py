"""A service process for benches: started, ready, its memory read, stopped."""

import os
import subprocess  # starts the service
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from dashboards.stand import free_port

READY_WITHIN = 300.0


@dataclass(frozen=True, slots=True)
class Running:
    """A ready service."""

    url: str
    pid: int

    def resident_bytes(self) -> int:
        """What of it is in memory now (RSS)."""
        return _status(self.pid, "VmRSS")

    def peak_bytes(self) -> int:
        """The most that ever was."""
        return _status(self.pid, "VmHWM")


def _status(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {field} in /proc/{pid}/status")


@contextmanager
def running(
    environ: Mapping[str, str] | None = None,
    /,
    command: tuple[str, ...] = ("service", "serve"),
    prefix: tuple[str, ...] = (),
    **settings: str | float,
) -> Iterator[Running]:
    """``python -m service serve`` on a free port, ready for requests; ``environ`` goes beside ``settings``.

    ``command`` names another module and its arguments, which takes ``--port`` too.
    """
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SD_")}
    environment |= environ or {}
    environment |= {f"SD_{name.upper()}": str(value) for name, value in settings.items()}
    # One client for all polls: making one costs processor time that the service could use.
    with tempfile.TemporaryFile() as log, httpx.Client(trust_env=False, timeout=5) as client:
        arguments = [*prefix, sys.executable, "-m", *command, "--port", str(port)]
        process = subprocess.Popen(arguments, env=environment, stderr=log)
        try:
            limit = time.monotonic() + READY_WITHIN
            while True:
                if process.poll() is not None or time.monotonic() > limit:
                    log.seek(0)
                    raise RuntimeError(f"The service did not get ready: {log.read()[-2000:].decode()}")
                try:
                    if client.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.05)
            yield Running(f"http://127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
