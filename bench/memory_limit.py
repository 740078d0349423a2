"""Requests around the limit of a memory control group: each a picture or a 507, and the kernel never has to kill.

The service runs in a group of its own (this needs root, or a group that may be written to). Then the refused requests
that were nearest to the limit are made by a service in a larger one, to see whether the refusal was right. What that
process holds beside the image is not what the first one held when it refused (libraries keep their kernels, and the
first had made hundreds of sizes): the difference is taken into account. The last line is one JSON object.

    python -m bench.memory_limit [--requests 500] [--mib 1024] [--measures none]
"""

import argparse
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.process import Running, running

MIB = 1024**2
NEAR = 1.25
"""Refused requests planned at up to so many times the limit are made in a larger group: farther ones are right."""


@contextmanager
def control_group(limit: int) -> Iterator[Path]:
    """A memory control group with that many bytes; its folder. Raises OSError where none can be made."""
    old = Path("/sys/fs/cgroup/memory")
    root, name = (old, "memory.limit_in_bytes") if old.is_dir() else (Path("/sys/fs/cgroup"), "memory.max")
    folder = root / f"knative-diffusion-bench-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / name).write_text(str(limit))
        yield folder
    finally:
        folder.rmdir()


def kills(folder: Path) -> int:
    """How often the kernel killed in that group."""
    for name in ("memory.oom_control", "memory.events"):
        file = folder / name
        if file.exists():
            rows = dict(row.split(maxsplit=1) for row in file.read_text().splitlines())
            return int(rows.get("oom_kill", 0))
    return 0


def entering(folder: Path) -> tuple[str, ...]:
    """The prefix of a command that runs in the group."""
    return ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(folder))


def draw(numbers: random.Random) -> dict[str, Any]:
    """A request: from tiny to far too large, some in batches, some with a second pass."""
    area = 2 ** numbers.uniform(17, 22.3)  # pixels
    batch = numbers.choice((1, 1, 1, 2, 3))
    aspect = numbers.uniform(0.6, 1.6)
    width = min(2048, max(64, int((area * aspect) ** 0.5) // 8 * 8))
    height = min(2048, max(64, int((area / aspect) ** 0.5) // 8 * 8))
    body = {
        "prompt": "a red boat", "steps": 1, "sampler_name": "Euler", "width": width, "height": height,
        "batch_size": batch, "seed": 1,
    }  # fmt: skip
    if numbers.random() < 0.2:
        body |= {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.5}
        body |= {"width": max(64, width // 12 * 8), "height": max(64, height // 12 * 8)}
    return body


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that was refused, the bytes it was said to need, and what there was then."""

    body: dict[str, Any]
    planned: float
    limit: int
    base: int

    @property
    def is_near(self) -> bool:
        """False if it is so far beyond the limit that nobody doubts it."""
        return self.planned < NEAR * self.limit

    def was_wrong(self, made: dict[str, Any]) -> bool:
        """True if the image would have fitted: ``made`` is the plan of a service that made it, with what it took."""
        return bool(made["measured_peak"] - made["base"] + self.base < self.limit)


def plan(service: Running, client: httpx.Client) -> dict[str, Any]:
    """The plan that the service tells."""
    found: dict[str, Any] = client.get("/sdapi/v1/memory").json()["plan"]
    return found


def planned(detail: str) -> float:
    """Bytes that a refusal says are needed."""
    return float(detail.split(" needs ")[1].split(" GiB")[0]) * 2**30


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--measures", default="none")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    numbers = random.Random(chosen.seed)
    outcomes: Counter[int] = Counter()
    errors: list[float] = []
    refused: list[Refusal] = []
    options: dict[str, Any] = {
        "measures": chosen.measures,
        "memory_budget_mb": 4000,
        "max_pixels": 2048 * 2048 * 4,
    }
    with control_group(chosen.mib * MIB) as folder:
        with (
            running(prefix=entering(folder), **options) as service,
            httpx.Client(base_url=service.url, timeout=600, trust_env=False) as client,
        ):
            for _ in range(chosen.requests):
                body = draw(numbers)
                try:
                    answer = client.post("/sdapi/v1/txt2img", json=body)
                except httpx.TransportError:
                    print(f"ended with {body}; kills: {kills(folder)}")
                    outcomes[0] += 1
                    break
                outcomes[answer.status_code] += 1
                now = plan(service, client)
                if answer.status_code == 507:
                    refused.append(Refusal(body, planned(answer.json()["detail"]), now["limit"], now["base"]))
                elif answer.status_code == 200:
                    errors.append(now["peak"] / now["measured_peak"] - 1)
        killed = kills(folder)
    near = [refusal for refusal in refused if refusal.is_near]
    wrong = 0
    # A larger group, but not so large that freed memory would be kept, and counted.
    with (
        control_group(int(chosen.mib * MIB * 1.35)) as folder,
        running(prefix=entering(folder), **(options | {"measures": "none"})) as larger,
        httpx.Client(base_url=larger.url, timeout=600, trust_env=False) as client,
    ):
        for refusal in near:
            client.post("/sdapi/v1/txt2img", json=refusal.body).raise_for_status()
            wrong += refusal.was_wrong(plan(larger, client))
    print(
        json.dumps(
            {
                "requests": sum(outcomes.values()),
                "pictures": outcomes[200],
                "refused_507": outcomes[507],
                "other_answers": sum(outcomes.values()) - outcomes[200] - outcomes[507],
                "oom_kills": killed,
                "refused_near_the_limit": len(near),
                "refused_though_it_would_have_fitted": wrong,
                "right_side": round(1 - (wrong + outcomes[0]) / max(1, sum(outcomes.values())), 4),
                "planned_over_measured_worst": round(min(errors, default=0.0), 3),
                "planned_over_measured_mean": round(sum(errors) / max(1, len(errors)), 3),
                "limit_mib": chosen.mib,
            }
        )
    )


if __name__ == "__main__":
    main()
