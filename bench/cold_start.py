"""Cold start: from exec to the first image over HTTP, against the obvious script on the same checkpoint.

The script imports StableDiffusionPipeline, calls from_pretrained and makes one image; ours is ``python -m service
serve``, its warm-up image, and that same image over HTTP. Both are fresh processes, in turns. The image is a small one:
it is the start that is measured. Ours does not find a remembered hash of the checkpoint: a new container has none.

Two checkpoints: the shipped one, and one of the size of Stable Diffusion 1.5 with random weights (2 GB in half
precision, made once in bench/cache). Each with the files in the page cache, and with the checkpoint's dropped from it
(as root, the whole page cache is emptied). Goals: ratios of the medians of at most 0.5 (shipped) and 0.6 (large), and a
peak of memory while loading of at most 1.15 times what stays. The last line is one JSON object.

With --parts ours alone is started, and a table says where the seconds go: wall and processor time of each part.

    python -m bench.cold_start [--rounds 5] [--only shipped|large] [--warm-only] [--steps 1] [--side 128] [--parts]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess  # starts the script
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console
from rich.table import Table

from bench.process import running
from dashboards.stand import free_port
from service.settings import DEMO_MODEL

CACHE: Final = Path(__file__).parent / "cache"
DROP_CACHES: Final = Path("/proc/sys/vm/drop_caches")

_SCRIPT: Final = """
import sys
from diffusers import StableDiffusionPipeline
if sys.argv[5] == "cuda":
    import torch
    pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.float16).to("cuda")
else:
    pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
steps, side = int(sys.argv[2]), int(sys.argv[3])
pipe("pretty dog", num_inference_steps=steps, guidance_scale=7.0, width=side, height=side).images[0].save(sys.argv[4])
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """A checkpoint and the image that both sides make of it."""

    name: str
    folder: Path
    steps: int
    side: int
    device: str = "cpu"


@dataclass(slots=True)
class Timings:
    """Of one side: wall and processor seconds of each start."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def measure(self, start: Callable[[], float]) -> None:
        """Run ``start`` (returns its wall seconds) and note what it took."""
        before = _children_cpu()
        self.wall.append(start())
        self.cpu.append(_children_cpu() - before)


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def script(subject: Subject) -> float:
    """Seconds from exec to the script's end, the image saved."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [subject.folder, subject.steps, subject.side, Path(folder) / "image.png", subject.device]
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, *map(str, arguments)],
            env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
        )  # fmt: skip
        seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"The script failed: {done.stderr[-2000:]}")
    return seconds


