"""The parts of the bench: each takes a subject and gives figures by name."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Final

import httpx
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench import cold_start as cold
from bench.gpu.subject import Subject, draw
from bench.process import running
from service.catalogue.layouts import files_to_read
from service.core.cancel import CancelToken
from service.core.errors import ServiceError
from service.core.generation import GenerationRequest
from service.engine.device import Device
from service.engine.weights import imports
from service.engine.weights.tensors import read_tensors

Figures = dict[str, Any]


def pictures(subject: Subject) -> Figures:
    """Seconds a picture against the bare pipeline's, the stages' shares, peaks of memory."""
    engine, pipe = subject.engine(), subject.pipeline()
    found: Figures = {}
    for side in subject.sides:
        for batch in subject.batches if side == subject.sides[0] else (1,):

            def ours(side: int = side, batch: int = batch) -> Any:
                return draw(engine, subject.steps, side, batch)

            def theirs(side: int = side, batch: int = batch) -> Any:
                seeds = [torch.Generator().manual_seed(7 + number) for number in range(batch)]
                return pipe(
                    ["pretty dog"] * batch, num_inference_steps=subject.steps, guidance_scale=7.0,
                    width=side, height=side, generator=seeds,
                )  # fmt: skip

            name = f"{side}x{batch}"
            mine, other = subject.seconds(ours), subject.seconds(theirs)
            found[f"{name}_seconds"] = mine
            found[f"{name}_over_pipeline"] = mine / other
            found[f"{name}_peak_gib"] = subject.peak(ours)
            stages = ours().timings.stages
            total = sum(stages.values()) or 1.0
            found |= {f"{name}_share_{stage}": seconds / total for stage, seconds in stages.items()}
            found[f"{name}_step_ms"] = stages.get("denoising", 0.0) / subject.steps * 1000
    return found


_KERNELS: Final = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def attention(subject: Subject) -> Figures:
    """Milliseconds a call of the UNet by attention kernel, with and without channels-last."""
    found: Figures = {}
    for family in ("sd1",) if subject.tiny else ("sd1", "sdxl"):
        unet = subject.unet(family)
        side = subject.sides[0] if family == "sd1" else 1024
        positional, named = subject.inputs(unet, side, 2)

        def call(positional: Any = positional, named: Any = named, unet: Any = unet) -> Any:
            with torch.inference_mode():
                return unet(*positional, **named)

        for layout in (torch.contiguous_format, torch.channels_last):
            unet.to(memory_format=layout)
            prefix = f"{family}_{'last' if layout is torch.channels_last else 'first'}"
            choices: dict[str, AbstractContextManager[Any]] = {"sdpa": nullcontext()}
            choices |= {name: sdpa_kernel(kernel) for name, kernel in _KERNELS.items() if subject.is_cuda}
            for name, chosen in choices.items():
                found[f"{prefix}_{name}_ms"] = _or_why(partial(_within, subject, chosen, call))
        if subject.is_cuda:
            found[f"{family}_xformers_ms"] = _or_why(partial(_xformers, subject, unet, call))
        del unet
    return found


def _within(subject: Subject, chosen: AbstractContextManager[Any], call: Callable[[], Any]) -> float:
    with chosen:
        return subject.seconds(call) * 1000


def _xformers(subject: Subject, unet: Any, call: Callable[[], Any]) -> float:
    unet.enable_xformers_memory_efficient_attention()
    return subject.seconds(call) * 1000


def _or_why(work: Callable[[], float]) -> float | str:
    """The figure, or what stood in its way."""
    try:
        return work()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def compilation(subject: Subject) -> Figures:
    """A call of the UNet as it is, compiled whole (``SD_COMPILE``) and with its repeated blocks compiled."""
    imports.prepare_compilation()
    found: Figures = {}

    def measure(name: str, prepare: Callable[[Any], Any]) -> None:
        torch.compiler.reset()
        unet = subject.unet().to(memory_format=torch.channels_last)
        positional, named = subject.inputs(unet, subject.sides[0], 2)

        def call() -> Any:
            with torch.inference_mode():
                return unet(*positional, **named)

        def work() -> float:
            prepare(unet)
            began = time.perf_counter()
            call()
            subject.wait()
            found[f"{name}_first_call_seconds"] = time.perf_counter() - began
            return subject.seconds(call) * 1000

        found[f"{name}_ms"] = _or_why(work)

    measure("eager", lambda unet: None)
    measure("blocks", lambda unet: unet.compile_repeated_blocks(dynamic=False))
    measure("whole", lambda unet: unet.compile(mode="default", dynamic=False))
    return found


def graphs(subject: Subject) -> Figures:
    """A call of the UNet, launched kernel by kernel and as one CUDA graph."""
    if not subject.is_cuda:
        return {"skipped": "CUDA graphs need a CUDA device"}
    found: Figures = {}
    unet = subject.unet().to(memory_format=torch.channels_last)
    for side in subject.sides:
        positional, named = subject.inputs(unet, side, 2)
        with torch.inference_mode():

            def call(positional: Any = positional, named: Any = named) -> Any:
                return unet(*positional, **named)[0]

            eager = subject.seconds(call)
            expected = call()
            # As PyTorch's notes on CUDA graphs say: warm up on another stream, capture, replay.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    call()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            began = time.perf_counter()
            with torch.cuda.graph(graph):
                captured = call()
            found[f"{side}_capture_seconds"] = time.perf_counter() - began
            replayed = subject.seconds(graph.replay)
            found[f"{side}_eager_ms"], found[f"{side}_graph_ms"] = eager * 1000, replayed * 1000
            found[f"{side}_equal"] = bool(torch.equal(captured, expected))
            del graph
    return found


def loading(subject: Subject) -> Figures:
    """Seconds from the page cache to the device for the checkpoint's weights, GB/s of the files with it."""
    from safetensors.torch import load_file

    files = files_to_read(subject.folder)
    device = Device(subject.device, subject.dtype, 0, channels_last=True)
    size = sum(file.stat().st_size for file in files) / 1e9

    def ours() -> None:
        for file in files:
            for _ in read_tensors(file, device):
                pass

    def theirs() -> None:
        for file in files:
            for tensor in load_file(file).values():
                tensor.to(subject.device, subject.dtype)

    def direct() -> None:
        for file in files:
            load_file(file, device=str(subject.device))

    def pinned() -> None:
        biggest = max(file.stat().st_size for file in files)
        buffer = torch.empty(biggest, dtype=torch.uint8, pin_memory=True)
        for file in files:
            view = buffer[: file.stat().st_size]
            with file.open("rb", buffering=0) as stream:
                done = 0
                while done < len(view):
                    done += stream.readinto(view[done:].numpy().data) or 0
            view.to(subject.device, non_blocking=True)
            subject.wait()

    ways = {"service": ours, "safetensors": theirs, "safetensors_device": direct}
    if subject.is_cuda:
        ways["pinned"] = pinned
    found: Figures = {}
    for name, work in ways.items():
        seconds = found[f"{name}_seconds"] = _or_why(partial(subject.seconds, work, 3))
        if isinstance(seconds, float):
            found[f"{name}_gb_per_s"] = size / seconds
    return found


