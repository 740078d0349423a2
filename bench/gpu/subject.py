"""What is measured, on what, and how: networks, a clock that waits for the device, the peak of its memory."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.cold_start import large_checkpoint
from service.catalogue.layouts import configuration, read_json
from service.core.cancel import CancelToken
from service.core.generation import GenerationRequest, GenerationResult
from service.engine.engine import DiffusersEngine
from service.engine.weights.imports import UNet2DConditionModel
from service.settings import DEMO_MODEL, Settings


@dataclass(frozen=True, slots=True)
class Subject:
    """A device and a checkpoint on disk: of SD 1.5's size with random weights, or with ``tiny`` the shipped one."""

    device: torch.device
    dtype: torch.dtype
    tiny: bool
    rounds: int

    @property
    def is_cuda(self) -> bool:
        """True on an NVIDIA GPU."""
        return self.device.type == "cuda"

    @property
    def folder(self) -> Path:
        """The checkpoint, made when it is asked for the first time."""
        return DEMO_MODEL if self.tiny else large_checkpoint()

    @property
    def steps(self) -> int:
        """Of a picture."""
        return 2 if self.tiny else 20

    @property
    def sides(self) -> tuple[int, ...]:
        """Of pictures, in pixels."""
        return (64, 128) if self.tiny else (512, 768, 1024)

    @property
    def batches(self) -> tuple[int, ...]:
        """Pictures at once."""
        return (1, 2) if self.tiny else (1, 2, 4)

    def settings(self, **more: Any) -> Settings:
        """As the service would have them here."""
        name = str(self.dtype).removeprefix("torch.")
        return Settings.read(
            model=str(self.folder),
            device=self.device.type,
            dtype=name,
            warmup_steps=1,
            warmup_size=64,
            **more,
        )

    def engine(self, **more: Any) -> DiffusersEngine:
        """The service's engine, loaded."""
        made = DiffusersEngine(self.settings(**more))
        made.load(ignore)
        return made

    def pipeline(self) -> Any:
        """The bare diffusers pipeline of the same checkpoint, with Euler's sampler."""
        from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

        pipe = StableDiffusionPipeline.from_pretrained(self.folder, dtype=self.dtype, local_files_only=True)
        pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(self.device)

    def unet(self, family: str = "sd1") -> Any:
        """A UNet with random weights, on the device; with ``tiny`` of the shipped model's architecture."""
        config = read_json(DEMO_MODEL / "unet/config.json") if self.tiny else configuration(family)["unet"]
        with torch.device(self.device):
            made = UNet2DConditionModel.from_config(config)
        return made.to(self.dtype).eval().requires_grad_(False)

    def inputs(self, unet: Any, side: int, rows: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of one call of ``unet`` for pictures of ``side`` pixels."""
        config = unet.config
        new: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        cells = side // 8
        sample = torch.randn(rows, config.in_channels, cells, cells, **new)
        states = torch.randn(rows, 77, config.cross_attention_dim, **new)
        named: dict[str, Any] = {"encoder_hidden_states": states, "return_dict": False}
        if config.addition_embed_type == "text_time":
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            named["added_cond_kwargs"] = {
                "text_embeds": torch.randn(rows, pooled, **new),
                "time_ids": torch.tensor([[side, side, 0, 0, side, side]], **new).repeat(rows, 1),
            }
        return (sample, torch.tensor(500.0, device=self.device)), named

    def wait(self) -> None:
        """Until the device has done all it was told."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any], rounds: int = 0) -> float:
        """Median of several rounds, after one that is not counted."""
        work()
        taken: list[float] = []
        for _ in range(rounds or self.rounds):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    def peak(self, work: Callable[[], Any]) -> float:
        """GiB that the device held at most while ``work`` ran; 0 on a CPU."""
        if not self.is_cuda:
            work()
            return 0.0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        self.wait()
        return float(torch.cuda.max_memory_allocated(self.device) / 2**30)


def ignore(sentence: str, *, part: str | None = None, seconds: float = 0.0) -> None:
    """News of a load."""


def draw(engine: DiffusersEngine, steps: int, side: int, batch: int = 1, **more: Any) -> GenerationResult:
    """Pictures of the service's engine."""
    request = GenerationRequest(
        prompt="pretty dog",
        seed=7,
        sampler="Euler",
        steps=steps,
        width=side,
        height=side,
        batch_size=batch,
        **more,
    )
    return engine.generate(request, CancelToken(), lambda progress: None)
