"""The slice that killed another server: SD 1.5's size in half precision, all of the process within 5.5 GiB.

The service runs in a memory control group of that size, which stands for the GPU's slice: the kernel ends whoever takes
more. It is asked for 512×512 with hires fix to 768×768, for 1024×1024 in a batch of 4 and of 8, and for the first
picture again: each must be a picture or a 507 that says what to change, the last one the first one's bytes. The
checkpoint is that of ``bench.cold_start``, with random weights. The last line is one JSON object.

    python -m bench.small_slice [--gib 5.5] [--dtype bfloat16] [--measures none]
"""

import argparse
import json
import time
from typing import Any

import httpx

from bench.cold_start import large_checkpoint
from bench.memory_limit import control_group, entering, kills, plan
from bench.process import running
from service.plan.planner import gib
from service.plan.platform import GIB

SMALL = {"prompt": "a red boat", "steps": 1, "sampler_name": "Euler", "seed": 1, "width": 512, "height": 512}
HIRES = {
    "enable_hr": True,
    "hr_resize_x": 768,
    "hr_resize_y": 768,
    "hr_upscaler": "Latent",
    "denoising_strength": 1,
}
LARGE = SMALL | {"width": 1024, "height": 1024}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=5.5)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--measures", default="none")
    parser.add_argument("--batches", type=int, nargs="*", default=[4, 8])
    chosen = parser.parse_args()
    results: dict[str, Any] = {"gib": chosen.gib, "dtype": chosen.dtype, "measures": chosen.measures}
    options: dict[str, Any] = {
        "model": str(large_checkpoint()), "dtype": chosen.dtype, "measures": chosen.measures, "request_timeout": 3600,
        "max_pixels": 1024 * 1024 * 8, "warmup_size": 64,
    }  # fmt: skip
    pictures: list[str] = []

    def ask(name: str, body: dict[str, Any]) -> None:
        began = time.monotonic()
        answer = client.post("/sdapi/v1/txt2img", json=body)
        told = plan(service, client)
        row: dict[str, Any] = {"status": answer.status_code, "seconds": round(time.monotonic() - began, 1)}
        if answer.status_code == 200:
            row |= {"planned_gib": gib(told["peak"]), "measured_gib": gib(told["measured_peak"])}
            pictures.append(answer.json()["images"][0])
        else:
            row["detail"] = answer.json()["detail"]
        results[name] = row
        print(name, json.dumps(row), flush=True)

    with (
        control_group(int(chosen.gib * GIB)) as folder,
        running(prefix=entering(folder), **options) as service,
        httpx.Client(base_url=service.url, timeout=3600, trust_env=False) as client,
    ):
        ask("512, hires to 768", SMALL | HIRES)
        for batch in chosen.batches:
            ask(f"1024, batch of {batch}", LARGE | {"batch_size": batch})
        ask("512, hires to 768, again", SMALL | HIRES)
        results["oom_kills"] = kills(folder)
    results["same_again"] = pictures[0] == pictures[-1]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
