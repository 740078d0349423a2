"""What an attack does to the others: how quickly readiness answers meanwhile, and how much memory the service takes."""

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from tests.attack.wire import Address, Client, Dropped, request

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? ([-+0-9.eE]+|NaN)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def metrics(address: Address) -> dict[str, float]:
    """Every sample of /metrics, by name with its labels as they stand there."""
    client = Client(address)
    try:
        text = client.send(request("GET", "/metrics")).body.decode()
    finally:
        client.close()
    return {
        name + (f"{{{labels}}}" if labels else ""): float(value)
        for name, labels, value in _SAMPLE.findall(text)
    }


def by_label(samples: dict[str, float], name: str, label: str, **others: str) -> Counter[str]:
    """The values of ``name`` by one of its labels, where the others are as given."""
    found: Counter[str] = Counter()
    for sample, value in samples.items():
        labels = dict(_LABEL.findall(sample))
        if sample.split("{")[0] == name and all(labels.get(key) == other for key, other in others.items()):
            found[labels[label]] += int(value)
    return found


class Watch:
    """Asks /readyz and /metrics while an attack runs, from a process of its own: the attacker's work is not its own."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._process: subprocess.Popen[str] | None = None
        self.latencies: list[float] = []
        self.failures: list[str] = []
        self.most_memory = 0.0
        self.most_budget = 0.0

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.attack.watch", self._address.host, str(self._address.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it has begun
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        seen = json.loads(self._process.communicate("stop\n", timeout=150)[0])
        self.latencies, self.failures = seen["latencies"], seen["failures"]
        self.most_memory, self.most_budget = seen["memory"], seen["budget"]

    @property
    def worst(self) -> float:
        """The longest that readiness took, in seconds."""
        return max(self.latencies, default=0.0)

    @property
    def p99(self) -> float:
        """What 99 of a hundred took at most, in seconds."""
        ordered = sorted(self.latencies)
        return ordered[int(0.99 * (len(ordered) - 1))] if ordered else 0.0


def _watch(address: Address) -> dict[str, Any]:
    """What is seen until a line comes in."""
    seen: dict[str, Any] = {"latencies": [], "failures": [], "memory": 0.0, "budget": 0.0}
    stop = threading.Event()

    def measure() -> None:
        while not stop.is_set():
            with suppress(Dropped, OSError, ValueError):
                found = metrics(address)
                seen["memory"] = max(seen["memory"], found.get("process_resident_memory_bytes", 0.0))
                held = sum(value for name, value in found.items() if name.startswith("sd_budget_bytes"))
                seen["budget"] = max(seen["budget"], held)
            stop.wait(0.1)

    def probe() -> None:
        client, asked = Client(address), request("GET", "/readyz")
        while not stop.wait(0.02):
            began = time.monotonic()
            try:
                client.send(asked)
            except (Dropped, OSError) as error:
                seen["failures"].append(
                    f"/readyz: {type(error).__name__} after {time.monotonic() - began:.1f} s"
                )
            seen["latencies"].append(time.monotonic() - began)
        client.close()

    threads = [threading.Thread(target=work, daemon=True) for work in (probe, measure)]
    for thread in threads:
        thread.start()
    print("begun", flush=True)
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join(60)
    return seen


if __name__ == "__main__":
    print(json.dumps(_watch(Address(sys.argv[1], int(sys.argv[2])))), flush=True)
