"""Serve's autoscaler on a real local Ray: replicas come under load, and go again."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.ray.applications import POISON
from tests.ray.cluster import Cluster, wait_for

pytestmark = pytest.mark.slow

ASKED: dict[str, Any] = {"prompt": "x", "width": 64, "height": 64, "steps": 10}


@pytest.fixture(scope="module")
def served(ray_cluster: Cluster) -> Iterator[Cluster]:
    application = {
        "import_path": "tests.ray.applications:fixed_time",
        "args": {"step_time": 0.05, "poisoned": str(ray_cluster.folder / "poisoned")},
        "deployments": [
            {
                "name": "Gpu",
                "autoscaling_config": {
                    "min_replicas": 0,
                    "initial_replicas": 1,
                    "max_replicas": 2,
                    "target_ongoing_requests": 1,
                    "metrics_interval_s": 0.5,
                    "look_back_period_s": 2,
                    "upscale_delay_s": 1,
                    "downscale_delay_s": 3,
                    "downscale_to_zero_delay_s": 6,
                },
                "ray_actor_options": {"num_cpus": 0.5, "num_gpus": 0},
            },
            {"name": "Ingress", "ray_actor_options": {"num_cpus": 0.1}},
        ],
    }
    with ray_cluster.run(application) as running:
        yield running


def test_one_two_one_none_and_back(served: Cluster) -> None:
    with httpx.Client(base_url=served.url, timeout=120) as http, ThreadPoolExecutor(4) as pool:
        enough = threading.Event()
        serving: set[str] = set()
        statuses: set[int] = set()

        def client() -> None:
            while not enough.is_set():
                answer = http.post("/sdapi/v1/txt2img", json=ASKED)
                statuses.add(answer.status_code)
                serving.add(answer.headers["x-served-by"])

        clients = [pool.submit(client) for _ in range(4)]
        try:
            wait_for(lambda: len(serving) == 2, 90, "two replicas at work")
        finally:
            enough.set()
        for one in clients:
            one.result()
        assert statuses == {200}
        assert len(served.replicas("Gpu")) == 2
        wait_for(lambda: len(served.replicas("Gpu")) == 1, 60, "one replica to go")
        wait_for(lambda: not served.replicas("Gpu"), 60, "the last one to go")
        assert http.get("/sdapi/v1/sd-models").json(), "lists are answered without waking a replica"
        assert not served.replicas("Gpu")
        assert http.post("/sdapi/v1/txt2img", json=ASKED).status_code == 200
        assert served.replicas("Gpu")


def test_a_lost_device_costs_its_replica_and_no_picture(served: Cluster) -> None:
    with httpx.Client(base_url=served.url, timeout=120) as http:
        assert http.post("/sdapi/v1/txt2img", json=ASKED).status_code == 200
        before = {process.pid for process in served.replicas("Gpu")}
        answer = http.post("/sdapi/v1/txt2img", json={**ASKED, "seed": POISON})
        assert answer.status_code == 200
        assert (served.folder / "poisoned").exists()
        after = {process.pid for process in served.replicas("Gpu")}
        assert before - after, "the replica whose device was lost is gone"
        assert 'cause="device_lost"' in http.get("/metrics").text
