"""Resident memory over 300 generations in a row: flat, or a leak. The last line is one JSON object.

Compares the mean of the last third with that of the middle third: the first one warms caches and allocators.

    python -m bench.memory [--images 300]
"""

import argparse
import json
import statistics

import httpx

from bench.process import running


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=300)
    chosen = parser.parse_args()
    resident: list[int] = []
    samplers = ("Euler", "Euler a", "DPM++ 2M", "DPM++ SDE", "UniPC")
    with running() as service, httpx.Client(base_url=service.url, timeout=300) as client:
        for number in range(chosen.images):
            body = {
                "prompt": f"picture number {number}", "steps": 2, "sampler_name": samplers[number % len(samplers)],
                "width": 256 + 64 * (number % 3), "height": 256,
            }  # fmt: skip
            client.post("/sdapi/v1/txt2img", json=body).raise_for_status()
            resident.append(service.resident_bytes())
        peak = service.peak_bytes()
    third = len(resident) // 3
    middle, last = statistics.mean(resident[third : 2 * third]), statistics.mean(resident[2 * third :])
    print(
        json.dumps(
            {
                "resident_last_third_over_middle_third": round(last / middle, 4),
                "resident_mib_after_first": round(resident[0] / 2**20, 1),
                "resident_mib_at_end": round(resident[-1] / 2**20, 1),
                "peak_mib": round(peak / 2**20, 1),
                "images": len(resident),
            }
        )
    )


if __name__ == "__main__":
    main()
