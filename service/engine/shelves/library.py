"""The models folder and what of it is in memory: checkpoints within a budget, and the files that go with them."""

import gc
from collections import OrderedDict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, Protocol

import structlog

from service.catalogue.checkpoints import CheckpointCatalogue, hash_store
from service.catalogue.files import look_again
from service.catalogue.layouts import PREFIXES, files_to_read
from service.catalogue.weights import weight_files
from service.core.generation import GenerationRequest
from service.core.records import CheckpointInfo
from service.engine import memory
from service.engine.device import GIB, Device
from service.engine.families.model import Model
from service.engine.headroom import Headroom
from service.engine.shelves.embeddings import EmbeddingShelf
from service.engine.shelves.loras import LoraShelf
from service.engine.shelves.request import RequestModels, Upscale
from service.engine.shelves.upscalers import UpscalerShelf
from service.engine.shelves.vaes import VaeShelf
from service.plan.measures import NONE, Measures
from service.settings import Settings

log = structlog.get_logger(__name__)

FOLDERS: Final = ("checkpoints", "vae", "loras", "embeddings", "upscalers")
"""Of ``SD_MODELS_DIR``."""


class Loader(Protocol):
    """Reads a checkpoint."""

    def __call__(self, info: CheckpointInfo) -> Model:
        """The model of ``info``. Raises ``ModelLoadError``."""


class Library:
    """All that a request may name. To be used in the engine's thread, but for the lists.

    Checkpoints stay loaded as long as the plan leaves them room (or up to ``SD_MODEL_MEMORY_GIB``); the least recently
    used one leaves first. Those of the running request stay.
    """

    def __init__(
        self,
        default: Path,
        settings: Settings,
        device: Device,
        load: Loader,
        on_look_up: Callable[[bool], None] = lambda hit: None,
        headroom: Headroom | None = None,
    ) -> None:
        """``headroom`` has the memory plan; without one there is room for everything.

        ``on_look_up`` is told of each checkpoint that is asked for, whether it was in memory.
        """
        self._settings = settings
        self._on_look_up = on_look_up
        self._device = device
        self._load = load
        self._loaded: OrderedDict[str, tuple[Model, Path]] = OrderedDict()
        self._in_use: set[str] = set()
        self._headroom = headroom
        self.reserved = 0
        """Bytes of the device that the running request needs beside weights."""
        root = settings.models_dir
        look_again()
        folders = {name: root / name if root else None for name in FOLDERS}
        self.catalogue = CheckpointCatalogue(default, settings)
        self.vaes = VaeShelf(folders["vae"], channels_last=settings.channels_last)
        self.loras = LoraShelf(folders["loras"])
        self.embeddings = EmbeddingShelf(folders["embeddings"])
        self.upscalers = UpscalerShelf(folders["upscalers"])

    @property
    def device(self) -> Device:
        """Where everything runs."""
        return self._device

    @property
    def loaded(self) -> list[CheckpointInfo]:
        """The checkpoints in memory, the least recently used one first."""
        return [model.info for model, _ in self._loaded.values()]

    # --- checkpoints ---------------------------------------------------------------------------------

    def get(self, name: str | None) -> Model:
        """The checkpoint of that name (None: the default one), loaded. Raises ``UnknownName``, ``ModelLoadError``."""
        info = self.catalogue.find(name) if name else self.catalogue.default
        key = info.filename
        self._in_use.add(key)
        self._on_look_up(key in self._loaded)
        if key in self._loaded:
            self._loaded.move_to_end(key)
            model = self._loaded[key][0]
            model.info = self.catalogue.known(info)  # its hash may have become known
            return model
        path = Path(key)
        needed = self._headroom.resident(key) if self._headroom else self._weight_bytes(path)
        self._make_room(needed)
        memory.require_room(needed, self._device, info.title)
        model = self._load(info)
        model.info = self.catalogue.known(info)
        self.embeddings.put_on(model, is_default=key == self.catalogue.default.filename)
        self._loaded[key] = model, hash_store(path)
        model.info = self.catalogue.hash_in_the_background(model.info)
        return model

    def _weight_bytes(self, path: Path) -> int:
        if path.is_file():
            return memory.weight_bytes([path], self._device.dtype, lambda name: name.startswith(PREFIXES))
        return memory.weight_bytes(files_to_read(path), self._device.dtype)

    def _make_room(self, needed: int) -> None:
        """Let checkpoints go until ``needed`` bytes fit into the budget and onto the device, as far as that goes."""
        asked = self._settings.model_memory_gib
        while idle := [key for key in self._loaded if key not in self._in_use]:
            resident = sum(model.resident_bytes for model, _ in self._loaded.values())
            within = asked is None or resident + needed <= asked * GIB
            if within and memory.has_room(needed + self.reserved, self._device):
                return
            self._drop(idle[0])

    def _drop(self, key: str) -> None:
        model, _ = self._loaded.pop(key)
        log.info("checkpoint unloaded", model=model.info.title)
        del model
        gc.collect()
        self._device.free_memory()

    def make_room(self, wanted: Collection[str], reserved: int) -> None:
        """Before a request on the checkpoints ``wanted`` that needs ``reserved`` bytes beside weights."""
        self.reserved = reserved
        self._in_use = set(wanted)
        self._make_room(0)

    @property
    def resident_bytes(self) -> int:
        """Bytes of all that is loaded."""
        models = sum(model.resident_bytes for model, _ in self._loaded.values())
        return models + self.vaes.resident_bytes + self.upscalers.resident_bytes

    def sleep(self) -> bool:
        """Have all weights leave the GPU for main memory; False where there is no room for them."""
        models = [model for model, _ in self._loaded.values()]
        free = memory.free_main_memory()
        if free is not None and sum(model.resident_bytes for model in models) + GIB > free:
            return False
        for model in models:
            if model.residence is not None:
                model.residence.sleep()
        self.vaes.clear()
        self.upscalers.clear()
        gc.collect()
        self._device.free_memory()
        return True

    def unload(self) -> None:
        """Give back the memory of everything; the next request loads what it needs."""
        self._loaded.clear()
        self.vaes.clear()
        self.upscalers.clear()
        gc.collect()
        self._device.free_memory()

    def refresh(self) -> None:
        """Look at the models folder again. Loaded checkpoints whose files changed are dropped, others stay."""
        look_again()
        self.catalogue.refresh()
        for shelf in (self.vaes, self.loras, self.embeddings, self.upscalers):
            shelf.refresh()
        offered = {info.filename for info in self.catalogue.all()}
        for key, (model, stamp) in list(self._loaded.items()):
            if key not in offered or not _exists(key) or hash_store(Path(key)) != stamp:
                self._drop(key)
            else:
                self.embeddings.put_on(model, is_default=key == self.catalogue.default.filename)

    def request(
        self, request: GenerationRequest | None, upscale: Upscale, measures: Measures = NONE
    ) -> RequestModels:
        """The library as one request sees it, its models under ``measures``."""
        self._in_use.clear()
        return RequestModels(self, request, upscale, measures)


def _exists(path: str) -> bool:
    return bool(weight_files(Path(path))) and all(file.exists() for file in weight_files(Path(path)))