def service(subject: Subject, peaks: list[float]) -> float:
    """Seconds from exec to the first image over HTTP. Adds peak over resident memory, when ready, to ``peaks``."""
    body = {
        "prompt": "pretty dog", "steps": subject.steps, "sampler_name": "Euler", "cfg_scale": 7.0,
        "width": subject.side, "height": subject.side,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as cache, httpx.Client(trust_env=False, timeout=600) as client:
        began = time.perf_counter()
        with running({"XDG_CACHE_HOME": cache}, model=str(subject.folder), device=subject.device) as served:
            peaks.append(served.peak_bytes() / served.resident_bytes())
            client.post(f"{served.url}/sdapi/v1/txt2img", json=body).raise_for_status()
            return time.perf_counter() - began


def empty_page_cache(folder: Path) -> None:
    """Forget what was read of files: as root of all, else of those in ``folder``."""
    os.sync()
    if os.access(DROP_CACHES, os.W_OK):
        DROP_CACHES.write_text("3\n")
        return
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


PARTS: Final = ("start", "imports", "weights", "warm-up", "first image")
_ENDS: Final = ("Importing the libraries.", "Reading the checkpoint.", "Making the warm-up image.", "Ready.")
"""What the log says as the first parts end."""


def parts(subject: Subject, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor seconds of each part of a start, by round: from the log's lines and /proc."""
    body = {"prompt": "pretty dog", "steps": subject.steps, "sampler_name": "Euler", "width": subject.side,
            "height": subject.side}  # fmt: skip
    found: dict[str, list[tuple[float, float]]] = {part: [] for part in PARTS}
    for _ in range(rounds):
        port = free_port()
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SD_")}
        with tempfile.TemporaryDirectory() as cache, httpx.Client(trust_env=False, timeout=600) as client:
            environ |= {"XDG_CACHE_HOME": cache, "SD_MODEL": str(subject.folder), "SD_LOG_FORMAT": "json"}
            began = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", "service", "serve", "--port", str(port)],
                env=environ,
                stderr=subprocess.PIPE,
            )
            marks = [(0.0, 0.0)]
            try:
                assert process.stderr is not None
                ends = list(_ENDS)
                for line in process.stderr:
                    if ends and ends[0].encode() in line:
                        ends.pop(0)
                        marks.append((time.perf_counter() - began, _cpu(process.pid)))
                    if not ends:
                        break
                client.post(f"http://127.0.0.1:{port}/sdapi/v1/txt2img", json=body).raise_for_status()
                marks.append((time.perf_counter() - began, _cpu(process.pid)))
            finally:
                process.terminate()
                process.communicate(timeout=60)
        for part, (before, after) in zip(PARTS, pairwise(marks), strict=True):
            found[part].append((after[0] - before[0], after[1] - before[1]))
    return found


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def show_parts(subject: Subject, rounds: int) -> dict[str, float]:
    """Print a table of the medians; the figures."""
    table = Table(
        "part", "wall s", "processor s", title=f"{subject.name}: exec to first image, medians of {rounds}"
    )
    figures: dict[str, float] = {}
    for part, seconds in parts(subject, rounds).items():
        wall, cpu = (statistics.median(column) for column in zip(*seconds, strict=True))
        table.add_row(part, f"{wall:.2f}", f"{cpu:.2f}")
        name = f"{subject.name}_{part.replace(' ', '_').replace('-', '_')}"
        figures |= {f"{name}_seconds": round(wall, 2), f"{name}_cpu_seconds": round(cpu, 2)}
    Console(stderr=True).print(table)
    return figures


def compare(subject: Subject, rounds: int, *, emptied: bool) -> dict[str, float]:
    """Both sides ``rounds`` times, in turns."""
    ours, theirs, peaks = Timings(), Timings(), list[float]()

    def start_service() -> float:
        return service(subject, peaks)

    def start_script() -> float:
        return script(subject)

    if not emptied:  # both read everything once, unmeasured
        start_service()
        start_script()
        peaks.clear()
    for number in range(rounds):
        sides = [(ours, start_service), (theirs, start_script)]
        for timings, start in sides if number % 2 else reversed(sides):
            if emptied:
                empty_page_cache(subject.folder)
            timings.measure(start)
    prefix = f"{subject.name}_{'emptied' if emptied else 'warm'}"
    return {
        f"{prefix}_ratio": round(statistics.median(ours.wall) / statistics.median(theirs.wall), 3),
        f"{prefix}_cpu_ratio": round(statistics.median(ours.cpu) / statistics.median(theirs.cpu), 3),
        f"{prefix}_service_seconds": round(statistics.median(ours.wall), 2),
        f"{prefix}_script_seconds": round(statistics.median(theirs.wall), 2),
        f"{prefix}_service_cpu_seconds": round(statistics.median(ours.cpu), 2),
        f"{prefix}_script_cpu_seconds": round(statistics.median(theirs.cpu), 2),
        f"{prefix}_peak_over_resident": round(max(peaks), 3),
    }


def large_checkpoint() -> Path:
    """A diffusers folder of Stable Diffusion 1.5's architecture with random weights in half precision."""
    folder = CACHE / "random-sd1"
    if (folder / "model_index.json").is_file():  # written last
        return folder
    import torch
    from safetensors.torch import save_file

    from service.catalogue.layouts import configuration
    from service.engine.weights import loading
    from service.engine.weights.clip_vocabulary import clip_tokenizer

    config = configuration("sd1")
    # The numbers do not matter, but that images come out of them: small weights, neutral norms.
    noise = torch.randn(2**22, generator=torch.Generator().manual_seed(0)).mul_(0.02).half()
    classes = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
    for part, class_name in classes.items():
        module = loading.build(part, class_name, dict(config[part]))
        tensors: dict[str, torch.Tensor] = {}
        for name, tensor in module.state_dict().items():
            if tensor.dim() > 1:
                repeats = -(-tensor.numel() // len(noise))
                tensors[name] = noise.repeat(repeats)[: tensor.numel()].reshape(tensor.shape).clone()
            else:
                tensors[name] = torch.full(tensor.shape, float(name.endswith("weight"))).half()
        (folder / part).mkdir(parents=True, exist_ok=True)
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        save_file(tensors, folder / part / f"{stem}.safetensors", metadata={"format": "pt"})
        # transformers takes the precision of the file where the configuration names none, diffusers float32.
        own: dict[str, Any] = {"dtype": "float32"} if part == "text_encoder" else {}
        _write(folder / part / "config.json", {**config[part], **own, "_class_name": class_name})
    clip_tokenizer().save_pretrained(str(folder / "tokenizer"))
    (folder / "scheduler").mkdir(exist_ok=True)
    scheduler = json.loads((DEMO_MODEL / "scheduler/scheduler_config.json").read_text())
    _write(folder / "scheduler/scheduler_config.json", {**scheduler, "prediction_type": "epsilon"})
    index = json.loads((DEMO_MODEL / "model_index.json").read_text())
    _write(folder / "model_index.json", {**index, "vae": ["diffusers", "AutoencoderKL"]})
    return folder


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("shipped", "large"))
    parser.add_argument("--warm-only", action="store_true", help="leave the page cache alone")
    parser.add_argument("--steps", type=int, default=1, help="of the image, on both sides")
    parser.add_argument("--parts", action="store_true", help="where ours spends its time, alone")
    parser.add_argument("--side", type=int, default=128, help="of the image in pixels, on both sides")
    chosen = parser.parse_args()
    subjects: list[Subject] = []
    if chosen.only != "large":
        subjects.append(Subject("shipped", DEMO_MODEL, chosen.steps, chosen.side))
    if chosen.only != "shipped":
        subjects.append(Subject("large", large_checkpoint(), chosen.steps, chosen.side))
    results: dict[str, Any] = {"rounds": chosen.rounds}
    for subject in subjects:
        if chosen.parts:
            results |= show_parts(subject, chosen.rounds)
            continue
        for emptied in (False,) if chosen.warm_only else (False, True):
            results |= compare(subject, chosen.rounds, emptied=emptied)
            print(json.dumps(results), file=sys.stderr)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
