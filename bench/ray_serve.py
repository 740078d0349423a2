"""Ray Serve against a front before pods, and against the bare service; engines that take a known time.

``load``: 50 requests, 5 at a time, on as many warm replicas: the total over the ideal, on a local Ray and on a front
with a stand-in for Knative's proxies. The goal is at most 1.15.
``overhead``: one replica on Ray and the bare service, in turns: what Ray adds to an image.
``simulated``: 50 requests, 5 at a time, while Serve scales from one replica to four, and the simulator on the same.

The last line is one JSON object.

    python -m bench.ray_serve load|overhead|simulated [--replicas 5] [--seconds 2] [--rounds 30]
"""

import argparse
import json
import re
import statistics
import subprocess  # starts the bare service
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx

from loadtest.simulate.results import run as simulate
from loadtest.simulate.scenario import load_data, parse
from tests.fakes import FakeEngine
from tests.front.conftest import fleet
from tests.live import free_port
from tests.ray.cluster import Cluster, cluster, wait_for

STEPS: Final = 20
REQUESTS: Final = 50
CLIENTS: Final = 5
SIZE: Final = {"width": 512, "height": 512}


def application(seconds: float, scaling: dict[str, Any]) -> dict[str, Any]:
    """What ``serve run`` is given: images of ``seconds``, replicas as ``scaling`` says."""
    return {
        "import_path": "tests.ray.applications:fixed_time",
        "args": {"step_time": seconds / STEPS},
        "runtime_env": {"env_vars": {"SD_UPSTREAM_CONCURRENCY": str(scaling["max_replicas"])}},
        "deployments": [
            {
                "name": "Gpu",
                "autoscaling_config": {"target_ongoing_requests": 1, **scaling},
                "ray_actor_options": {"num_cpus": 0.1, "num_gpus": 0},
            },
            {"name": "Ingress", "ray_actor_options": {"num_cpus": 0.1}},
        ],
    }


def ask(client: httpx.Client) -> tuple[float, str]:
    """Seconds of one image, and who made it."""
    began = time.perf_counter()
    answer = client.post("/sdapi/v1/txt2img", json={"prompt": "x", "steps": STEPS, **SIZE})
    answer.raise_for_status()
    return time.perf_counter() - began, answer.headers["x-served-by"]


