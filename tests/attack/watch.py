"""What an attack does to the others: how quickly readiness answers meanwhile, and how much memory the service takes."""

import re
import threading
import time
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Self

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
        name + (f"{{{labels}}}" if labels else ""): float(value) for name, labels, value in _SAMPLE.findall(text)
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
    """Asks /readyz on a connection of its own, and /metrics for the memory, while an attack runs."""

    def __init__(self, address: Address, every: float = 0.02) -> None:
        self._address = address
        self._every = every
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._probe, self._measure)]
        self.latencies: list[float] = []
        self.failures: list[str] = []
        self.most_memory = 0.0
        self.most_budget = 0.0

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    @property
    def worst(self) -> float:
        """The longest that readiness took, in seconds."""
        return max(self.latencies, default=0.0)

    @property
    def p99(self) -> float:
        """What 99 of a hundred took at most, in seconds."""
        ordered = sorted(self.latencies)
        return ordered[int(0.99 * (len(ordered) - 1))] if ordered else 0.0

    def _probe(self) -> None:
        client, asked = Client(self._address), request("GET", "/readyz")
        while not self._stop.wait(self._every):
            began = time.monotonic()
            try:
                client.send(asked)
            except (Dropped, OSError) as error:
                self.failures.append(f"/readyz: {type(error).__name__} after {time.monotonic() - began:.1f} s")
            self.latencies.append(time.monotonic() - began)
        client.close()

    def _measure(self) -> None:
        while not self._stop.is_set():
            with suppress(Dropped, OSError, ValueError):
                found = metrics(self._address)
                self.most_memory = max(self.most_memory, found.get("process_resident_memory_bytes", 0.0))
                held = sum(value for name, value in found.items() if name.startswith("sd_budget_bytes"))
                self.most_budget = max(self.most_budget, held)
            self._stop.wait(0.2)