def cancel(subject: Subject) -> Figures:
    """Milliseconds from a cancel in the middle of a picture until the device is free, and of one step."""
    engine, side = subject.engine(), subject.sides[-1]
    step = draw(engine, subject.steps, side).timings.stages.get("denoising", 0.0) / subject.steps
    found: list[float] = []
    for _ in range(subject.rounds):
        token, at = CancelToken(), threading.Event()

        def sink(progress: Any, at: threading.Event = at) -> None:
            if progress.stage == "denoising" and progress.step >= 1:
                at.set()

        ended: list[float] = []

        def work(token: CancelToken = token, sink: Any = sink, ended: list[float] = ended) -> None:
            request = GenerationRequest(
                prompt="pretty dog", seed=7, steps=subject.steps * 5, sampler="Euler", width=side, height=side
            )
            try:
                engine.generate(request, token, sink)
            except ServiceError:
                subject.wait()
                ended.append(time.perf_counter())

        thread = threading.Thread(target=work)
        thread.start()
        at.wait(60)
        time.sleep(step / 2)
        began = time.perf_counter()
        token.cancel("disconnect")
        thread.join()
        if ended:
            found.append((ended[0] - began) * 1000)
    return {"free_after_ms": max(found), "step_ms": step * 1000} if found else {"missed": subject.rounds}


def http(subject: Subject) -> Figures:
    """A picture over HTTP against the same in the engine, and what /readyz takes meanwhile."""
    side = subject.sides[0]
    inside = subject.seconds(partial(draw, subject.engine(), subject.steps, side))
    body = {"prompt": "pretty dog", "seed": 7, "steps": subject.steps, "sampler_name": "Euler", "width": side,
            "height": side}  # fmt: skip
    dtype = str(subject.dtype).removeprefix("torch.")
    probes: list[float] = []
    with (
        running(model=str(subject.folder), device=subject.device.type, dtype=dtype) as service,
        httpx.Client(base_url=service.url, timeout=300, trust_env=False) as client,
        httpx.Client(base_url=service.url, timeout=300, trust_env=False) as other,
    ):

        def ask() -> None:
            client.post("/sdapi/v1/txt2img", json=body).raise_for_status()

        outside = subject.seconds(ask)
        drawing = threading.Thread(target=ask)
        drawing.start()
        while drawing.is_alive():
            began = time.perf_counter()
            other.get("/readyz").raise_for_status()
            probes.append(time.perf_counter() - began)
            time.sleep(0.01)
    return {
        "engine_seconds": inside, "http_seconds": outside, "http_over_engine": outside / inside,
        "readyz_worst_ms": max(probes) * 1000,
    }  # fmt: skip


def cold_start(subject: Subject) -> Figures:
    """Exec to first image over HTTP against the obvious script's, on this device, one after the other."""
    chosen = cold.Subject("gpu", subject.folder, subject.steps, subject.sides[0], subject.device.type)
    figures = cold.compare(chosen, 1 if subject.tiny else 3, emptied=False)
    return {name.removeprefix("gpu_warm_"): value for name, value in figures.items()}


PARTS: Final[dict[str, Callable[[Subject], Figures]]] = {
    "pictures": pictures,
    "http": http,
    "attention": attention,
    "graphs": graphs,
    "loading": loading,
    "cancel": cancel,
    "compile": compilation,
    "cold_start": cold_start,
}


def chosen(only: str) -> Iterator[tuple[str, Callable[[Subject], Figures]]]:
    """The parts that ``only`` names (all, where it is empty). Raises ValueError for a name that is none."""
    names = [name for name in only.split(",") if name] or list(PARTS)
    for name in names:
        if name not in PARTS:
            raise ValueError(f"there is no part {name!r}; choose from {', '.join(PARTS)}")
        yield name, PARTS[name]
