"""A Ray of this test alone and what ``serve run`` starts on it: processes, ports and folders are its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.live import free_port

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # else the first cluster writes a token into the home folder
    "RAY_DEDUP_LOGS": "0",
    "OMP_NUM_THREADS": "1",
    # On a busy machine a proxy may take longer to start than Ray waits before it starts another.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    "PYTHONPATH": str(ROOT),
}


def wait_for(condition: Callable[[], Any], seconds: float = 60.0, what: str = "it") -> Any:
    """The first true value of ``condition``."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)
    return found


@dataclass
class Cluster:
    """A running cluster; ``http_port`` is where Serve's proxy listens."""

    address: str
    process: subprocess.Popen[str]
    folder: Path
    metrics_port: int
    http_port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        """Where the application answers."""
        return f"http://127.0.0.1:{self.http_port}"

    @contextmanager
    def run(self, application: dict[str, Any], replicas: int = 1) -> Iterator["Cluster"]:
        """``serve run`` a config with ``application`` until the block ends; begins with that many GPU replicas."""
        config = {
            "proxy_location": "HeadOnly",
            "http_options": {"host": "127.0.0.1", "port": self.http_port},
            "applications": [{"name": "sd", "route_prefix": "/", **application}],
        }
        file = self.folder / "serve.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        log = (self.folder / "serve.log").open("w")
        serve = Path(sys.executable).with_name("serve")
        command = [str(serve), "run", "--address", self.address, "--app-dir", str(ROOT), str(file)]
        running = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, stdout=log, stderr=log
        )
        try:
            wait_for(lambda: self._ready(running, replicas), 120, f"serve run, which said {self.said()}")
            yield self
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(60)
            log.close()

    def said(self) -> str:
        """The end of what ``serve run`` printed."""
        return (self.folder / "serve.log").read_text(errors="replace")[-2000:]

    def _ready(self, running: subprocess.Popen[Any], replicas: int) -> bool:
        assert running.poll() is None, self.said()
        if len(self.replicas("Gpu")) < replicas:
            return False
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The processes of a deployment's replicas."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if process.cmdline()[0].startswith(f"ray::ServeReplica:sd:{deployment}"):
                    found.append(process)
            except (psutil.Error, IndexError):
                continue
        return found

    def busiest(self) -> psutil.Process:
        """The one GPU replica that computes now, while the others wait."""

        def clear() -> psutil.Process | None:
            before = {process.pid: process.cpu_times().user for process in self.replicas("Gpu")}
            time.sleep(0.3)
            spent = [
                (process.cpu_times().user - before[process.pid], process)
                for process in self.replicas("Gpu")
                if process.pid in before
            ]
            spent.sort(key=lambda each: each[0])
            rest = sum(seconds for seconds, _ in spent[:-1])
            return spent[-1][1] if spent and spent[-1][0] > max(0.05, 3 * rest) else None

        found: psutil.Process = wait_for(clear, 30, "a replica that draws")
        return found

    def metrics(self) -> str:
        """What Ray's agent tells Prometheus."""
        return httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=20).text


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster until the block ends; then none of its processes is left."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets have names below it
    port = free_port()
    log_file = folder.with_suffix(".log")
    log = log_file.open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ray.head", str(folder), str(port)],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert said, log_file.read_text()[-2000:]
        yield Cluster(json.loads(said)["address"], process, folder, port)
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.stdin.close()
        process.wait(60)
        process.stdout.close()
        log.close()
        _, alive = psutil.wait_procs(family, timeout=20)
        shutil.rmtree(folder, ignore_errors=True)
        log_file.unlink()
        assert not alive, f"left over: {alive}"
