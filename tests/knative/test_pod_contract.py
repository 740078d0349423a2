"""The process behind a pod, driven as the kubelet and queue-proxy drive it: probed, kept alive, drained.

The command and the environment are those of the manifest; only address, port and the size of the warm-up image differ.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "knative" / "base" / "service.yaml"

PROBE_EVERY = 0.05
PROBE_TIMEOUT = 0.1
PROBE_PATIENCE = 10.0
"""queue-proxy's aggressive readiness: an attempt every 50 ms, 100 ms each, and 10 s without a success is a failure."""

IDLE = float(os.environ.get(f"{PREFIX}TEST_IDLE_SECONDS", "6"))
"""How long pooled connections lie idle. queue-proxy keeps them for 90 s; uvicorn's own limit would be 5 s."""

START = 240.0
"""Give up on a start: long, for machines that have other things to do."""

IMAGE: dict[str, Any] = {"prompt": "red apple", "seed": 7, "width": 128, "height": 128, "steps": 2}
LONG: dict[str, Any] = IMAGE | {"steps": 60, "width": 256, "height": 256}


@dataclass
class Pod:
    """A running service."""

    process: subprocess.Popen[bytes]
    port: int
    revision: dict[str, Any]
    log: Path
    answers: list[tuple[float, int | str]] = field(default_factory=list)
    """What readiness probes got: when, and the status or the name of the failure."""

    def ask(
        self, method: str, path: str, body: Any = None, timeout: float = 120.0
    ) -> tuple[int, bytes, dict[str, str]]:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            return ask(connection, method, path, body)
        finally:
            connection.close()

    def probe(self) -> None:
        """As queue-proxy does it: a new connection, closed afterwards."""
        began = time.monotonic()
        headers = {"User-Agent": "kube-probe/", "Connection": "close"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PROBE_TIMEOUT)
        try:
            connection.request(
                "GET", self.revision["containers"][0]["readinessProbe"]["httpGet"]["path"], None, headers
            )
            status: int | str = connection.getresponse().status
        except OSError as error:
            status = type(error).__name__
        except http.client.HTTPException as error:
            status = type(error).__name__
        finally:
            connection.close()
        if time.monotonic() - began > PROBE_TIMEOUT and isinstance(status, int):
            status = "TimeoutError"
        self.answers.append((began, status))

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START
        while not (self.answers and self.answers[-1][1] == 200):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"{self.answers[-1:]}\n{self.log.read_text()}"
            time.sleep(PROBE_EVERY)

    def wait_for(self, series: str) -> None:
        """Until /metrics has this line."""
        deadline = time.monotonic() + 60
        while series not in self.ask("GET", "/metrics")[1].decode().splitlines():
            assert time.monotonic() < deadline, f"{series} did not come"
            time.sleep(0.02)


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None
) -> tuple[int, bytes, dict[str, str]]:
    connection.request(
        method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"}
    )
    answer = connection.getresponse()
    return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}


