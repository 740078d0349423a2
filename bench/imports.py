"""What importing less is worth: our way of importing diffusers and transformers against the plain one.

Fresh processes, in turns; processor time, which is nearly all of it. ``networks`` compares how a UNet of SD 1.5's size
comes into being without memory for its parameters: by ``without_memory`` and by accelerate's ``init_empty_weights``,
both after torch and the trimmed imports, with what each has to import first. The last line is one JSON object.

    python -m bench.imports [--rounds 5]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess  # each import is a process of its own
import sys
from typing import Final

_TORCH: Final = "from service import threads; threads.prepare(); import torch"
_OURS: Final = "import service.engine.weights.imports"
_BUILD: Final = f"""
{_OURS}
from service.catalogue.layouts import configuration
from service.engine.weights.imports import UNet2DConditionModel
config = configuration("sd1")["unet"]
"""

WAYS: Final = {
    "torch": _TORCH,
    "trimmed": _OURS,
    "plain": f"{_TORCH}\n"
    "from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel\n"
    "from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer",
    "networks_ready": f"{_BUILD}\nfrom service.engine.weights.tensors import without_memory",
    "networks_ours": f"{_BUILD}\nfrom service.engine.weights.tensors import without_memory\n"
    "with without_memory():\n    UNet2DConditionModel.from_config(config)",
    "networks_accelerate": f"{_BUILD}\nfrom accelerate import init_empty_weights\n"
    "with init_empty_weights(include_buffers=False):\n    UNet2DConditionModel.from_config(config)",
}


def cpu_seconds(code: str) -> float:
    """Processor seconds of a fresh process that runs ``code``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(rounds + 1):
        for name, code in WAYS.items():
            seconds = cpu_seconds(code)
            if number:  # the first round warms caches
                taken[name].append(seconds)
    found = {name: statistics.median(seconds) for name, seconds in taken.items()}
    trimmed, plain = found["trimmed"] - found["torch"], found["plain"] - found["torch"]
    ours, accelerate = (found[f"networks_{who}"] - found["networks_ready"] for who in ("ours", "accelerate"))
    figures = {
        "trimmed_over_plain_ratio": trimmed / plain,
        "torch_cpu_seconds": found["torch"],
        "trimmed_cpu_seconds": trimmed,
        "plain_cpu_seconds": plain,
        "without_memory_cpu_seconds": ours,
        "init_empty_weights_cpu_seconds": accelerate,
    }
    print(json.dumps({"rounds": rounds} | {name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
