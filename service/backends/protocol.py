"""The seam between the API layer and what makes images.

Nothing above it imports torch; nothing below it knows HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from service.jobs import CancelToken, GenerationRequest, GenerationResult, Pixels, ProgressSink


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """A checkpoint that can be named in a request. ``sha256`` is None until it has been computed."""

    title: str
    name: str
    filename: str
    sha256: str | None = None
    config: str | None = None

    @property
    def short_hash(self) -> str | None:
        """The first ten digits of the SHA-256, as A1111 shows them."""
        return self.sha256[:10] if self.sha256 else None


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What the images are made on. Memory in bytes; 0 where it is unknown."""

    device: str
    dtype: str
    total_memory: int = 0


class Engine(Protocol):
    """Makes images, one request at a time, in the thread that calls it. Blocking; never on the event loop.

    Errors are those of :mod:`service.errors`. After any of them but ``DeviceLost`` the engine works on as a
    fresh one would.
    """

    def load(self, on_news: "News") -> None:
        """Read the default checkpoint and make the warm-up image. Raises ``ModelLoadError``."""

    def generate(
        self, request: GenerationRequest, token: CancelToken, sink: ProgressSink
    ) -> GenerationResult:
        """Make the images of ``request``; looks at ``token`` before each sampler step and after each decode."""

    def upscale(self, image: Pixels, upscaler: str, width: int, height: int, token: CancelToken) -> Pixels:
        """Enlarge one image to exactly width × height with an upscaler by its name."""

    def checkpoints(self) -> Sequence[CheckpointInfo]:
        """All checkpoints that a request may name, the default one first."""

    def current(self) -> CheckpointInfo:
        """The checkpoint that a request without a name gets."""

    def device(self) -> DeviceInfo:
        """What this engine runs on."""

    def device_memory(self) -> dict[str, int]:
        """Bytes by kind (total, used, allocated, reserved); empty where there is no such device."""


class News(Protocol):
    """Told by ``Engine.load`` what it is doing, and how long the parts took."""

    def __call__(self, sentence: str, *, part: str | None = None, seconds: float = 0.0) -> None:
        """``sentence`` for people; ``part`` (of ``metrics.COLD_START_PARTS``) just ended after ``seconds``."""
