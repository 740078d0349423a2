"""One request: batches, passes, pictures.

A generation owns all of its state. It starts from the request alone and leaves nothing behind, so that after a
cancel at any step the next image is that of a fresh process.
"""

import torch
from torch import Tensor

from service.catalogue import samplers
from service.catalogue.samplers import Sampler, Scheduler
from service.core.cancel import CancelToken
from service.core.events import ProgressSink, Timings
from service.core.generation import GenerationRequest, GenerationResult, HiresFix
from service.core.jobs import Enlargement
from service.core.pixels import Pixels
from service.engine.families.autoencoder import to_tensor
from service.engine.families.protocol import Family
from service.engine.generation.inpainting import Start, blank, from_images
from service.engine.generation.noise import NoiseSource, posterior
from service.engine.generation.passes import Batch, Models, Outcome, Passes
from service.engine.generation.plan import PassPlan, first_pass, hires_pass
from service.engine.generation.progress import Reporter
from service.engine.generation.upscaling import enlarge_latent, is_latent_mode


class Generation:
    """Makes the images of ``request`` with ``models``. Use once: ``Generation(…).run()``."""

    def __init__(
        self, request: GenerationRequest, models: Models, token: CancelToken, sink: ProgressSink
    ) -> None:
        self._request = request
        self._models = models
        self._token = token
        self._first = first_pass(request)
        self._hires = hires_pass(request)
        self._passes_each = 2 if request.hires else 1
        self._reporter = Reporter(sink, Timings(), request.batch_count * self._passes_each)
        self._model: Family | None = None
        self._passes = Passes(request, models, token, self._reporter)

    def run(self) -> GenerationResult:
        """All images. Raises the token's error when the request was cancelled for good."""
        request, size = self._request, self._request.batch_size
        images: list[Pixels] = []
        interrupted = False
        for number in range(request.batch_count):
            batch = Batch(number, tuple(range(number * size, (number + 1) * size)))
            images += self._batch(batch)
            self._reporter.jobs_done = (number + 1) * self._passes_each
            if self._token.cancelled:
                interrupted = True
                break
        return self._result(images, interrupted=interrupted)

    def _batch(self, batch: Batch) -> list[Pixels]:
        plan, passes = self._first, self._passes
        model = self._model = self._models.get(plan.checkpoint, plan.networks)
        noise = passes.noise(batch, model.device)
        unit = passes.initial(model, noise, batch, (plan.width, plan.height))
        start, unit = self._start(model, batch, unit)
        outcome = passes.run(plan, model, batch, start, unit, noise)
        if self._request.hires is None or self._hires is None or outcome.stopped:
            return passes.decode(outcome, batch)
        self._reporter.jobs_done += 1
        return self._second(self._hires, self._request.hires, batch, outcome)

    def _start(self, model: Family, batch: Batch, unit: Tensor) -> tuple[Start, Tensor]:
        """What the first pass starts from, and the noise that is added to it."""
        request, init = self._request, self._request.init
        size = (request.width, request.height)
        if init is None:
            return Start(None, blank(model, len(batch.indices), *size, unit.device)), unit
        with self._reporter.stage("image_encoding"):
            # As in A1111 every batch stands upon the first one's.
            seeds = [request.seed_of(i) for i in range(len(batch.indices))]
            plain = NoiseSource(seeds, source=request.noise_source, device=unit.device)
            under = plain.initial(model.latent_shape(*size), device=unit.device)
            early = self._first.sampler.own_schedule
            # A1111 draws here from whatever came before it in the process: any seed is as good.
            draw = posterior(request.seed)
            start = from_images(
                model, init, batch.indices, size, under, draw,
                early=early, extra_noise=request.extra_noise, mask_weight=request.inpainting_mask_weight,
            )  # fmt: skip
        return start, unit * init.noise_multiplier

    def _second(self, plan: PassPlan, hires: HiresFix, batch: Batch, first: Outcome) -> list[Pixels]:
        """Hires fix: enlarge what the first pass made, add noise, and denoise again at the larger size."""
        passes, size = self._passes, (plan.width, plan.height)
        model = self._models.get(plan.checkpoint, plan.networks)
        latent = self._enlarged(plan, hires, batch, first, model)
        outcome = Outcome(latent, model, *size)
        if plan.steps:
            noise = passes.noise(batch, model.device)
            unit = passes.initial(model, noise, batch, size)
            told = blank(model, len(batch.indices), *size, latent.device)
            start = Start(latent, told, self._request.extra_noise)
            outcome = passes.run(plan, model, batch, start, unit, noise)
        return passes.decode(outcome, batch)

    def _enlarged(
        self, plan: PassPlan, hires: HiresFix, batch: Batch, first: Outcome, model: Family
    ) -> Tensor:
        """The latent that the second pass starts from: enlarged itself, or by way of pictures."""
        own = (first.width, first.height)
        if is_latent_mode(hires.upscaler) and model.latent_shape(*own) == first.model.latent_shape(*own):
            _, height, width = model.latent_shape(hires.width, hires.height)
            latent = enlarge_latent(first.latent, width, height, hires.upscaler)
        else:
            latent = self._enlarged_pixels(hires, batch, first, model)
        _, height, width = model.latent_shape(plan.width, plan.height)
        top, left = (latent.shape[2] - height) // 2, (latent.shape[3] - width) // 2
        return latent[:, :, top : top + height, left : left + width]

    def _enlarged_pixels(self, hires: HiresFix, batch: Batch, first: Outcome, model: Family) -> Tensor:
        images = self._passes.decode(first, batch)
        to = Enlargement(hires.upscaler, hires.width, hires.height)
        with self._reporter.stage("upscale"):
            larger = [self._models.upscale(image, to, self._token) for image in images]
        with self._reporter.stage("image_encoding"):
            pixels = [to_tensor(image, first.latent.device, torch.float32) for image in larger]
            # The seed that A1111 happens to have set last.
            return model.encode(torch.cat(pixels), posterior(self._request.seed_of(batch.indices[-1])))

    def _result(self, images: list[Pixels], *, interrupted: bool) -> GenerationResult:
        request, count = self._request, len(images)
        model = self._model
        assert model is not None, "no batch was made"
        extra = dict(self._passes.remarks)
        if hashes := self._models.network_hashes:
            extra["Lora hashes"] = hashes
        if self._passes.embeddings:
            extra["TI hashes"] = ", ".join(
                f"{name}: {self._models.embedding_hash(name)}" for name in self._passes.embeddings
            )
        return GenerationResult(
            images=tuple(images),
            request=request,
            seeds=tuple(request.seed_of(i) for i in range(count)),
            subseeds=tuple(request.subseed_of(i) for i in range(count)),
            model_name=model.info.name,
            model_hash=model.info.short_hash or "",
            model_title=model.info.title,
            vae_name=model.vae_name,
            vae_hash=model.vae_hash,
            is_inpainting=model.is_inpainting,
            sampler=self._first.sampler.name,
            scheduler=_schedule_name(self._first.sampler, self._first.scheduler),
            hires_scheduler=_schedule_name(self._hires.sampler, self._hires.scheduler) if self._hires else "",
            steps_done=self._reporter.steps_done,
            interrupted=interrupted,
            comments=tuple(self._models.comments),
            extra=extra,
            timings=self._reporter.timings,
        )


def _schedule_name(sampler: Sampler, scheduler: Scheduler) -> str:
    """As A1111 prints it: a sampler with a schedule of its own names that, others say Automatic."""
    if scheduler.name != "automatic":
        return scheduler.label
    effective = samplers.effective_scheduler(sampler, scheduler)
    return scheduler.label if effective.name == "uniform" else effective.label
