"""One world for the tests of dashboards: the real service under a short load, Knative's captures, a Prometheus."""

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import pytest

from dashboards import stand
from dashboards.output import rule_files
from dashboards.query import Prometheus, Window
from service.metrics import Metrics
from tests.dashboards.cluster import Pod, from_config, pods
from tests.dashboards.replay import exposition, replay

SCRAPE = 1
LOAD = 16.0


def need(program: str) -> str:
    """The path of ``program``; without it the test is skipped, in CI it fails."""
    found = shutil.which(program)
    if found is None:
        reason = f"`{program}` is not installed (Debian: apt-get install prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@dataclass(frozen=True)
class World:
    """A Prometheus that has scraped everything for ``window``."""

    api: Prometheus
    window: Window
    service: str
    """Base URL of the service."""
    exposition: str
    """What the service answered on /metrics at the end of the load."""


async def crowd(url: str, front: str) -> None:
    """Clients at the service, and one at the front before it."""
    async with httpx.AsyncClient(base_url=front, timeout=300) as client:
        end = time.monotonic() + LOAD
        await asyncio.gather(stand.load(url, LOAD, side=128), stand.draw(client, end, "green tree", 128, 2))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The service on the shipped model and Knative's captures, scraped through ``prometheus.yml``."""
    need("prometheus")
    folder = tmp_path_factory.mktemp("stand")
    card = Metrics()
    gib = 2**30
    card.watch_device_memory(
        lambda: {"total": 24 * gib, "used": 9 * gib, "allocated": 7 * gib, "reserved": 8 * gib}
    )
    with ExitStack() as stack:
        url = stack.enter_context(stand.service(folder, cpu_threads=1, warmup_size=64, warmup_steps=1))
        ports = [
            stack.enter_context(replay(name, 2 * LOAD)) for name in ("queue-proxy", "activator", "autoscaler")
        ]
        before = stack.enter_context(stand.front(folder, url))
        cluster = pods(int(url.rpartition(":")[2]), int(before.rpartition(":")[2]), *ports)
        # A pod with a card: this machine has none, and its series exist only where there is one.
        labels = cluster[0].labels | {
            "serving.knative.dev/service": "card",
            "serving.knative.dev/revision": "card-1",
        }
        port = stack.enter_context(exposition(card.render))
        cluster.append(Pod("card-1-a", "default", labels, {("diffusion", "user-port"): port}))
        ray = {"app.kubernetes.io/name": "knative-diffusion-ray", "ray.io/cluster": "diffusion-abcde"}
        agent = stack.enter_context(replay("ray", 2 * LOAD))
        cluster.append(Pod("diffusion-abcde-head", "default", ray, {("ray-head", "metrics"): agent}))
        config = {
            "global": {
                "scrape_interval": f"{SCRAPE}s",
                "scrape_timeout": f"{SCRAPE}s",
                "evaluation_interval": "1s",
            },
            "rule_files": [str(path) for path in rule_files()],
            "scrape_configs": from_config(cluster),
        }
        api = Prometheus(stack.enter_context(stand.prometheus(config, folder)))
        stack.callback(api.close)
        time.sleep(3 * SCRAPE)
        start = time.time()
        asyncio.run(crowd(url, before))
        time.sleep(2 * SCRAPE)
        end = time.time()
        text = httpx.get(f"{url}/metrics").text
        yield World(api, Window(start, end, max(1.0, (end - start) / 60), SCRAPE), url, text)
