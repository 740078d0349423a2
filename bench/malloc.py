"""Freed memory kept for the next layer, against glibc's own rule: seconds a picture, as part of the other.

Two services on this CPU, one as it is and one that leaves malloc alone (an operator's MALLOC_ variable does that), make
the same pictures in turns: with the shipped model, and with a checkpoint of the size of Stable Diffusion 1.5 (random
weights, made once in bench/cache; about 10 GB of main memory). Ratios of the medians. The last line is one JSON object.

    python -m bench.malloc [--rounds 5] [--side 512] [--only shipped|large]
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any, Final

import httpx

from bench.cold_start import large_checkpoint
from bench.process import running
from service.settings import DEMO_MODEL

ALONE: Final = {"MALLOC_TOP_PAD_": "131072"}
"""glibc's own default, said aloud: an operator's choice, which the service does not touch."""


def compare(model: Path, steps: int, side: int, rounds: int) -> dict[str, float]:
    """Median seconds of both and their ratio."""
    body = {
        "prompt": "pretty dog",
        "steps": steps,
        "width": side,
        "height": side,
        "seed": 1,
        "sampler_name": "Euler",
    }
    taken: dict[str, list[float]] = {"kept": [], "alone": []}
    with (
        running(model=str(model), device="cpu") as kept,
        running(ALONE, model=str(model), device="cpu") as alone,
        httpx.Client(trust_env=False, timeout=600) as client,
    ):
        pictures: set[str] = set()
        for number in range(rounds + 1):
            for name, service in (("kept", kept), ("alone", alone))[:: 1 if number % 2 else -1]:
                began = time.perf_counter()
                answer = client.post(f"{service.url}/sdapi/v1/txt2img", json=body).raise_for_status()
                if number:  # the first one of each makes kernels
                    taken[name].append(time.perf_counter() - began)
                pictures.add(answer.json()["images"][0])
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    return {
        "ratio": round(medians["kept"] / medians["alone"], 3),
        "kept_seconds": round(medians["kept"], 2),
        "alone_seconds": round(medians["alone"], 2),
        "different_pictures": len(pictures) - 1,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--only", choices=("shipped", "large"))
    chosen = parser.parse_args()
    results: dict[str, Any] = {"rounds": chosen.rounds, "side": chosen.side}
    if chosen.only != "large":
        found = compare(DEMO_MODEL, 20, chosen.side, chosen.rounds)
        results |= {f"shipped_{name}": value for name, value in found.items()}
    if chosen.only != "shipped":
        found = compare(large_checkpoint(), 2, chosen.side, chosen.rounds)
        results |= {f"large_{name}": value for name, value in found.items()}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
