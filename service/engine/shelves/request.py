"""The models of one request as it wants them: with its VAE, its networks, tileable or not; and as before afterwards."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from torch import nn

from service.core.cancel import CancelToken
from service.core.generation import GenerationRequest
from service.core.jobs import Enlargement
from service.core.pixels import Pixels
from service.engine import measures, memory
from service.engine.families.model import Model
from service.engine.samplers.schedules import bent_table
from service.engine.shelves.loras import Networks
from service.plan.measures import NONE, Measures
from service.prompt import NetworkTag

if TYPE_CHECKING:
    from service.engine.shelves.library import Library

Upscale: TypeAlias = Callable[[Pixels, Enlargement, CancelToken], Pixels]


class RequestModels:
    """The one owner of what a request changes on models that outlive it; ``__exit__`` undoes all of it.

    See :class:`service.engine.generation.passes.Models` for what a generation asks of it.
    """

    def __init__(
        self,
        library: "Library",
        request: GenerationRequest | None,
        upscale: Upscale,
        measures: Measures = NONE,
    ) -> None:
        """``request`` None: models are only loaded. ``measures`` are in force on each until ``__exit__``."""
        self._library = library
        self._vae = request.vae if request else None
        self._tiling = bool(request and request.tiling)
        self._shape = request.shape if request else None
        self._upscale = upscale
        self._networks: dict[str, Networks] = {}
        self._padded: list[tuple[nn.Conv2d, Any]] = []
        self._hashes: dict[str, str] = {}
        self._comments: dict[str, None] = {}
        self._measures = measures
        self._measured = ExitStack()
        self._under_measures: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Undo everything, whatever happened."""
        self._measured.close()
        while self._networks:
            self._networks.popitem()[1].take_off()
        while self._padded:
            convolution, mode = self._padded.pop()
            convolution.padding_mode = mode

    def get(self, name: str | None, networks: Sequence[NetworkTag] = ()) -> Model:
        """A checkpoint by name, None for the default one, with ``networks`` on it in place of those it had."""
        model = self._library.vaes.put_in(self._library.get(name), self._vae, self._library.device)
        self._save(model)
        self._dress(model, tuple(networks))
        if self._shape is not None:
            model = replace(model, sigmas=bent_table(model.sigmas, self._shape))
        if self._tiling:
            self._make_seamless(model)
        return model

    def _save(self, model: Model) -> None:
        """Carry out the measures on a model that has just been asked for."""
        key = model.info.filename
        if key in self._under_measures:
            return
        self._under_measures.add(key)
        if model.residence is not None:
            model.residence.rule = measures.rule(self._measures)
            model.residence.wake()
        measures.put_on(self._measured, model.network, model.vae, self._measures)

    def _dress(self, model: Model, tags: tuple[NetworkTag, ...]) -> None:
        key = model.info.filename
        on = self._networks.get(key)
        if tags == (on.tags if on else ()):
            return
        if on is not None:
            del self._networks[key]
            on.take_off()
        if tags:
            free = memory.free_bytes(self._library.device) or 0
            wanted = Networks(self._library.loras, model, tags, max(0, free - self._library.reserved))
            self._networks[key] = wanted
            wanted.put_on()
            self._comments |= dict.fromkeys(wanted.comments)
            self._hashes |= wanted.hashes

    def _make_seamless(self, model: Model) -> None:
        """Let convolutions wrap around the edges: the picture can be laid side by side with itself."""
        for part in ("unet", "vae"):
            for module in model.modules[part].modules() if part in model.modules else ():
                if isinstance(module, nn.Conv2d) and module.padding_mode != "circular":
                    self._padded.append((module, module.padding_mode))
                    module.padding_mode = "circular"

    @property
    def comments(self) -> Sequence[str]:
        """Sentences for the client, of networks that could not be used."""
        return tuple(self._comments)

    @property
    def network_hashes(self) -> str:
        """The networks that were used, for the infotext; "" for none."""
        return ", ".join(f"{name}: {digits}" for name, digits in self._hashes.items())

    def upscale(self, image: Pixels, to: Enlargement, token: CancelToken) -> Pixels:
        """Enlarge an image."""
        return self._upscale(image, to, token)

    def embedding_hash(self, name: str) -> str:
        """What the infotext tells of a textual inversion that a prompt used."""
        return self._library.embeddings.hash_of(name)
