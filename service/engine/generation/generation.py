"""One request on one model: batches, passes, steps; text in, pixels out.

A generation owns all of its state. It starts from the request alone and leaves nothing behind, so that after a
cancel at any step the next image is that of a fresh process.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor, nn

from service.catalogue import samplers as names
from service.core.cancel import CancelToken
from service.core.errors import Cancelled
from service.core.events import Progress, ProgressSink, Timings
from service.core.events import Stage as StageName
from service.core.generation import GenerationRequest, GenerationResult
from service.core.pixels import Pixels
from service.engine.conditioning import Conditioning
from service.engine.families.model import Model
from service.engine.generation import latents
from service.engine.generation.denoiser import GuidedDenoiser, Stage
from service.engine.generation.inpainting import Prepared, blank_concat, prepare
from service.engine.generation.noise import NoiseSource
from service.engine.generation.upscaling import enlarge_latent, is_latent_mode
from service.engine.samplers import SamplerOptions, sample
from service.engine.samplers.schedules import sampler_sigmas
from service.prompt import NetworkTag, extract_networks


class Interrupted(Exception):
    """The request was interrupted or skipped ahead: what there is so far is wanted, nothing more."""


class Models(Protocol):
    """What a generation needs of the engine beside its own model."""

    def get(self, name: str) -> Model:
        """Another checkpoint by name (hires pass, refiner)."""

    def upscale(self, image: Pixels, upscaler: str, width: int, height: int, token: CancelToken) -> Pixels:
        """Enlarge an image (hires pass with an image upscaler)."""

    def networks(self, model: Model, networks: list[NetworkTag]) -> "AppliedNetworks":
        """Put LoRA networks on ``model`` for one generation."""

    def embedding_hash(self, name: str) -> str:
        """What the infotext tells of a textual inversion."""


class AppliedNetworks(Protocol):
    """Networks that are on a model until ``__exit__``; says what the infotext tells of them."""

    comments: list[str]
    extra: dict[str, str]

    def __enter__(self) -> object:
        """Put them on."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take them off, whatever happened."""
        ...


