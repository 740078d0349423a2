"""What scraping costs: images with and without a Prometheus that asks every second, and how fast /metrics answers.

Starts the service on the shipped model. Each round makes a few images alone and as many beside a scraper, in
changing order, and takes the median of the ratios. Then /metrics is asked twenty times a second, while images are
made and while the service is idle; the latter also gives the CPU time of one scrape, which depends least on what
else the machine does. The last line is one JSON object.

    python -m bench.scrape [--rounds 12] [--images 3] [--steps 20] [--side 256]
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
            while not done.wait(max(0.0, interval - (seconds[-1] if seconds else 0))):
                began = time.perf_counter()
                client.get("/metrics").raise_for_status()
                seconds.append(time.perf_counter() - began)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Service:
    """A service at ``url`` that nobody else asks."""

    def __init__(self, url: str, steps: int, side: int) -> None:
        self.url = url
        self._client = httpx.Client(base_url=url, timeout=300)
        self._body = {"prompt": "pretty dog", "seed": 7, "steps": steps, "width": side, "height": side}

    def image(self) -> None:
        """Make one image, always the same."""
        self._client.post("/sdapi/v1/txt2img", json=self._body).raise_for_status()

    def exposition(self) -> str:
        """What /metrics answers."""
        return self._client.get("/metrics").text

    def cpu(self) -> float:
        """CPU seconds that the service has used."""
        return float(self.exposition().split("\nprocess_cpu_seconds_total ")[1].split("\n")[0])

    def images(self, count: int) -> float:
        """Seconds for ``count`` images."""
        began = time.perf_counter()
        for _ in range(count):
            self.image()
        return time.perf_counter() - began


def measure(service: Service, rounds: int, images: int) -> dict[str, Any]:
    """The numbers."""
    ratios: list[float] = []
    alone = 0.0
    slow: list[float] = []
    busy: list[float] = []
    idle: list[float] = []
    service.image()
    for number in range(rounds):
        if number % 2:
            alone = service.images(images)
        with scraped(service.url, 1.0, slow):
            beside = service.images(images)
        if not number % 2:
            alone = service.images(images)
        ratios.append(beside / alone)
    with scraped(service.url, 0.05, busy):
        while len(busy) < 200:
            service.image()
    resting, since = service.cpu(), time.perf_counter()
    time.sleep(5)
    resting = (service.cpu() - resting) / (time.perf_counter() - since)
    used, since = service.cpu(), time.perf_counter()
    with scraped(service.url, 0.05, idle):
        while len(idle) < 200:
            time.sleep(0.1)
    used = service.cpu() - used - resting * (time.perf_counter() - since)
    return {
        "generation_time_ratio_with_1s_scrape": round(statistics.median(ratios), 4),
        "generation_time_ratio_quartiles": [round(q, 4) for q in statistics.quantiles(ratios, n=4)[::2]],
        "pairs": rounds,
        "seconds_per_image_alone": round(alone / images, 3),
        "cpu_ms_per_scrape": round(used / len(idle) * 1000, 2),
        "share_of_a_core_at_1s_scrape": round(used / len(idle), 5),
        "metrics_p99_ms_while_generating": round(statistics.quantiles(busy, n=100)[98] * 1000, 2),
        "metrics_p50_ms_while_generating": round(statistics.median(busy) * 1000, 2),
        "metrics_p99_ms_idle": round(statistics.quantiles(idle, n=100)[98] * 1000, 2),
        "metrics_p50_ms_idle": round(statistics.median(idle) * 1000, 2),
        "scrapes": len(busy) + len(idle) + len(slow),
        "exposition_bytes": len(service.exposition()),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", type=int, default=256)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as url:
        tried = Service(url, chosen.steps, chosen.side)
        print(json.dumps(measure(tried, chosen.rounds, chosen.images)))


if __name__ == "__main__":
    main()
