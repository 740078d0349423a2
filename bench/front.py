"""What a front costs: time it adds to a picture, polls while upstreams work, memory over many jobs. One line of JSON.

python -m bench.front [--rounds 20] [--jobs 5000] [--seconds 20]

* added: the same request in turns to a pod with the shipped model and to a front before it;
* polls: 200 clients ask for progress once a second each while four upstreams draw;
* memory: the front's resident memory after a tenth of ``jobs`` pictures of 600×600 noise (1 MB each), and at the end.
"""

import argparse
import asyncio
import json
import statistics
import time
from contextlib import ExitStack

import httpx

from bench.process import Running, running

CLIENTS = 200
UPSTREAMS = 4


def added(rounds: int) -> dict[str, float]:
    """Milliseconds and share that the front adds at the median."""
    body = {"prompt": "a dog", "steps": 20, "width": 512, "height": 512, "seed": 1}
    times: dict[str, list[float]] = {"pod": [], "front": []}
    with (
        running() as pod,
        running(command=("service", "front"), upstream=pod.url) as front,
        httpx.Client(timeout=300, trust_env=False) as client,
    ):
        for number in range(rounds + 1):
            for name, where in (("pod", pod), ("front", front)):
                began = time.perf_counter()
                client.post(f"{where.url}/sdapi/v1/txt2img", json=body).raise_for_status()
                if number:  # the first round warms up
                    times[name].append(time.perf_counter() - began)
    pod_median, front_median = statistics.median(times["pod"]), statistics.median(times["front"])
    pairs = [after - before for before, after in zip(times["pod"], times["front"], strict=True)]
    return {
        "front_added_ms": round(statistics.median(pairs) * 1000, 1),
        "front_over_pod": round(front_median / pod_median, 4),
    }


async def _poll(url: str, seconds: float) -> list[float]:
    times: list[float] = []
    end = time.monotonic() + seconds
    async with httpx.AsyncClient(
        base_url=url, timeout=60, trust_env=False, limits=httpx.Limits(max_connections=None)
    ) as client:

        async def poll(number: int) -> None:
            await asyncio.sleep(number / CLIENTS)
            while time.monotonic() < end:
                began = time.perf_counter()
                (
                    await client.get("/sdapi/v1/progress", params={"skip_current_image": True})
                ).raise_for_status()
                times.append(time.perf_counter() - began)
                await asyncio.sleep(1)

        async def draw(seed: int) -> None:
            body = {"prompt": "x", "steps": 40, "width": 512, "height": 512, "seed": seed}
            while time.monotonic() < end:
                (await client.post("/sdapi/v1/txt2img", json=body)).raise_for_status()

        await asyncio.gather(
            *(poll(number) for number in range(CLIENTS)), *(draw(seed) for seed in range(UPSTREAMS))
        )
    return times


def polls(seconds: float) -> dict[str, float]:
    """Milliseconds of a poll while pictures are made."""
    with ExitStack() as stack:
        pods = [
            stack.enter_context(running(command=("bench.noise_pod", "--step-time", "0.05")))
            for _ in range(UPSTREAMS)
        ]
        upstream = ",".join(f"pod{number}={pod.url}" for number, pod in enumerate(pods))
        front = stack.enter_context(
            running(command=("service", "front"), upstream=upstream, upstream_concurrency=UPSTREAMS)
        )
        times = sorted(asyncio.run(_poll(front.url, seconds)))
    return {
        "polls": len(times),
        "poll_p50_ms": round(times[len(times) // 2] * 1000, 1),
        "poll_p99_ms": round(times[int(len(times) * 0.99)] * 1000, 1),
    }


def memory(jobs: int) -> dict[str, float]:
    """MB of the front after a tenth of ``jobs`` and after all, and how much it grew between."""
    with (
        running(command=("bench.noise_pod",)) as pod,
        running(
            command=("service", "front"), upstream=pod.url, upstream_concurrency=2, queue_size=100
        ) as front,
    ):
        early = asyncio.run(_draw_many(front, jobs // 10))
        late = asyncio.run(_draw_many(front, jobs - jobs // 10))
    return {
        "front_mb_early": round(early / 1e6, 1),
        "front_mb_late": round(late / 1e6, 1),
        "front_memory_growth": round(late / early, 3),
        "jobs": jobs,
    }


async def _draw_many(front: Running, jobs: int) -> int:
    seeds = iter(range(jobs))
    async with httpx.AsyncClient(base_url=front.url, timeout=300, trust_env=False) as client:

        async def draw() -> None:
            for seed in seeds:
                body = {"prompt": "x", "steps": 1, "width": 600, "height": 600, "seed": seed}
                (await client.post("/sdapi/v1/txt2img", json=body)).raise_for_status()

        await asyncio.gather(*(draw() for _ in range(4)))
    return front.resident_bytes()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=20.0)
    chosen = parser.parse_args()
    figures = {**added(chosen.rounds), **polls(chosen.seconds), **memory(chosen.jobs)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
