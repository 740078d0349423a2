"""Services that share cores: pictures per second of one, two and three, and of one beside a busy loop.

Each is ``python -m service serve`` on the CPU, with as many threads as it takes by itself, in two kinds: as it is
(its OpenMP threads wait passively), and as libgomp would do without a word from us (they spin for some milliseconds
before they sleep). All are started first; then the scenes follow each other in turns, so that other work on the machine
meets both kinds. Goals: three together make at least 0.9 times what one alone does, and one alone is no slower than
a spinning one. Processor seconds a picture are printed too: they hold on a busy machine. The last line is one JSON
object.

    python -m bench.threads [--rounds 3] [--pictures 2] [--steps 10] [--side 512]
"""

import argparse
import json
import os
import statistics
import subprocess  # a busy loop
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from bench.process import Running, running

SPINNING: Final = {"GOMP_SPINCOUNT": "300000"}
"""What libgomp does when nothing is set (libgomp/env.c): about 3 ms."""
TOGETHER: Final = (1, 2, 3)
DECIDED: Final = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "MKL_NUM_THREADS")


@dataclass(slots=True)
class Scene:
    """What one constellation made, round by round."""

    pictures_per_second: list[float] = field(default_factory=list)
    cpu_seconds_a_picture: list[float] = field(default_factory=list)


def cpu_seconds(services: Sequence[Running]) -> float:
    """Processor time that the services have used since they began."""
    total = 0
    for service in services:
        with open(f"/proc/{service.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def play(scene: Scene, services: Sequence[Running], body: dict[str, Any], pictures: int) -> None:
    """Each service makes ``pictures`` one after the other, all services at once."""

    def one(service: Running) -> None:
        with httpx.Client(base_url=service.url, trust_env=False, timeout=600) as client:
            for _ in range(pictures):
                client.post("/sdapi/v1/txt2img", json=body).raise_for_status()

    before, began = cpu_seconds(services), time.perf_counter()
    with ThreadPoolExecutor(len(services)) as clients:
        list(clients.map(one, services))
    made = pictures * len(services)
    scene.pictures_per_second.append(made / (time.perf_counter() - began))
    scene.cpu_seconds_a_picture.append((cpu_seconds(services) - before) / made)


@contextmanager
def busy_loop() -> Iterator[None]:
    """A process that wants a core for itself."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=2, help="of each service in each round")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--side", type=int, default=512, help="of the pictures in pixels")
    chosen = parser.parse_args()
    for name in DECIDED:  # each service is to decide by itself
        os.environ.pop(name, None)
    body = {
        "prompt": "red apple",
        "seed": 1,
        "steps": chosen.steps,
        "width": chosen.side,
        "height": chosen.side,
    }
    kinds: dict[str, dict[str, str]] = {"passive": {}, "spinning": SPINNING}
    scenes = {(kind, name): Scene() for kind in kinds for name in (*map(str, TOGETHER), "busy")}
    with ExitStack() as stack:
        services = {
            kind: [
                stack.enter_context(running(environ, device="cpu", warmup_steps=1))
                for _ in range(max(TOGETHER))
            ]
            for kind, environ in kinds.items()
        }
        for _ in range(chosen.rounds):
            for name in (*map(str, TOGETHER), "busy"):
                for kind in kinds:
                    scene = scenes[kind, name]
                    if name == "busy":
                        with busy_loop():
                            play(scene, services[kind][:1], body, chosen.pictures)
                    else:
                        play(scene, services[kind][: int(name)], body, chosen.pictures)
                    print(kind, name, round(scene.pictures_per_second[-1], 3), file=sys.stderr, flush=True)

    def rate(kind: str, name: str) -> float:
        return statistics.median(scenes[kind, name].pictures_per_second)

    results: dict[str, Any] = {"bench": "threads", "rounds": chosen.rounds}
    for kind in kinds:
        alone = rate(kind, "1")
        for name in ("2", "3", "busy"):
            results[f"{kind}_{name}_over_one_alone"] = round(rate(kind, name) / alone, 3)
        for name in ("1", "2", "3", "busy"):
            cpu = statistics.median(scenes[kind, name].cpu_seconds_a_picture)
            results[f"{kind}_{name}_cpu_seconds_a_picture"] = round(cpu, 2)
    results["alone_passive_over_spinning"] = round(rate("passive", "1") / rate("spinning", "1"), 3)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
