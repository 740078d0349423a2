"""What scraping costs: images with and without a Prometheus that asks every second, and how fast /metrics answers.

Starts the service on the shipped model. Each round makes the same images twice, once alone and once beside a
scraper, in changing order, so that the ratio of the medians holds on a busy machine too. Then /metrics is asked
twenty times a second, while an image is made and while the service is idle. The last line is one JSON object.

    python -m bench.scrape [--rounds 12] [--steps 20] [--side 256]
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from dashboards.stand import service


@contextmanager
def scraped(url: str, interval: float, seconds: list[float]) -> Iterator[None]:
    """Ask for /metrics every ``interval`` seconds meanwhile, on a connection of its own; fills in how long."""
    done = threading.Event()

    def scrape() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not done.is_set():
                began = time.perf_counter()
                client.get("/metrics").raise_for_status()
                seconds.append(time.perf_counter() - began)
                done.wait(max(0.0, interval - seconds[-1]))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def image(client: httpx.Client, steps: int, side: int) -> float:
    """Seconds for one image of ``side`` pixels, always the same."""
    body = {"prompt": "pretty dog", "seed": 7, "steps": steps, "width": side, "height": side}
    began = time.perf_counter()
    client.post("/sdapi/v1/txt2img", json=body).raise_for_status()
    return time.perf_counter() - began


def measure(url: str, rounds: int, steps: int, side: int) -> dict[str, Any]:
    """The numbers, from a service at ``url`` that nobody else asks."""
    alone: list[float] = []
    beside: list[float] = []
    once_a_second: list[float] = []
    busy: list[float] = []
    idle: list[float] = []
    with httpx.Client(base_url=url, timeout=300) as client:
        image(client, steps, side)
        for number in range(rounds):
            for with_scraper in (number % 2 == 0, number % 2 == 1):
                if with_scraper:
                    with scraped(url, 1.0, once_a_second):
                        beside.append(image(client, steps, side))
                else:
                    alone.append(image(client, steps, side))
        with scraped(url, 0.05, busy):
            while len(busy) < 200:
                image(client, steps, side)
        with scraped(url, 0.05, idle):
            while len(idle) < 200:
                time.sleep(0.1)
        size = len(client.get("/metrics").content)
    return {
        "generation_time_ratio_with_1s_scrape": round(
            statistics.median(beside) / statistics.median(alone), 4
        ),
        "pairs": rounds,
        "image_seconds_median_alone": round(statistics.median(alone), 3),
        "metrics_p99_ms_while_generating": round(statistics.quantiles(busy, n=100)[98] * 1000, 2),
        "metrics_p50_ms_while_generating": round(statistics.median(busy) * 1000, 2),
        "metrics_p99_ms_idle": round(statistics.quantiles(idle, n=100)[98] * 1000, 2),
        "metrics_p50_ms_idle": round(statistics.median(idle) * 1000, 2),
        "scrapes": len(busy) + len(idle) + len(once_a_second),
        "exposition_bytes": size,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", type=int, default=256)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as url:
        print(json.dumps(measure(url, chosen.rounds, chosen.steps, chosen.side)))


if __name__ == "__main__":
    main()
