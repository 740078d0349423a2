"""What a generation needs of a checkpoint, whatever kind of network it is.

Samplers work on latents in variance-exploding (VE) space, ``x0 + sigma * noise``, for every kind: a family says how
its own scale follows from that one. For a flow, ``x = (1 - s) * x0 + s * noise`` is the VE latent at
``sigma = s / (1 - s)`` times ``1 - s``, so that Euler's steps in VE are its own, and every sampler serves it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from service.catalogue.samplers import Sampler, Scheduler
from service.core.generation import Padding, SamplingShape
from service.core.pixels import Pixels
from service.core.records import CheckpointInfo
from service.engine.conditioning import Conditioning
from service.engine.samplers.schedules import Walk


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How prompts are read. ``steps``: calls of the model in the first pass; ``hires_steps``: in the second, if it
    is this one's conditioning. ``clip_skip`` counts as in A1111."""

    steps: int
    hires_steps: int | None = None
    clip_skip: int = 1
    emphasis: str = "Original"
    comma_backtrack: int = 20
    padding: Padding = "none"


@dataclass(frozen=True, slots=True)
class Told:
    """What a network is told beside latent and noise level, for the R rows of one call.

    ``states`` (R, tokens, width) and ``pooled`` (R, width) come from the text encoders. The last ``negative_rows``
    carry the negative prompt. ``size`` is the picture's (width, height) in pixels. ``concat`` (R, c, h, w) is what
    an inpainting network takes beside the latent. ``timestep`` is given where it does not follow from the sigma.
    ``token_merging`` is the share of tokens that self-attention merges.
    """

    states: Tensor
    pooled: Tensor | None
    size: tuple[int, int]
    negative_rows: int = 0
    concat: Tensor | None = None
    timestep: float | None = None
    token_merging: float = 0.0


class Family(Protocol):
    """A loaded checkpoint, as a generation sees it."""

    info: CheckpointInfo
    vae_name: str | None
    vae_hash: str | None
    sigmas: Tensor
    """The noise levels it was trained on in VE space, ascending, float32, CPU."""

    @property
    def is_inpainting(self) -> bool:
        """True if the network also takes the mask and the masked image (:attr:`Told.concat`)."""

    def condition(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str],
        options: TextOptions,
        check: Callable[[], None],
    ) -> Conditioning:
        """What the prompts of N images mean to the network; ``check`` is called between runs of the encoders."""

    @property
    def device(self) -> torch.device:
        """Where latents live."""

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(channels, height, width) of the latent of a picture in pixels, of which whole blocks of 8 count."""

    def walk(
        self, sampler: Sampler, scheduler: Scheduler, steps: int, shape: SamplingShape, encoded: int | None
    ) -> Walk:
        """The noise levels of a pass: a schedule of ``steps``, from a picture its last ``encoded + 1``."""

    def predict(self, x: Tensor, sigma: float, told: Told) -> Tensor:
        """The clean latent of ``x`` (R, c, h, w; VE space, float32) at noise level ``sigma``, without guidance."""

    def encode(self, images: Tensor, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Latents of images (n, 3, height, width) in -1..1."""

    def decode(self, latents: Tensor, width: int, height: int) -> list[Pixels]:
        """The pictures of latents, at width × height but for a remainder of a division by 8."""

    def preview(self, denoised: Tensor) -> Pixels:
        """A rough picture of the first latent of a batch, at little cost."""