def closed_load(url: str, seconds: float) -> tuple[float, list[float], dict[str, int], dict[str, float]]:
    """50 requests by five clients, each one after the other.

    Returns the total, latencies in order, images by replica, and when each replica began its first image.
    """
    first: dict[str, float] = {}
    with httpx.Client(base_url=url, timeout=300) as client, ThreadPoolExecutor(CLIENTS) as pool:
        began = time.perf_counter()

        def work(_: int) -> list[tuple[float, str]]:
            answers = []
            for _ in range(REQUESTS // CLIENTS):
                answers.append(ask(client))
                first.setdefault(answers[-1][1], time.time() - seconds)
            return answers

        answers = [answer for share in pool.map(work, range(CLIENTS)) for answer in share]
        total = time.perf_counter() - began
    by: dict[str, int] = {}
    for _, name in answers:
        by[name] = by.get(name, 0) + 1
    return total, sorted(latency for latency, _ in answers), by, first


def all_at_work(url: str, replicas: int) -> None:
    """Return when that many replicas have made an image."""
    with httpx.Client(base_url=url, timeout=300) as client, ThreadPoolExecutor(2 * replicas) as pool:
        wait_for(
            lambda: len({name for _, name in pool.map(lambda _: ask(client), range(replicas))}) == replicas,
            300,
        )


def load(replicas: int, seconds: float, rounds: int) -> dict[str, Any]:
    """The reference load on both fleets."""
    ideal = REQUESTS * seconds / replicas
    found: dict[str, Any] = {"replicas": replicas, "image_seconds": seconds}

    def note(name: str, url: str) -> None:
        total, latencies, by, _ = closed_load(url, seconds)
        found[f"{name}_total_over_ideal"] = round(total / ideal, 3)
        found[f"{name}_p50_over_image"] = round(latencies[len(latencies) // 2] / seconds, 3)
        found[f"{name}_p90_over_image"] = round(latencies[len(latencies) * 9 // 10] / seconds, 3)
        found[f"{name}_images_by_replica"] = sorted(by.values(), reverse=True)

    with cluster() as ray:
        scaling = {"min_replicas": replicas, "max_replicas": replicas}
        with ray.run(application(seconds, scaling), replicas=replicas) as running:
            all_at_work(running.url, replicas)
            note("ray", running.url)
    with fleet([FakeEngine(step_time=seconds / STEPS) for _ in range(replicas)]) as front:
        note("front", front.front.url)
    return found


def overhead(replicas: int, seconds: float, rounds: int) -> dict[str, Any]:
    """One replica against the bare service, in turns."""
    port = free_port()
    bare = subprocess.Popen([sys.executable, "-m", "tests.front.pod", str(port), str(seconds / STEPS)])
    try:
        with (
            cluster() as ray,
            ray.run(application(seconds, {"min_replicas": 1, "max_replicas": 1})) as running,
            httpx.Client(base_url=running.url, timeout=60) as there,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as here,
        ):
            wait_for(lambda: _answers(here), 60, "the bare service")
            times: dict[str, list[float]] = {"ray": [], "bare": []}
            pair: list[tuple[str, httpx.Client]] = [("ray", there), ("bare", here)]
            for number in range(rounds + 3):
                for name, client in pair if number % 2 else pair[::-1]:
                    times[name].append(ask(client)[0])
    finally:
        bare.terminate()
        bare.wait(30)
    ours, theirs = times["ray"][3:], times["bare"][3:]
    added = [one - other for one, other in zip(ours, theirs, strict=True)]
    return {
        "ray_over_bare_ratio": round(statistics.median(ours) / statistics.median(theirs), 4),
        "added_milliseconds_median": round(1000 * statistics.median(added), 1),
        "image_seconds": seconds,
        "pairs": rounds,
    }


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def simulated(replicas: int, seconds: float, rounds: int) -> dict[str, Any]:
    """The shipped scenario ``measured-ray``, for real."""
    data = load_data(Path("measured-ray"))
    settings = data["ray"]
    scaling = {name: value for name, value in settings.items() if not name.startswith("graceful")}
    with cluster() as ray, ray.run(application(data["service"]["time"], scaling)) as running:
        all_at_work(running.url, 1)
        time.sleep(settings["look_back_period_s"] + 2)
        total, latencies, by, first = closed_load(running.url, data["service"]["time"])
        # How long a replica takes to be at work is this machine's affair: it is measured, and told to the simulator.
        decided = scaled_at(running)
        starts = [began - decided for began in first.values() if began > decided]
        data["pods"] = {**data["pods"], "start": round(statistics.mean(starts), 2)}
    results = [simulate(parse(data), seed=seed) for seed in range(20)]
    told = statistics.median(result.total_seconds for result in results)
    return {
        "total_seconds": round(total, 2),
        "simulated_seconds": round(told, 2),
        "simulated_over_measured": round(told / total, 3),
        "replica_start_seconds": data["pods"]["start"],
        "p50": round(latencies[REQUESTS // 2], 2),
        "simulated_p50": round(statistics.median(result.percentile(50) for result in results), 2),
        "p90": round(latencies[REQUESTS * 9 // 10], 2),
        "simulated_p90": round(statistics.median(result.percentile(90) for result in results), 2),
        "images_by_replica": sorted(by.values(), reverse=True),
        "simulated_images_by_replica": results[0].served_by_pod,
    }


def scaled_at(running: Cluster) -> float:
    """When Serve's controller last added GPU replicas, in seconds of ``time.time()``, by its log."""
    added = re.compile(r"(\d{4}-\d\d-\d\d [\d:]{8},\d{3}) .*Adding \d+ replicas? to Deployment\(name='Gpu'")
    logs = running.folder.glob("session_2*/logs/serve/controller_*.log")
    stamps = [
        found[1] for log in logs for line in log.read_text().splitlines() if (found := added.search(line))
    ]
    return datetime.strptime(max(stamps), "%Y-%m-%d %H:%M:%S,%f").timestamp()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds: dict[str, Callable[[int, float, int], dict[str, Any]]] = {
        "load": load,
        "overhead": overhead,
        "simulated": simulated,
    }
    parser.add_argument("what", choices=kinds)
    parser.add_argument("--replicas", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=30)
    chosen = parser.parse_args()
    print(json.dumps(kinds[chosen.what](chosen.replicas, chosen.seconds, chosen.rounds)))


if __name__ == "__main__":
    main()
