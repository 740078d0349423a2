"""A front before two pods with fake engines, behind a stand-in for Knative's proxies."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fakes import FakeEngine
from tests.front.queue_proxy import QueueProxy
from tests.live import LiveServer, serve_here


@dataclass
class Fleet:
    """A front, the proxy behind it, and the pods behind that."""

    front: LiveServer
    proxy: QueueProxy
    pods: list[LiveServer]
    engines: list[FakeEngine]

    @property
    def served(self) -> list[Any]:
        """What all engines made."""
        return [request for engine in self.engines for request in engine.served]


@contextmanager
def fleet(engines: list[FakeEngine], **settings: Any) -> Iterator[Fleet]:
    """A front before pods with ``engines``."""
    with ExitStack() as stack:
        pods = [
            stack.enter_context(serve_here(engine, pod_name=f"pod-{number}"))
            for number, engine in enumerate(engines)
        ]
        proxy = stack.enter_context(QueueProxy(lambda: [pod.port for pod in pods]))
        values = {
            "upstream": {"default": proxy.url},
            "upstream_concurrency": max(1, len(pods)),
            "pod_name": "front",
            **settings,
        }
        front = stack.enter_context(serve_here(None, **values))
        yield Fleet(front, proxy, pods, engines)


@pytest.fixture
def two_pods() -> Iterator[Fleet]:
    """Two pods that answer at once."""
    with fleet([FakeEngine(), FakeEngine()]) as made:
        yield made


@pytest.fixture
def gated() -> Iterator[tuple[Fleet, threading.Semaphore]]:
    """One pod that does a step for each release of the gate."""
    gate = threading.Semaphore(0)
    with fleet([FakeEngine(gate=gate)]) as made:
        yield made, gate
