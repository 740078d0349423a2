"""One command that shows what the service does on this GPU, against the bare diffusers pipeline in the same run.

Needs the service's own packages, Python 3.11 or newer and PyTorch 2.10 or newer; nothing is fetched. Parts that have
not begun when --minutes are over are left out, and said to be. What fails is told in its place; the rest goes on. The
last line is one JSON object.

    python -m bench.gpu [--only pictures,graphs] [--dtype float16] [--rounds 5] [--minutes 8.5] [--output FILE]
    python -m bench.gpu --device cpu --tiny      # the same code with the shipped model, to see that it runs
"""

import argparse
import gc
import json
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.gpu.parts import PARTS, chosen
from bench.gpu.subject import Subject


def about(device: torch.device) -> dict[str, Any]:
    """The card and the versions that the figures belong to."""
    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("diffusers", "transformers", "xformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {
            "card": card.name,
            "card_gib": round(card.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
        }
        found["capability"] = f"{card.major}.{card.minor}"
    return found


def main() -> int:
    """Measure and print; 1 if a part failed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help=f"parts, separated by commas: {', '.join(PARTS)}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"))
    parser.add_argument("--tiny", action="store_true", help="the shipped model and small pictures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=8.5, help="no part begins later than this")
    parser.add_argument("--output", type=Path, help="also write the JSON here, after each part")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device here: run this on one, or see --device cpu --tiny.", file=sys.stderr)
        return 2
    device = torch.device(given.device)
    dtype = getattr(torch, given.dtype or ("float16" if device.type == "cuda" else "float32"))
    subject = Subject(device, dtype, given.tiny, given.rounds)
    try:
        parts = list(chosen(given.only))
    except ValueError as error:
        parser.error(str(error))
    results: dict[str, Any] = {"about": {**about(device), "dtype": str(dtype), "tiny": given.tiny}}
    console, began, failed = Console(stderr=True), time.monotonic(), False
    for name, work in parts:
        if time.monotonic() - began > given.minutes * 60:
            results[name] = {"left_out": f"{given.minutes} minutes were over"}
            continue
        at = time.monotonic()
        with console.status(f"{name} …"):
            try:
                figures = work(subject)
            except Exception as error:
                console.print_exception(max_frames=4)
                figures, failed = {"failed": f"{type(error).__name__}: {error}"}, True
        results[name] = {key: _rounded(value) for key, value in figures.items()}
        console.print(f"{name}: {time.monotonic() - at:.0f} s")
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if given.output is not None:
            given.output.write_text(json.dumps(results) + "\n")
    table = Table("part", "figure", "value")
    for name, figures in results.items():
        for figure, value in figures.items():
            table.add_row(name, figure, str(value))
    console.print(table)
    print(json.dumps(results))
    return 1 if failed else 0


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
