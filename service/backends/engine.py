"""What makes images, as a backend of this process sees it: blocking, in one thread, without HTTP."""

from typing import Protocol

from service.catalogue.catalogue import Catalogue
from service.core.cancel import CancelToken
from service.core.events import ProgressSink
from service.core.generation import GenerationRequest, GenerationResult
from service.core.jobs import Enlargement
from service.core.pixels import Pixels
from service.core.records import CheckpointInfo


class Engine(Protocol):
    """Makes images, one request at a time, in the thread that calls it. Blocking; never on the event loop.

    Errors are those of :mod:`service.core.errors`. After any of them but ``DeviceLost`` the engine works on as a
    fresh one would. The exception to the one thread are the methods under "What there is": they read what was
    found before, touch neither disk nor device, and are called from the event loop while images are made.
    """

    def load(self, on_news: "News") -> None:
        """Read the default checkpoint and make the warm-up image. Raises ``ModelLoadError``."""

    def generate(
        self, request: GenerationRequest, token: CancelToken, sink: ProgressSink
    ) -> GenerationResult:
        """Make the images of ``request``; looks at ``token`` before each sampler step and after each decode."""

    def check(self, request: GenerationRequest) -> None:
        """Raise ``OutOfMemory`` if ``request`` cannot fit. Touches no device; one of those under "What there is"."""

    def upscale(self, image: Pixels, to: Enlargement, token: CancelToken) -> Pixels:
        """Enlarge one image to exactly that size."""

    def caption(self, image: Pixels) -> str:
        """A line about what can be seen on ``image``. Raises ``BadRequest`` where no captioner is configured."""

    def load_checkpoint(self, name: str) -> CheckpointInfo:
        """Have that checkpoint in memory, by any of its names. Raises ``UnknownName`` and ``ModelLoadError``."""

    def unload(self) -> None:
        """Give back the memory of all checkpoints; the next request loads what it needs."""

    def sleep(self) -> str:
        """Have the weights leave the device until the next request; where they are then: "memory" or "disk"."""
        ...

    def refresh(self) -> None:
        """Look at the models folder again: checkpoints, VAEs, LoRAs, embeddings and upscalers."""

    # --- What there is ---------------------------------------------------------------------------

    def catalogue(self) -> Catalogue:
        """All that a request may name, and the device."""
        ...

    def device_memory(self) -> dict[str, int]:
        """Bytes by kind (total, used, allocated, reserved); empty where there is no such device."""


class News(Protocol):
    """Told by ``Engine.load`` what it is doing, and how long the parts took."""

    def __call__(self, sentence: str, *, part: str | None = None, seconds: float = 0.0) -> None:
        """``sentence`` for people; ``part`` (of ``metrics.COLD_START_PARTS``) just ended after ``seconds``."""
