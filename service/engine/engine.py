"""The diffusers engine: loads checkpoints, makes images, and turns torch's failures into this service's errors."""

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
import torch

from service.backends.engine import News
from service.catalogue.catalogue import Catalogue
from service.catalogue.checkpoints import locate
from service.core.cancel import CancelToken
from service.core.errors import BadRequest, ModelError, ModelLoadError, OutOfMemory, ServiceError
from service.core.events import ProgressSink
from service.core.generation import GenerationRequest, GenerationResult
from service.core.jobs import Enlargement
from service.core.pixels import Pixels
from service.core.records import (
    CheckpointInfo,
    DeviceInfo,
)
from service.engine import attention, device, measures
from service.engine.captioner import Captioner
from service.engine.conditioning import EncodingCache
from service.engine.families.model import Model
from service.engine.families.protocol import TextOptions
from service.engine.generation.generation import Generation
from service.engine.headroom import Headroom
from service.engine.shelves.library import Library
from service.engine.weights import loading, single_file
from service.engine.weights.ahead import ReadAhead
from service.engine.weights.tensors import read_tensors
from service.plan.measures import in_order
from service.plan.report import line
from service.settings import Settings

log = structlog.get_logger(__name__)

T = TypeVar("T")


class DiffusersEngine:
    """See :class:`service.backends.engine.Engine`. All methods run in one thread, the engine's."""

    def __init__(
        self,
        settings: Settings,
        on_cache: Callable[[str, bool], None] | None = None,
        ahead: ReadAhead | None = None,
    ) -> None:
        """``on_cache(cache, hit)`` is told of each look-up (``cache`` of ``metrics.CACHES``).

        ``ahead`` is reading the default checkpoint since before this module was imported; see :mod:`start`.
        """
        self._settings = settings
        self._device: device.Device | None = None
        self._library: Library | None = None
        self._captioner: Captioner | None = None
        self._ahead = ahead
        self._headroom: Headroom | None = None
        self._on_cache = on_cache or (lambda cache, hit: None)
        self.conditioning_cache = EncodingCache()
        self.conditioning_cache.on_hit = partial(self._on_cache, "conditioning", True)
        self.conditioning_cache.on_miss = partial(self._on_cache, "conditioning", False)

    # --- life ----------------------------------------------------------------------------------------

    def load(self, on_news: News) -> None:
        """Read the default checkpoint and make the warm-up image."""
        began = time.perf_counter()
        self._device = device.choose(self._settings)
        path = locate(self._settings)
        on_news(f"Reading {path.name}.")
        self._headroom = Headroom(self._device, self._settings)
        self._library = Library(
            path,
            self._settings,
            self._device,
            self._load,
            partial(self._on_cache, "checkpoint"),
            self._headroom,
        )
        try:
            self._plan(self._library, self._headroom)
            model = self._library.get(None)
        finally:
            if self._ahead is not None:
                self._ahead.close()
                self._ahead = None
        self._headroom.settle(self._library.resident_bytes)
        read = time.perf_counter()
        on_news("Making the warm-up image.", part="weights", seconds=read - began)
        self._warm_up(model)
        on_news("Ready.", part="warm_up", seconds=time.perf_counter() - read)

    def _plan(self, library: Library, headroom: Headroom) -> None:
        """Make the plan before any weight is read, and what has to be made in an empty device."""
        default = library.catalogue.default
        plan = headroom.at_load(default.filename, default.title)
        assert self._device is not None
        device.settle(self._device, plan.measures)
        library.reserved = plan.activations if plan.fits else 0

    def _warm_up(self, model: Model) -> None:
        """One image: kernels are chosen, memory is reserved, and a broken checkpoint shows itself."""
        side, steps = self._settings.warmup_size, self._settings.warmup_steps
        if steps is None:
            steps = 2 if self._require().device.is_cuda else 0
        if not side:
            side = min(model.native_size, self._settings.max_side) if steps else 0
        side = max(64, side // 8 * 8)
        try:
            image = self._image(side, steps) if steps else self._image_of_noise(model, side)
        except OutOfMemory as error:
            raise ModelLoadError(
                f"The checkpoint was read, but there is no memory left to make an image of {side}×{side}: "
                f"{error.detail} Or give this pod a larger GPU slice, or set SD_WARMUP_SIZE."
            ) from None
        except ModelLoadError:
            raise
        except ServiceError as error:
            raise type(error)(f"The warm-up image failed: {error.detail}") from error
        if float(image.std()) == 0.0:
            log.warning(
                "the warm-up image has one colour only: the checkpoint may be broken", model=model.info.title
            )

    def _image(self, side: int, steps: int) -> Pixels:
        request = GenerationRequest(
            prompt="warm-up", negative_prompt="", guidance_scale=7.0, steps=steps, width=side, height=side
        )
        return self.generate(request, CancelToken(), lambda progress: None).images[0]

    def _image_of_noise(self, model: Model, side: int) -> Pixels:
        """What the VAE makes of noise, after the text encoders ran: all but the network that takes the time.

        That is looked at only: a checkpoint that makes black pictures is told of, as after a whole image.
        """
        if (part := model.broken_part()) is not None:
            log.warning(
                "the checkpoint is broken: it holds what is no number", part=part, model=model.info.title
            )

        def work() -> Pixels:
            model.condition(["warm-up"], [""], TextOptions(steps=1), lambda: None)
            noise = torch.randn(
                (1, *model.latent_shape(side, side)), generator=torch.Generator().manual_seed(0)
            )
            return model.decode(noise.to(model.device), side, side)[0]

        return self._guarded(work, f"An image of {side}×{side}")

    # --- images --------------------------------------------------------------------------------------

    def generate(
        self, request: GenerationRequest, token: CancelToken, sink: ProgressSink
    ) -> GenerationResult:
        """Make the images of ``request``."""
        count = request.batch_size
        what = f"{request.width}×{request.height}" + (f" × {count}" if count > 1 else "")
        if request.hires is not None:
            what += f", then {request.hires.width}×{request.hires.height}"

        library, headroom = self._require(), self._headroom
        assert headroom is not None
        token.raise_if_cancelled()
        paths = self._paths(request)
        beside = self._vae_bytes(request, paths[0])
        with headroom.admitted(request, paths, beside, lambda: library.resident_bytes) as plan:
            if plan.measures - headroom.always:
                names = [str(measure) for measure in in_order(plan.measures)]
                log.info("measures for one request", size=what, measures=names)

            def work() -> GenerationResult:
                library.make_room(paths, plan.activations)
                with (
                    headroom.measured(plan),
                    library.request(request, self._enlarge, plan.measures) as models,
                ):
                    return Generation(request, models, token, sink).run()

            return self._guarded(work, f"An image of {what}")

    def _paths(self, request: GenerationRequest) -> list[str]:
        """The checkpoints that a request uses, its own first. Raises ``UnknownName``."""
        catalogue = self._require().catalogue
        hires = request.hires and request.hires.checkpoint
        own = catalogue.find(request.checkpoint) if request.checkpoint else catalogue.default
        return [own.filename, *(catalogue.find(n).filename for n in (hires, request.refiner_checkpoint) if n)]

    def _vae_bytes(self, request: GenerationRequest, path: str) -> int:
        """Bytes of a VAE that the request wants beside the checkpoint's own."""
        if self._device is None or self._headroom is None or request.vae is None:
            return 0
        return self._headroom.architecture(path).size(["vae"], self._device.dtype.itemsize)

    def check(self, request: GenerationRequest) -> None:
        """Raise ``OutOfMemory`` if the plan says that the images of ``request`` cannot be made here."""
        if self._headroom is None or self._library is None:
            return
        paths = self._paths(request)
        # Headers that were not read yet are not read here, on the event loop: the engine's thread will.
        if all(self._headroom.knows(path) for path in paths):
            self._headroom.check(request, paths, self._vae_bytes(request, paths[0]))

    def upscale(self, image: Pixels, to: Enlargement, token: CancelToken) -> Pixels:
        """Enlarge one image to exactly that size."""
        if self._headroom is not None:
            self._headroom.check_upscale(to.width, to.height)
        return self._guarded(lambda: self._enlarge(image, to, token), f"Enlarging to {to.width}×{to.height}")

    def caption(self, image: Pixels) -> str:
        """A line about what can be seen on ``image``."""
        folder, chosen = self._settings.captioner, self._device
        if folder is None or chosen is None:
            raise BadRequest(
                "No captioning model is configured: set SD_CAPTIONER to the folder of a BLIP model, or ask a "
                "captioning service of its own."
            )

        def work() -> str:
            if self._captioner is None:
                self._captioner = Captioner(folder, chosen)
            return self._captioner.caption(image)

        return self._guarded(work, "A caption")

    def _enlarge(self, image: Pixels, to: Enlargement, token: CancelToken) -> Pixels:
        token.raise_if_cancelled()
        library = self._require()
        return library.upscalers.enlarge(image, to, library.device, token.raise_if_cancelled)

    def _guarded(self, work: Callable[[], T], what: str) -> T:
        """Run ``work``; after a failure free what it left behind, so that the next request finds a clean device."""
        failure: ServiceError
        try:
            with torch.inference_mode():
                return work()
        except Exception as error:
            explained = device.explain(error, self._device, what)
            if explained is None:
                log.exception("the model failed")
                explained = ModelError(f"The model failed: {type(error).__name__}: {error}")
            failure = explained
            # The traceback holds the frames, and the frames hold the tensors.
            error.__traceback__ = None
            del error
        if isinstance(failure, OutOfMemory | ModelError):
            gc.collect()
            if self._device is not None:
                self._device.free_memory()
        raise failure

    # --- checkpoints ---------------------------------------------------------------------------------

    def _require(self) -> Library:
        if self._library is None:
            raise ModelLoadError("The model has not been loaded.")
        return self._library

    def get(self, name: str | None = None) -> Model:
        """The checkpoint of that name (None: the default one), loaded. Raises ``UnknownName``, ``ModelLoadError``."""
        return self._require().get(name)

    def _load(self, info: CheckpointInfo) -> Model:
        chosen, headroom = self._device, self._headroom
        assert chosen is not None
        assert headroom is not None
        path = Path(info.filename)
        load = loading.load_folder if path.is_dir() else single_file.load_file

        def work() -> Model:
            first = chosen
            if headroom.loads_in_main_memory:
                first = replace(chosen, torch_device=torch.device("cpu"))
            with headroom.loading():
                model = load(path, info, first, self.conditioning_cache, self._ahead or read_tensors)
            attention.tune(model, chosen, self._settings)
            measures.settle(model, chosen.torch_device, chosen.dtype, headroom.always, self._settings)
            return model

        try:
            return self._guarded(work, f"Checkpoint {info.title}")
        except OutOfMemory as error:
            raise ModelLoadError(
                f"{error.detail} Give this pod more memory, or choose a smaller checkpoint."
            ) from None
        except ModelLoadError:
            raise
        except ModelError as error:
            raise ModelLoadError(f"Checkpoint {info.title} cannot be loaded. {error.detail}") from None

    def load_checkpoint(self, name: str) -> CheckpointInfo:
        """Have that checkpoint in memory. Raises ``UnknownName`` and ``ModelLoadError``."""
        with self._require().request(None, self._enlarge) as models:
            return models.get(name).info

    def unload(self) -> None:
        """Give back the memory of all checkpoints; the next request loads what it needs."""
        self.conditioning_cache.clear()
        library = self._require()
        library.unload()
        if self._headroom is not None:
            self._headroom.settle(library.resident_bytes)

    def sleep(self) -> str:
        """Have the weights leave the GPU; where they are then: "memory", or "disk" if main memory has no room."""
        library = self._require()
        self.conditioning_cache.clear()
        if library.device.is_cuda and library.sleep():
            return "memory"
        if library.device.is_cuda:
            self.unload()
            return "disk"
        return "memory"

    def refresh(self) -> None:
        """Look at the models folder again: checkpoints, VAEs, LoRAs, embeddings and upscalers."""
        self._require().refresh()
        if self._headroom is not None:
            self._headroom.forget()

    # --- what there is -------------------------------------------------------------------------------

    def catalogue(self) -> Catalogue:
        """All that a request may name, and the device."""
        library = self._require()
        return Catalogue(
            tuple(library.catalogue.all()),
            tuple(library.vaes.all()),
            tuple(library.loras.all()),
            tuple(library.embeddings.all()),
            tuple(library.upscalers.all()),
            self._device_info(library.device),
        )

    def _device_info(self, chosen: device.Device) -> DeviceInfo:
        plan = self._headroom.plan if self._headroom else None
        return DeviceInfo(
            chosen.torch_device.type,
            chosen.dtype_name,
            chosen.memory_limit,
            "" if plan is None else line(plan),
            () if plan is None else tuple(str(measure) for measure in in_order(plan.measures)),
        )

    def device_memory(self) -> dict[str, int]:
        """Bytes by kind: the device's (none on a CPU), and the memory plan's."""
        own = self._device.memory() if self._device else {}
        return own | (self._headroom.numbers() if self._headroom else {})
