"""A fake engine for tests of timing, failure and protocol. Never for claims about images."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from service.backends.engine import News
from service.catalogue.catalogue import Catalogue
from service.catalogue.upscalers import BUILT_IN
from service.core.cancel import CancelToken
from service.core.errors import BadRequest
from service.core.events import Progress, ProgressSink
from service.core.generation import GenerationRequest, GenerationResult
from service.core.jobs import Enlargement
from service.core.pixels import Pixels
from service.core.records import (
    CheckpointInfo,
    DeviceInfo,
    EmbeddingInfo,
    LoraInfo,
    UpscalerInfo,
    VaeInfo,
)

CHECKPOINT = CheckpointInfo(
    "fake.safetensors [0123456789]", "fake", "/models/fake.safetensors", "0123456789" + "a" * 54
)
OTHER = CheckpointInfo(
    "dir/other.safetensors [abcdef0123]",
    "dir_other",
    "/models/dir/other.safetensors",
    "abcdef0123" + "b" * 54,
)


@dataclass
class FakeEngine:
    """Counts who is on the device; each step waits for ``step_time`` or for :attr:`gate` where there is one."""

    step_time: float = 0.0
    gate: threading.Semaphore | None = None
    captions: bool = False
    load_error: Exception | None = None
    fail_with: Callable[[GenerationRequest], Exception | None] = lambda request: None
    load_gate: threading.Event | None = None
    check_with: Callable[[GenerationRequest], Exception | None] = lambda request: None
    slept: list[str] = field(default_factory=list)
    on_device: int = 0
    most_on_device: int = 0
    served: list[GenerationRequest] = field(default_factory=list)
    steps_done: list[int] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    refreshed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def load(self, on_news: News) -> None:
        """Wait for :attr:`load_gate`, then load or fail."""
        on_news("Loading the fake.", part="imports", seconds=0.01)
        if self.load_gate is not None:
            self.load_gate.wait(30)
        if self.load_error is not None:
            raise self.load_error
        on_news("Loaded.", part="weights", seconds=0.02)

    def generate(
        self, request: GenerationRequest, token: CancelToken, sink: ProgressSink
    ) -> GenerationResult:
        """Step through the request; the picture's colour is a function of its seed."""
        with self._lock:
            self.on_device += 1
            self.most_on_device = max(self.most_on_device, self.on_device)
        done = 0
        interrupted = False
        try:
            for step in range(request.steps):
                if token.cause == "interrupt":
                    interrupted = True
                    break
                token.raise_if_cancelled()
                if self.gate is not None:
                    if not self._pass_gate(self.gate, token):
                        interrupted = True
                        break
                elif self.step_time:
                    threading.Event().wait(self.step_time)
                done += 1
                sink(
                    Progress(
                        step + 1,
                        request.steps,
                        0,
                        0,
                        1,
                        "denoising",
                        0.1 * done,
                        self._preview(request, step),
                    )
                )
            if (error := self.fail_with(request)) is not None:
                raise error
            self.served.append(request)
            checkpoint = self.find(request.checkpoint) if request.checkpoint else CHECKPOINT
            images = tuple(self._image(request, i) for i in range(request.image_count))
            return GenerationResult(
                images=images,
                request=request,
                seeds=tuple(request.seed_of(i) for i in range(request.image_count)),
                subseeds=tuple(request.subseed_of(i) for i in range(request.image_count)),
                model_name=checkpoint.name,
                model_hash=checkpoint.short_hash or "",
                model_title=checkpoint.title,
                sampler=request.sampler,
                scheduler=request.scheduler,
                hires_scheduler=(request.hires.scheduler or "") if request.hires else "",
                steps_done=done,
                interrupted=interrupted,
            )
        finally:
            self.steps_done.append(done)
            with self._lock:
                self.on_device -= 1

    def _pass_gate(self, gate: threading.Semaphore, token: CancelToken) -> bool:
        """Wait for the gate; False if the request was interrupted meanwhile."""
        while not gate.acquire(timeout=0.01):
            if token.cause == "interrupt":
                return False
            token.raise_if_cancelled()
        return True

    def _preview(self, request: GenerationRequest, step: int) -> Pixels | None:
        if request.preview_every and (step + 1) % request.preview_every == 0:
            return np.full((16, 16, 3), 127, np.uint8)
        return None

    def _image(self, request: GenerationRequest, index: int) -> Pixels:
        colour = np.array([request.seed_of(index) >> shift & 255 for shift in (0, 8, 16)], np.uint8)
        return np.broadcast_to(colour, (request.height, request.width, 3)).copy()

    def check(self, request: GenerationRequest) -> None:
        """Whatever fits not fails with :attr:`check_with`."""
        if (error := self.check_with(request)) is not None:
            raise error

    def sleep(self) -> str:
        """Count."""
        self.slept.append("memory")
        return "memory"

    def upscale(self, image: Pixels, to: Enlargement, token: CancelToken) -> Pixels:
        """Repeat pixels."""
        rows = np.arange(to.height) * image.shape[0] // to.height
        columns = np.arange(to.width) * image.shape[1] // to.width
        larger: Pixels = image[rows][:, columns].copy()
        return larger

    def load_checkpoint(self, name: str) -> CheckpointInfo:
        """Remember what was loaded."""
        info = self.find(name)
        self.loaded.append(info.title)
        return info

    def caption(self, image: Pixels) -> str:
        """Its size, where a captioner is configured."""
        if not self.captions:
            raise BadRequest("No captioning model is configured: set SD_CAPTIONER.")
        return f"a picture of {image.shape[1]} by {image.shape[0]}"

    def unload(self) -> None:
        """Forget what was loaded."""
        self.loaded.clear()

    def refresh(self) -> None:
        """Count."""
        self.refreshed += 1

    def catalogue(self) -> Catalogue:
        """Two checkpoints and one or two of each other thing."""
        return Catalogue(
            tuple(self.checkpoints()),
            (VaeInfo("other.vae.safetensors", "/models/vae/other.vae.safetensors"),),
            (LoraInfo("detail", "/models/loras/detail.safetensors", "more-detail", {"ss_network_dim": "8"}),),
            (
                EmbeddingInfo("nice", "/models/embeddings/nice.safetensors", 4, 768),
                EmbeddingInfo("wide", "/models/embeddings/wide.safetensors", 2, 1024, usable=False),
            ),
            (
                *(UpscalerInfo(name) for name in BUILT_IN),
                UpscalerInfo("Fake 4x", 4, "Fake 4x", "/models/upscalers/fake.safetensors", "ESRGAN"),
            ),
            DeviceInfo("fake", "float32"),
        )

    def checkpoints(self) -> Sequence[CheckpointInfo]:
        """Two."""
        return [CHECKPOINT, OTHER]

    def find(self, name: str) -> CheckpointInfo:
        """By the names that the engine takes."""
        return self.catalogue().find(name)

    def device_memory(self) -> dict[str, int]:
        """None."""
        return {}
