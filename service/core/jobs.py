"""The nouns that every layer shares: what is asked, how far it is, what came out, and how to stop it.

Nothing here knows HTTP or torch. Pixels are NumPy arrays of shape (height, width, 3), uint8, RGB.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from service.core.errors import Cancelled, DeadlineExceeded

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""RGB, shape (height, width, 3)."""

Mask: TypeAlias = npt.NDArray[np.uint8]
"""One channel, shape (height, width); 255 = repaint, 0 = keep."""

Stage: TypeAlias = Literal[
    "queue", "text_encoding", "image_encoding", "denoising", "decode", "upscale", "encoding"
]

CANCEL_CAUSES: Final = ("disconnect", "interrupt", "deadline", "shutdown", "slow_client")
CancelCause: TypeAlias = Literal["disconnect", "interrupt", "deadline", "shutdown", "slow_client"]


class CancelToken:
    """Says once, from any thread, that one request is no longer wanted.

    The first cause wins. A token belongs to one request and is never reused, so that a cancelled request
    cannot touch the next one.
    """

    __slots__ = ("_callbacks", "_cause", "_lock", "_skips")

    def __init__(self) -> None:
        self._cause: CancelCause | None = None
        self._skips = 0
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def cancel(self, cause: CancelCause) -> bool:
        """Cancel with ``cause``; True for the call that did it, False if the token was cancelled before."""
        with self._lock:
            if self._cause is not None:
                return False
            self._cause = cause
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
        return True

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` (in the cancelling thread) when the token is cancelled, at once if it already is."""
        with self._lock:
            if self._cause is None:
                self._callbacks.append(callback)
                return
        callback()

    def skip(self) -> None:
        """Ask the engine to leave the running batch half-done and go on with the next one (A1111's skip)."""
        self._skips += 1

    @property
    def skips(self) -> int:
        """How often :meth:`skip` was called; the engine compares it with what it saw before."""
        return self._skips

    @property
    def cause(self) -> CancelCause | None:
        """Why the request was cancelled, or None while it is wanted."""
        return self._cause

    @property
    def cancelled(self) -> bool:
        """True once anybody cancelled."""
        return self._cause is not None

    def error(self) -> Cancelled | DeadlineExceeded:
        """The error that answers a request cancelled by this token."""
        match self._cause:
            case "deadline":
                return DeadlineExceeded(
                    "The request took longer than SD_REQUEST_TIMEOUT allows, counted from its arrival: "
                    "ask for fewer steps or a smaller image, or raise the limit.",
                    retry_after=10,
                )
            case "interrupt":
                return Cancelled("The request was interrupted.", cause="interrupt")
            case "shutdown":
                return Cancelled("The server was told to stop before the image was done.", cause="shutdown")
            case cause:
                return Cancelled("The client went away.", cause=cause or "disconnect")

    def raise_if_cancelled(self) -> None:
        """Raise :class:`Cancelled` or :class:`DeadlineExceeded` if the token was cancelled."""
        if self._cause is not None:
            raise self.error()


UniPCVariant: TypeAlias = Literal["bh1", "bh2", "vary_coeff"]
UniPCSpacing: TypeAlias = Literal["time_uniform", "time_quadratic", "logSNR"]


@dataclass(frozen=True, slots=True)
class SamplingShape:
    """What bends a schedule, and UniPC, beyond their names; the defaults are their own measures.

    ``rho``, ``sigma_min`` and ``sigma_max`` 0 mean the scheduler's exponent and the ends of the checkpoint's sigmas.
    """

    rho: float = 0.0
    sigma_min: float = 0.0
    sigma_max: float = 0.0
    beta_alpha: float = 0.6
    beta_beta: float = 0.6
    discard_next_to_last_sigma: bool = False
    unipc_spacing: UniPCSpacing = "time_uniform"
    unipc_variant: UniPCVariant = "bh1"
    unipc_order: int = 3
    unipc_lower_order_final: bool = True


@dataclass(frozen=True, slots=True)
class HiresFix:
    """The second pass of txt2img: the latent is enlarged and partly denoised again.

    Sizes are in pixels; ``steps`` 0 means as many as the first pass; ``upscaler`` names a latent mode or an
    image upscaler. Sampler, scheduler, prompts and checkpoint are None where the first pass' serve.
    """

    width: int
    height: int
    denoising_strength: float = 0.75
    upscaler: str = "Latent"
    steps: int = 0
    crop_to: tuple[int, int] | None = None
    sampler: str | None = None
    scheduler: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    checkpoint: str | None = None


@dataclass(frozen=True, slots=True)
class InitImage:
    """What img2img starts from: images already at the size of the request, and optionally a mask.

    ``inpainting_fill``: 0 fill, 1 original, 2 latent noise, 3 latent nothing (what stands under the mask
    before denoising begins).
    """

    images: tuple[Pixels, ...]
    denoising_strength: float = 0.75
    mask: Mask | None = None
    inpainting_fill: int = 1
    noise_multiplier: float = 1.0
    image_guidance_scale: float | None = None
    latent_resize: bool = False
    inpainting_mask_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """All that the engine needs to make ``batch_size * batch_count`` images. Checked before it is built.

    Seeds are fixed (never -1) when the request is built: a lost pod can make the same image again.
    ``sampler`` and ``scheduler`` are canonical names ("Euler a", "Karras"). ``clip_skip`` counts as in
    A1111: 1 is the last layer. ``checkpoint`` None means the default one.
    """

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    subseed: int = 0
    subseed_strength: float = 0.0
    seed_resize_from: tuple[int, int] | None = None
    """(width, height) in pixels of the image whose noise is kept in the middle, or None."""
    steps: int = 20
    guidance_scale: float = 7.0
    width: int = 512
    height: int = 512
    sampler: str = "Euler"
    scheduler: str = "Automatic"
    batch_size: int = 1
    batch_count: int = 1
    eta: float | None = None
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = float("inf")
    s_noise: float = 1.0
    s_min_uncond: float = 0.0
    shape: SamplingShape = SamplingShape()
    clip_skip: int = 1
    emphasis: str = "Original"
    tiling: bool = False
    eta_noise_seed_delta: int = 0
    comma_padding_backtrack: int = 20
    checkpoint: str | None = None
    vae: str | None = None
    refiner_checkpoint: str | None = None
    refiner_switch_at: float | None = None
    hires: HiresFix | None = None
    init: InitImage | None = None
    fix_img2img_steps: bool = False
    disable_extra_networks: bool = False
    prompts: tuple[str, ...] = ()
    """One prompt per image where they differ (styles, prompt matrix); empty: ``prompt`` for all."""
    negative_prompts: tuple[str, ...] = ()
    preview_every: int = 0
    """Send a preview with every N-th step; 0 for none."""
    task_id: str = ""

    @property
    def image_count(self) -> int:
        """How many images come out."""
        return self.batch_size * self.batch_count

    def prompt_of(self, index: int) -> str:
        """The prompt of image ``index`` (0-based)."""
        return self.prompts[index] if self.prompts else self.prompt

    def negative_prompt_of(self, index: int) -> str:
        """The negative prompt of image ``index`` (0-based)."""
        return self.negative_prompts[index] if self.negative_prompts else self.negative_prompt

    def seed_of(self, index: int) -> int:
        """The seed of image ``index``: it stays the same where a variation seed varies."""
        return self.seed + (index if self.subseed_strength == 0 else 0)

    def subseed_of(self, index: int) -> int:
        """The variation seed of image ``index``."""
        return self.subseed + index


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running request is. ``step`` counts sampler steps done in the current batch and pass."""

    step: int
    steps: int
    image_index: int
    """Index of the first image of the running batch."""
    job_no: int
    """Finished passes (a batch has one, with hires fix two)."""
    job_count: int
    stage: Stage
    elapsed: float
    """Seconds since the device was taken."""
    preview: Pixels | None = None

    @property
    def fraction(self) -> float:
        """0..1 over all passes."""
        within = self.step / self.steps if self.steps else 0.0
        return min(1.0, (self.job_no + within) / self.job_count) if self.job_count else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds that are left at the pace so far; None before the first step."""
        done = self.fraction
        return self.elapsed / done - self.elapsed if done > 0 else None


ProgressSink: TypeAlias = Callable[[Progress], None]
"""Called in the engine's thread after each step; must be quick and must not raise."""


@dataclass(slots=True)
class Timings:
    """Seconds per stage of one request, filled as it goes."""

    stages: dict[Stage, float] = field(default_factory=dict)

    def add(self, stage: Stage, seconds: float) -> None:
        """Count ``seconds`` (of wall time) for ``stage``."""
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The images of a request, in order, and what the infotext tells of them."""

    images: tuple[Pixels, ...]
    request: GenerationRequest
    seeds: tuple[int, ...]
    subseeds: tuple[int, ...]
    model_name: str
    model_hash: str
    model_title: str = ""
    vae_name: str | None = None
    vae_hash: str | None = None
    sampler: str = ""
    scheduler: str = ""
    """The schedule that was really used ("Automatic" resolved to the sampler's own)."""
    steps_done: int = 0
    interrupted: bool = False
    comments: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Additional infotext entries, in order ("Lora hashes", "Hires upscaler" …)."""
    timings: Timings = field(default_factory=Timings)
    prompts: tuple[str, ...] = ()
    negative_prompts: tuple[str, ...] = ()
