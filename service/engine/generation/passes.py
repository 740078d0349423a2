"""One pass over one batch: a plan, a start, noise, and a sampler that walks down the noise levels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from service.core.cancel import CancelToken
from service.core.errors import Cancelled
from service.core.generation import GenerationRequest
from service.core.jobs import Enlargement
from service.core.pixels import Pixels
from service.engine.conditioning import Conditioning
from service.engine.families.protocol import Family, TextOptions
from service.engine.generation.denoiser import Guidance, GuidedDenoiser
from service.engine.generation.hooks import Refine
from service.engine.generation.inpainting import Start
from service.engine.generation.noise import NoiseSource
from service.engine.generation.plan import PassPlan
from service.engine.generation.progress import Reporter
from service.engine.samplers import SamplerOptions, sample
from service.engine.samplers.schedules import Walk
from service.prompt import NetworkTag


class Models(Protocol):
    """What a generation needs of the engine. Whoever made it undoes what a request did to its models."""

    def get(self, name: str | None, networks: Sequence[NetworkTag]) -> Family:
        """A checkpoint by name (None: the default one) with these networks on it, as the request wants it."""

    def upscale(self, image: Pixels, to: Enlargement, token: CancelToken) -> Pixels:
        """Enlarge an image (hires pass with an image upscaler)."""

    def embedding_hash(self, name: str) -> str:
        """What the infotext tells of a textual inversion."""

    @property
    def comments(self) -> Sequence[str]:
        """Sentences for the client, of networks that could not be used."""

    @property
    def network_hashes(self) -> str:
        """The networks that were used, for the infotext; "" for none."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The images of one batch, by their index in the request."""

    number: int
    indices: tuple[int, ...]

    @property
    def first(self) -> int:
        """The index of the first one."""
        return self.indices[0]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass ended with: latents (n, c, h, w), and the model whose VAE shows them.

    ``width`` and ``height`` are the picture's, in pixels. ``stopped``: the request was interrupted or skipped ahead,
    and this is what there is so far.
    """

    latent: Tensor
    model: Family
    width: int
    height: int
    stopped: bool = False


class Passes:
    """Runs the passes of one generation."""

    def __init__(
        self, request: GenerationRequest, models: Models, token: CancelToken, reporter: Reporter
    ) -> None:
        self._request = request
        self._models = models
        self._token = token
        self._reporter = reporter
        self._skips = token.skips
        self.embeddings: list[str] = []
        """The textual inversions that were used, once for the prompt and once for the negative prompt, as in A1111."""
        self.remarks: dict[str, object] = {}
        """What the infotext tells of how it was done, in A1111's words."""

    def noise(self, batch: Batch, device: torch.device) -> NoiseSource:
        """The random numbers of one pass; each pass starts anew."""
        seeds = [self._request.seed_of(i) for i in batch.indices]
        return NoiseSource(
            seeds,
            eta_noise_seed_delta=self._request.eta_noise_seed_delta,
            source=self._request.noise_source,
            device=device,
        )

    def initial(self, model: Family, noise: NoiseSource, batch: Batch, size: tuple[int, int]) -> Tensor:
        """The first noise of a pass at ``size`` (width, height) in pixels, with variation and resized seeds."""
        request = self._request
        resize_from = request.seed_resize_from
        if resize_from is not None:
            _, height, width = model.latent_shape(*resize_from)
            resize_from = width, height
        return noise.initial(
            model.latent_shape(*size),
            subseeds=[request.subseed_of(i) for i in batch.indices],
            subseed_strength=request.subseed_strength,
            seed_resize_from=resize_from,
            device=model.device,
        )

    def run(
        self, plan: PassPlan, model: Family, batch: Batch, start: Start, unit: Tensor, noise: NoiseSource
    ) -> Outcome:
        """Denoise: from ``start`` with noise ``unit`` (n, c, h, w), further draws coming from ``noise``."""
        request, reporter = self._request, self._reporter
        with reporter.stage("text_encoding"):
            conditioning = self._condition(plan, model, batch)
        walk = model.walk(plan.sampler, plan.scheduler, plan.steps, request.shape, plan.encoded)
        x = self._start(plan, walk, start, unit)
        sigmas = walk.sigmas
        refiner = self._refiner(plan, batch)
        denoiser = GuidedDenoiser(
            model,
            conditioning,
            self._guidance(plan),
            self._token,
            size=plan.told_size,
            calls=plan.calls,
            hooks=(*start.hooks, *refiner),
            token_merging=plan.token_merging,
            distilled=plan.sampler.name == "LCM",
        )
        steps = len(sigmas) - 1
        latest = x

        def on_step(step: int, x: Tensor, denoised: Tensor) -> None:
            nonlocal latest
            latest = denoised
            reporter.steps_done += len(x)
            shown: Pixels | None = None
            if request.preview_every > 0 and (step + 1) % request.preview_every == 0:
                shown = model.preview(denoised)
            reporter.tell(step + 1, max(step + 1, steps), batch.first, "denoising", shown)
            self._look()

        with reporter.stage("denoising"):
            reporter.tell(0, steps, batch.first, "denoising")
            options = _options(request, model, walk)
            try:
                latent, stopped = (
                    sample(plan.sampler.name, denoiser, x, sigmas, noise, options, on_step),
                    False,
                )
            except _Stop:
                latent, stopped = latest, True
            except Cancelled:
                # The denoiser found the token cancelled in the middle of a step.
                if self._token.cause != "interrupt":
                    raise
                latent, stopped = latest, True
        self.remarks |= denoiser.remarks
        shown_by = next((hook.model for hook in refiner if hook.model is not None), model)
        if not stopped:
            for hook in start.hooks:
                latent = hook.finish(latent)
        return Outcome(latent, shown_by, plan.width, plan.height, stopped)

    def _start(self, plan: PassPlan, walk: Walk, start: Start, unit: Tensor) -> Tensor:
        """The latent in VE space that the sampler begins with."""
        first = float(walk.sigmas[0])
        if start.latent is None or walk.mixed_at is None:
            scaled = plan.sampler.own_schedule or self._request.shape.vp_start
            return unit * ((first * first + 1) ** 0.5 if scaled else first)
        x = start.latent + unit * (walk.mixed_at + start.extra_noise)
        if plan.sampler.own_schedule:
            # Mixed at one noise level in the scale of the network, and taken for one of the next level in that scale.
            x = x * ((first**2 + 1) / (walk.mixed_at**2 + 1)) ** 0.5
        return x

    def _guidance(self, plan: PassPlan) -> Guidance:
        request, factor = self._request, plan.sampler.guidance_multiplier
        return Guidance(
            request.guidance_scale * factor,
            needs_uncond=factor != 1.0,
            s_min_uncond=request.s_min_uncond,
            s_min_uncond_all=request.s_min_uncond_all,
            skip_early_cond=request.skip_early_cond,
        )

    def decode(self, outcome: Outcome, batch: Batch) -> list[Pixels]:
        """The pictures of an outcome."""
        steps = self._request.steps
        self._reporter.tell(steps, steps, batch.first, "decode")
        with self._reporter.stage("decode"):
            pixels = outcome.model.decode(outcome.latent, outcome.width, outcome.height)
        if self._token.cause != "interrupt":
            self._token.raise_if_cancelled()
        return pixels

    def _look(self) -> None:
        """After each step: stop for good, or stop with what there is, or go on."""
        if self._token.cause == "interrupt" or self._token.skips > self._skips:
            self._skips = self._token.skips
            raise _Stop
        self._token.raise_if_cancelled()

    def _condition(self, plan: PassPlan, model: Family, batch: Batch) -> Conditioning:
        request, count = self._request, len(batch.indices)
        conditioning = model.condition(
            [plan.prompt] * count,
            [plan.negative_prompt] * count,
            TextOptions(
                steps=plan.text_steps,
                hires_steps=plan.hires_text_steps,
                clip_skip=request.clip_skip,
                emphasis=request.emphasis,
                comma_backtrack=request.comma_padding_backtrack,
                padding=request.padding,
            ),
            self._token.raise_if_cancelled,
        )
        if not self.embeddings:
            self.embeddings += conditioning.embeddings
        self.embeddings += [name for name in conditioning.embeddings if name not in self.embeddings]
        return conditioning

    def _refiner(self, plan: PassPlan, batch: Batch) -> tuple[Refine, ...]:
        request = self._request
        if not plan.refines or not request.refiner_checkpoint:
            return ()

        def load() -> tuple[Family, Conditioning]:
            model = self._models.get(request.refiner_checkpoint, plan.networks)
            with self._reporter.stage("text_encoding"):
                return model, self._condition(plan, model, batch)

        return (Refine(request.refiner_switch_at or 0.0, load, by_steps=request.refiner_by_steps),)


class _Stop(Exception):
    """Leaves a sampler, which is a function in the middle of its loop, after a step; goes no further than a pass."""


def _options(request: GenerationRequest, model: Family, walk: Walk) -> SamplerOptions:
    shape = request.shape
    return SamplerOptions(
        eta=request.eta,
        s_churn=request.s_churn,
        s_tmin=request.s_tmin,
        s_tmax=request.s_tmax,
        s_noise=request.s_noise,
        table=model.sigmas,
        brownian_range=walk.ends,
        unipc_variant=shape.unipc_variant,
        unipc_order=shape.unipc_order,
        unipc_lower_order_final=shape.unipc_lower_order_final,
    )
