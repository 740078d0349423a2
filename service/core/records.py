"""What a request may name and what images are made on: plain records, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field


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
class VaeInfo:
    """A VAE that a request may use instead of the checkpoint's own. ``name`` is the file's, with its suffix."""

    name: str
    filename: str


@dataclass(frozen=True, slots=True)
class LoraInfo:
    """A LoRA network for ``<lora:name:1>``; ``alias`` is a second name from the file's own metadata."""

    name: str
    filename: str
    alias: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EmbeddingInfo:
    """A textual inversion: ``vectors`` rows of ``width`` numbers that its name in a prompt stands for.

    ``usable`` is False where its width does not fit the default checkpoint's text encoder.
    """

    name: str
    filename: str
    vectors: int
    width: int
    step: int | None = None
    checkpoint_hash: str | None = None
    checkpoint_name: str | None = None
    usable: bool = True


@dataclass(frozen=True, slots=True)
class UpscalerInfo:
    """What enlarges images. ``scale`` is the model's own factor; built-in filters reach any and say 4, as A1111."""

    name: str
    scale: float = 4.0
    model_name: str | None = None
    filename: str | None = None
    kind: str = ""
    """The family of its network, such as "ESRGAN"; "" for built-in filters."""


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What the images are made on. Memory in bytes; 0 where it is unknown."""

    device: str
    dtype: str
    total_memory: int = 0
    plan: str = ""
    """The memory plan in a sentence, made at load."""
    measures: tuple[str, ...] = ()
    """Measures against too little memory that the plan has chosen."""
