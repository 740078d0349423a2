"""txt2img over HTTP against the bare diffusers pipeline: same model, same settings, in turns within one run.

The pipeline runs in a process of its own, as the service does, and saves a PNG as people do. The goal is a ratio of
the medians of at most 1.03. The last line is one JSON object.

    python -m bench.overhead [--rounds 15] [--steps 20] [--side 512]
"""

import argparse
import json
import statistics
import subprocess  # starts the pipeline's process
import sys
import time

import httpx

from bench.process import running
from service.settings import DEMO_MODEL

_PIPELINE = """
import io, sys, time, warnings
warnings.filterwarnings("ignore")
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
pipe.set_progress_bar_config(disable=True)
steps, side = int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    image = pipe("pretty dog", num_inference_steps=steps, guidance_scale=7.0, width=side, height=side,
                 generator=torch.Generator().manual_seed(7)).images[0]
    image.save(io.BytesIO(), "PNG")
    print(time.perf_counter() - began, flush=True)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", type=int, default=512)
    chosen = parser.parse_args()
    command = [sys.executable, "-c", _PIPELINE, str(DEMO_MODEL), str(chosen.steps), str(chosen.side)]
    pipeline = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert pipeline.stdin is not None
    assert pipeline.stdout is not None
    body = {
        "prompt": "pretty dog", "seed": 7, "steps": chosen.steps, "sampler_name": "Euler", "cfg_scale": 7.0,
        "width": chosen.side, "height": chosen.side,
    }  # fmt: skip
    ours: list[float] = []
    theirs: list[float] = []
    try:
        with running() as service, httpx.Client(base_url=service.url, timeout=300) as client:
            assert pipeline.stdout.readline().strip() == "ready"

            def ask_service() -> None:
                began = time.perf_counter()
                client.post("/sdapi/v1/txt2img", json=body).raise_for_status()
                ours.append(time.perf_counter() - began)

            def ask_pipeline() -> None:
                assert pipeline.stdin is not None
                assert pipeline.stdout is not None
                pipeline.stdin.write("\n")
                pipeline.stdin.flush()
                theirs.append(float(pipeline.stdout.readline()))

            for number in range(chosen.rounds + 1):
                for ask in (ask_service, ask_pipeline) if number % 2 else (ask_pipeline, ask_service):
                    ask()
    finally:
        pipeline.stdin.close()
        pipeline.wait(30)
        pipeline.stdout.close()
    pairs = [mine / other for mine, other in zip(ours[1:], theirs[1:], strict=True)]
    print(
        json.dumps(
            {
                "http_over_pipeline_ratio": round(
                    statistics.median(ours[1:]) / statistics.median(theirs[1:]), 4
                ),
                "http_over_pipeline_ratio_median_of_pairs": round(statistics.median(pairs), 4),
                "pairs": chosen.rounds,
                "service_seconds_median": round(statistics.median(ours[1:]), 3),
                "pipeline_seconds_median": round(statistics.median(theirs[1:]), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
