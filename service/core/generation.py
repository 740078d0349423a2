"""One generation: what is asked of the engine, and what came out. Frozen data; nothing here knows HTTP or torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from service.core.events import Timings
from service.core.pixels import Mask, Pixels

UniPCVariant: TypeAlias = Literal["bh1", "bh2", "vary_coeff"]
NoiseSourceName: TypeAlias = Literal["CPU", "NV", "GPU"]
"""Where noise is drawn: on the CPU, on the CPU as an NVIDIA GPU draws it, on the device."""
Padding: TypeAlias = Literal["none", "empty", "last"]
"""What is done where prompt and negative prompt are of unequal length: nothing (each is a call of the model of its
own), empty chunks after the shorter one (A1111's pad_cond_uncond), or the negative prompt cut to the prompt's length
or its last vector repeated (pad_cond_uncond_v0)."""
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
    old_karras_ends: bool = False
    """Schedules go from 10 to 0.1, whatever the checkpoint's sigmas (A1111's use_old_karras_scheduler_sigmas)."""
    vp_start: bool = False
    """The first noise is scaled by sqrt(sigma² + 1), not sigma (A1111's sgm_noise_multiplier)."""
    zero_terminal_snr: bool = False
    """The checkpoint's noise schedule is bent so that it ends in pure noise (sd_noise_schedule)."""
    half_alphas: bool = False
    """The schedule is rounded to half precision, as A1111 did before 1.6 (use_downcasted_alpha_bar)."""
    unipc_spacing: UniPCSpacing = "time_uniform"
    unipc_variant: UniPCVariant = "bh1"
    unipc_order: int = 3
    unipc_lower_order_final: bool = True


@dataclass(frozen=True, slots=True)
class HiresFix:
    """The second pass of txt2img: the latent is enlarged and partly denoised again.

    Sizes are in pixels; ``steps`` 0 means as many as the first pass; ``upscaler`` names a latent mode or an
    image upscaler. ``crop_to`` (width, height) is what the second pass makes of the middle of the
    enlarged picture. Sampler, scheduler, prompts and checkpoint are None where the first pass' serve.
    """

    width: int
    height: int
    denoising_strength: float = 0.75
    upscaler: str = "Latent"
    steps: int = 0
    crop_to: tuple[int, int] | None = None
    scale: float | None = None
    resize: tuple[int, int] | None = None
    """What width and height come from: a factor, or sides of which one may be 0 (as is fit). For the infotext."""
    sampler: str | None = None
    scheduler: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    checkpoint: str | None = None
    token_merging: float = 0.0
    refines: tuple[bool, bool] = (False, True)
    """Whether the refiner takes part in the first and in the second pass."""
    upscaler_told: bool = True
    """Whether the infotext names the upscaler: A1111 does so where the client did."""


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
    mask_round: bool = True
    """Whether a cell of the latent is repainted or kept, nothing in between."""
    image_guidance_scale: float | None = None


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
    """Below this noise level every other call goes without the negative prompt; every one with the next field."""
    s_min_uncond_all: bool = False
    skip_early_cond: float = 0.0
    """The share (0..1) of the calls that go without the negative prompt at the beginning."""
    token_merging: float = 0.0
    """The share (0..0.9) of similar tokens that self-attention merges at full size; see ``hires`` for its own."""
    noise_source: NoiseSourceName = "CPU"
    extra_noise: float = 0.0
    """Added to the noise level at the start of img2img and of the second pass."""
    inpainting_mask_weight: float = 1.0
    """How much of the masked part an inpainting network is not shown: 1 shows it nothing of it, 0 the whole picture."""
    shape: SamplingShape = SamplingShape()
    clip_skip: int = 1
    emphasis: str = "Original"
    tiling: bool = False
    eta_noise_seed_delta: int = 0
    comma_padding_backtrack: int = 20
    padding: Padding = "none"
    checkpoint: str | None = None
    vae: str | None = None
    refiner_checkpoint: str | None = None
    refiner_switch_at: float | None = None
    """0..1: how far down the noise levels, or with ``refiner_by_steps`` the steps, the refiner takes over. None: at
    once."""
    refiner_by_steps: bool = False
    hires: HiresFix | None = None
    init: InitImage | None = None
    fix_img2img_steps: bool = False
    disable_extra_networks: bool = False
    preview_every: int = 0
    """Send a preview with every N-th step; 0 for none."""
    task_id: str = ""

    @property
    def image_count(self) -> int:
        """How many images come out."""
        return self.batch_size * self.batch_count

    def seed_of(self, index: int) -> int:
        """The seed of image ``index``: it stays the same where a variation seed varies."""
        return self.seed + (index if self.subseed_strength == 0 else 0)

    def subseed_of(self, index: int) -> int:
        """The variation seed of image ``index``."""
        return self.subseed + index


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
    is_inpainting: bool = False
    """Whether the network was told a mask and a picture."""
    sampler: str = ""
    scheduler: str = ""
    """The schedule that was really used ("Automatic" resolved to the sampler's own)."""
    hires_scheduler: str = ""
    """That of the second pass."""
    steps_done: int = 0
    interrupted: bool = False
    comments: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Additional infotext entries, in order ("Lora hashes", "Hires upscaler" …)."""
    timings: Timings = field(default_factory=Timings)