@contextmanager
def started(log: Path) -> Iterator[Pod]:
    revision = yaml.safe_load(SERVICE.read_text())["spec"]["template"]["spec"]
    (container,) = revision["containers"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment |= {item["name"]: item["value"] for item in container["env"]}
    environment |= {
        "SD_HOST": "127.0.0.1",
        "SD_PORT": str(port),
        "SD_DEVICE": "cpu",
        "SD_CPU_THREADS": "1",
        "SD_WARMUP_SIZE": "128",
        "SD_WARMUP_STEPS": "1",
    }
    command = [sys.executable if word == "python" else word for word in container["command"]]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield Pod(process, port, revision, log)
    finally:
        process.kill()
        process.wait()


@contextmanager
def probed(pod: Pod) -> Iterator[None]:
    """Readiness probes, from now on and whatever else happens."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            pod.probe()
            stop.wait(PROBE_EVERY)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_life_of_a_pod(tmp_path: Path) -> None:
    with started(tmp_path / "log") as pod, probed(pod), ThreadPoolExecutor(4) as clients:
        # Start. Liveness is there long before readiness; the first success of a probe is followed by an image.
        pod.wait_until_ready()
        ready = time.monotonic()
        status, body, _ = pod.ask("POST", "/sdapi/v1/txt2img", IMAGE)
        assert status == 200, body
        assert json.loads(body)["images"]

        # Pooled connections, idle for longer than most servers keep them, then all used at once.
        pool = [http.client.HTTPConnection("127.0.0.1", pod.port, timeout=120) for _ in range(3)]
        for connection in pool:
            assert ask(connection, "GET", "/livez")[0] == 200
        sockets = [connection.sock for connection in pool]
        time.sleep(IDLE)
        again = [clients.submit(ask, connection, "POST", "/sdapi/v1/txt2img", IMAGE) for connection in pool]
        assert [answer.result()[0] for answer in again] == [200, 200, 200]
        assert all(one is other.sock for one, other in zip(sockets, pool, strict=True)), (
            "a connection was replaced"
        )

        # The end was decided: the preStop hook (queue-proxy's, not ours) has returned while an image is being made.
        running = clients.submit(ask, pool[0], "POST", "/sdapi/v1/txt2img", LONG)
        pod.wait_for("sd_in_flight 1.0")
        until_signal = len(pod.answers)
        pod.process.send_signal(signal.SIGTERM)

        # From that moment on: not ready, alive, no new work, and the running request gets its picture.
        pod.wait_for('sd_lifecycle_state{state="draining"} 1.0')
        assert pod.ask("GET", "/readyz")[0] == 503
        assert pod.ask("GET", "/livez")[0] == 200
        status, body, headers = pod.ask("POST", "/sdapi/v1/txt2img", IMAGE)
        assert status == 503, body
        assert int(headers["retry-after"]) > 0
        status, body, _ = running.result()
        assert status == 200, body
        assert json.loads(json.loads(body)["info"])["seed"] == LONG["seed"]
        assert pod.process.wait(timeout=pod.revision["timeoutSeconds"]) == 0, pod.log.read_text()
        for connection in pool:
            connection.close()

    before = [status for when, status in pod.answers if when < ready and status != 200]
    assert set(before) <= {503, "ConnectionRefusedError", "TimeoutError"}, Counter(before)
    while_ready = [(when, status) for when, status in pod.answers[:until_signal] if when >= ready]
    assert {status for _, status in while_ready} <= {200, "TimeoutError"}, Counter(
        status for _, status in while_ready
    )
    successes = [when for when, status in while_ready if status == 200]
    gaps = [later - earlier for earlier, later in pairwise(successes)]
    assert max(gaps) < PROBE_PATIENCE
    missed = sum(status != 200 for _, status in while_ready)
    print(f"{len(successes)} probes answered within 100 ms, {missed} missed; longest gap {max(gaps):.2f} s")


def test_pod_that_must_go_before_it_is_ready(tmp_path: Path) -> None:
    with started(tmp_path / "log") as pod:
        deadline = time.monotonic() + START
        while not pod.answers or pod.answers[-1][1] != 503:
            assert pod.process.poll() is None, pod.log.read_text()
            assert time.monotonic() < deadline, pod.log.read_text()
            pod.probe()
            time.sleep(PROBE_EVERY)
        assert pod.ask("GET", "/livez")[0] == 200
        pod.process.send_signal(signal.SIGTERM)
        assert pod.process.wait(timeout=120) == 0, pod.log.read_text()


LINKS = {"SD_SERVICE_HOST": "10.0.0.1", "SD_SERVICE_PORT": "80", "SD_PORT_80_TCP": "tcp://10.0.0.1:80"}
"""What Kubernetes puts into every pod beside a Service named ``sd`` where enableServiceLinks is left on."""


def test_service_link_in_place_of_the_port_is_told() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    shown = subprocess.run(
        [sys.executable, "-m", "service", "serve"],
        cwd=ROOT,
        env=environment | LINKS | {"SD_PORT": "tcp://10.0.0.1:80"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert shown.returncode == 2
    assert "enableServiceLinks: false" in shown.stderr


def test_other_service_links_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    for name, value in (LINKS | {"SD_PORT": "8000"}).items():
        monkeypatch.setenv(name, value)
    assert Settings.read().port == 8000