class Generation:
    """Makes the images of ``request`` with ``model``. Use once: ``Generation(…).run()``."""

    def __init__(
        self,
        request: GenerationRequest,
        model: Model,
        models: Models,
        token: CancelToken,
        sink: ProgressSink,
        timings: Timings | None = None,
    ) -> None:
        self._request = request
        self._model = model
        self._models = models
        self._token = token
        self._sink = sink
        self._timings = timings or Timings()
        self._began = time.perf_counter()
        self._sampler, self._scheduler = names.resolve(request.sampler, request.scheduler, strict=True)
        self._jobs_done = 0
        self._jobs = request.batch_count * (2 if request.hires else 1)
        self._steps_done = 0
        self._skips = token.skips
        self._comments: list[str] = []
        self._extra: dict[str, object] = {}
        self._embeddings: dict[str, str] = {}

    def run(self) -> GenerationResult:
        """All images. Raises the token's error when the request was cancelled for good."""
        request = self._request
        images: list[Pixels] = []
        interrupted = False
        found = extract_networks(request.prompt_of(0))[1]
        wanted = [] if request.disable_extra_networks else found
        applied = self._models.networks(self._model, wanted)
        with applied, _seamless(self._model, request.tiling):
            self._comments += applied.comments
            self._extra |= applied.extra
            for batch in range(request.batch_count):
                start = batch * request.batch_size
                try:
                    images += self._batch(start, list(range(start, start + request.batch_size)))
                except Interrupted as stop:
                    images += stop.args[0]
                    if self._token.cancelled:
                        interrupted = True
                        break
                self._jobs_done = (batch + 1) * (self._jobs // request.batch_count)
        if self._embeddings:
            self._extra["TI hashes"] = ", ".join(f"{n}: {digits}" for n, digits in self._embeddings.items())
        count = len(images)
        return GenerationResult(
            images=tuple(images),
            request=request,
            seeds=tuple(request.seed_of(i) for i in range(count)),
            subseeds=tuple(request.subseed_of(i) for i in range(count)),
            model_name=self._model.info.name,
            model_hash=self._model.info.short_hash or "",
            model_title=self._model.info.title,
            vae_name=self._model.vae_name,
            vae_hash=self._model.vae_hash,
            sampler=self._sampler.name,
            scheduler=self._schedule_name(),
            steps_done=self._steps_done,
            interrupted=interrupted,
            comments=tuple(self._comments),
            extra=self._extra,
            timings=self._timings,
        )

    def _schedule_name(self) -> str:
        """As A1111 prints it: a sampler with a schedule of its own names that, others say Automatic."""
        if self._scheduler.name != "automatic":
            return self._scheduler.label
        effective = names.effective_scheduler(self._sampler, self._scheduler)
        return self._scheduler.label if effective.name == "uniform" else effective.label

    # --- one batch ---------------------------------------------------------------------------------

    def _batch(self, start: int, indices: list[int]) -> list[Pixels]:
        request = self._request
        size = (request.width, request.height)
        with self._stage("text_encoding"):
            conditioning = self._encode(self._model, indices, request.steps, None)
        width, height = latents.latent_size(self._model, *size)
        shape = (self._model.latent_channels, height, width)
        noise = self._noise(indices)
        unit = noise.initial(
            shape,
            subseeds=[request.subseed_of(i) for i in indices],
            subseed_strength=request.subseed_strength,
            seed_resize_from=self._resize_from(),
            device=self._device,
        )
        prepared: Prepared | None = None
        if request.init is None and self._model.is_inpainting:
            prepared = Prepared(
                torch.zeros_like(unit), concat=blank_concat(self._model, len(indices), width, height, unit)
            )
        if request.init is not None:
            with self._stage("image_encoding"):
                prepared = prepare(self._model, request, request.init, indices)
                unit = unit * request.init.noise_multiplier
        steps, skipped = self._schedule_steps(
            request.steps,
            request.init.denoising_strength if request.init else None,
            full=request.fix_img2img_steps,
        )
        x = self._pass(
            self._model,
            conditioning,
            unit,
            noise,
            start,
            size,
            steps,
            skipped,
            prepared,
            final=request.hires is None,
        )
        if request.hires is not None:
            return self._second_pass(start, indices, x)
        return self._decode(self._model, x, size, start)

    def _second_pass(self, start: int, indices: list[int], x: Tensor) -> list[Pixels]:
        """Hires fix: enlarge what the first pass made, add noise, and denoise again at the larger size."""
        request, hires = self._request, self._request.hires
        assert hires is not None
        self._jobs_done += 1
        model = self._models.get(hires.checkpoint) if hires.checkpoint else self._model
        size = (hires.width, hires.height)
        width, height = latents.latent_size(model, *size)
        if is_latent_mode(hires.upscaler) and model.latent_factor == self._model.latent_factor:
            x = enlarge_latent(x, width, height, hires.upscaler)
        else:
            images = self._decode(self._model, x, (request.width, request.height), start)
            with self._stage("upscale"):
                larger = [self._models.upscale(image, hires.upscaler, *size, self._token) for image in images]
            with self._stage("image_encoding"):
                pixels = [latents.to_tensor(image, self._device, torch.float32) for image in larger]
                x = latents.encode(model, torch.cat(pixels))
        strength = hires.denoising_strength
        if strength > 0:
            sampler, scheduler = self._sampler, self._scheduler
            if hires.sampler or hires.scheduler:
                self._sampler, self._scheduler = names.resolve(
                    hires.sampler or sampler.name, hires.scheduler or scheduler.label, strict=True
                )
            asked = hires.steps or request.steps
            try:
                with self._stage("text_encoding"):
                    conditioning = self._encode(model, indices, request.steps, asked)
                noise = self._noise(indices)
                unit = noise.initial(
                    (model.latent_channels, height, width),
                    subseeds=[request.subseed_of(i) for i in indices],
                    subseed_strength=request.subseed_strength,
                    seed_resize_from=self._resize_from(),
                    device=self._device,
                )
                steps, skipped = self._schedule_steps(asked, strength, full=True)
                start_from = Prepared(latent=x)
                x = self._pass(
                    model, conditioning, unit, noise, start, size, steps, skipped, start_from, final=True
                )
            finally:
                self._sampler, self._scheduler = sampler, scheduler
        images = self._decode(model, x, size, start)
        if hires.crop_to is not None:
            images = [_crop(image, *hires.crop_to) for image in images]
        return images

    def _pass(
        self,
        model: Model,
        conditioning: Conditioning,
        unit: Tensor,
        noise: NoiseSource,
        start: int,
        size: tuple[int, int],
        steps: int,
        skipped: int,
        prepared: Prepared | None,
        *,
        final: bool,
    ) -> Tensor:
        """Sample one pass of one batch; ``skipped`` of the schedule's ``steps`` are left out at its start."""
        request = self._request
        shape = request.shape
        sigmas = sampler_sigmas(
            self._sampler,
            self._scheduler,
            steps,
            model.sigmas,
            rho=shape.rho,
            sigma_min=shape.sigma_min,
            sigma_max=shape.sigma_max,
            sdxl=model.is_sdxl,
            beta_alpha=shape.beta_alpha,
            beta_beta=shape.beta_beta,
            always_discard_next_to_last_sigma=shape.discard_next_to_last_sigma,
            unipc_spacing=shape.unipc_spacing,
        )
        whole = (float(sigmas[sigmas > 0][-1]), float(sigmas[0]))
        sigmas = sigmas[skipped:]
        stages = [Stage(model, conditioning)]
        if final and request.refiner_checkpoint and request.refiner_switch_at is not None:
            stages.append(self._refiner(start, len(unit), len(sigmas) - 1))
        x = unit * float(sigmas[0])
        if prepared is not None:
            x = prepared.latent + x
        denoiser = GuidedDenoiser(
            stages,
            request.guidance_scale * self._sampler.guidance_multiplier,
            self._token,
            size=size,
            s_min_uncond=request.s_min_uncond,
            kept=prepared.kept if prepared else None,
            concat=prepared.concat if prepared else None,
        )
        latest = x

        def on_step(step: int, x: Tensor, denoised: Tensor) -> None:
            nonlocal latest
            latest = denoised
            denoiser.step = step + 1
            self._steps_done += len(x)
            shown: Pixels | None = None
            if request.preview_every > 0 and (step + 1) % request.preview_every == 0:
                shown = latents.preview(model, denoised)
            self._tell(step + 1, max(step + 1, len(sigmas) - 1), start, "denoising", shown)
            self._look(latest)

        options = SamplerOptions(
            eta=request.eta,
            s_churn=request.s_churn,
            s_tmin=request.s_tmin,
            s_tmax=request.s_tmax,
            s_noise=request.s_noise,
            table=model.sigmas,
            brownian_range=whole,
            unipc_variant=shape.unipc_variant,
            unipc_order=shape.unipc_order,
            unipc_lower_order_final=shape.unipc_lower_order_final,
        )
        with self._stage("denoising"):
            self._tell(0, len(sigmas) - 1, start, "denoising", None)
            try:
                result = sample(self._sampler.name, denoiser, x, sigmas, noise, options, on_step)
            except _Stop:
                with self._stage("decode"):
                    raise Interrupted(latents.decode(model, latest, *size)) from None
            except Cancelled:
                # The denoiser found the token cancelled in the middle of a step.
                if self._token.cause == "interrupt":
                    raise Interrupted(latents.decode(model, latest, *size)) from None
                raise
        if prepared is not None and prepared.kept is not None:
            result = result * prepared.kept.mask + prepared.kept.original * (1 - prepared.kept.mask)
        return result

    def _look(self, latest: Tensor) -> None:
        """After each step: stop for good, or stop with what there is, or go on."""
        if self._token.cause == "interrupt" or self._token.skips > self._skips:
            self._skips = self._token.skips
            raise _Stop
        self._token.raise_if_cancelled()

    # --- parts --------------------------------------------------------------------------------------

    @property
    def _device(self) -> torch.device:
        return next(self._model.unet.parameters()).device

    def _noise(self, indices: list[int]) -> NoiseSource:
        return NoiseSource(
            [self._request.seed_of(i) for i in indices],
            eta_noise_seed_delta=self._request.eta_noise_seed_delta,
        )

    def _resize_from(self) -> tuple[int, int] | None:
        asked = self._request.seed_resize_from
        return latents.latent_size(self._model, *asked) if asked else None

    def _schedule_steps(self, steps: int, strength: float | None, *, full: bool) -> tuple[int, int]:
        """Steps of the schedule, and how many of them are left out: img2img starts in the middle.

        ``full``: as many steps are done as were asked for, on a longer schedule (A1111's hires pass, and
        img2img with option img2img_fix_steps).
        """
        if strength is None:
            return steps, 0
        limited = min(strength, 0.999)
        if full and limited > 0:
            longer = int(steps / limited)
            return longer, longer - steps
        return steps, steps - int(limited * steps) - 1

    def _encode(self, model: Model, indices: list[int], steps: int, hires_steps: int | None) -> Conditioning:
        request, hires = self._request, self._request.hires
        calls = 2 if self._sampler.second_order else 1
        second = hires if hires_steps is not None else None
        prompts = [(second and second.prompt) or request.prompt_of(i) for i in indices]
        negatives = [(second and second.negative_prompt) or request.negative_prompt_of(i) for i in indices]
        conditioning = model.conditioner.encode(
            [extract_networks(prompt)[0] for prompt in prompts],
            [extract_networks(prompt)[0] for prompt in negatives],
            steps=steps * calls,
            hires_steps=None if hires_steps is None else hires_steps * calls,
            clip_skip=request.clip_skip,
            emphasis=request.emphasis,
            comma_backtrack=request.comma_padding_backtrack,
            raise_if_cancelled=self._token.raise_if_cancelled,
        )
        for name in conditioning.embeddings:
            self._embeddings.setdefault(name, self._models.embedding_hash(name))
        return conditioning

    def _refiner(self, start: int, count: int, steps: int) -> Stage:
        request = self._request
        assert request.refiner_checkpoint is not None
        assert request.refiner_switch_at is not None
        model = self._models.get(request.refiner_checkpoint)
        with self._stage("text_encoding"):
            conditioning = self._encode(model, list(range(start, start + count)), request.steps, None)
        return Stage(model, conditioning, from_step=int(request.refiner_switch_at * steps))

    def _decode(self, model: Model, x: Tensor, size: tuple[int, int], start: int) -> list[Pixels]:
        steps = self._request.steps
        self._tell(steps, steps, start, "decode", None)
        with self._stage("decode"):
            pixels = latents.decode(model, x, *size)
        if self._token.cause != "interrupt":
            self._token.raise_if_cancelled()
        return pixels

    def _tell(self, step: int, steps: int, start: int, stage: StageName, preview: Pixels | None) -> None:
        elapsed = time.perf_counter() - self._began
        self._sink(Progress(step, steps, start, self._jobs_done, self._jobs, stage, elapsed, preview))

    @contextmanager
    def _stage(self, name: StageName) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._timings.add(name, time.perf_counter() - began)


class _Stop(Exception):
    """Leaves the sampler after a step."""


def _crop(image: Pixels, width: int, height: int) -> Pixels:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width].copy()


@contextmanager
def _seamless(model: Model, tiling: bool) -> Iterator[None]:
    """Let convolutions wrap around the edges while one tileable image is made."""
    convolutions = (
        [m for part in (model.unet, model.vae) for m in part.modules() if isinstance(m, nn.Conv2d)]
        if tiling
        else []
    )
    before = [convolution.padding_mode for convolution in convolutions]
    try:
        for convolution in convolutions:
            convolution.padding_mode = "circular"
        yield
    finally:
        for convolution, mode in zip(convolutions, before, strict=True):
            convolution.padding_mode = mode
