"""The classes of diffusers and transformers that serving needs, imported without what it does not need.

A plain import of these seven classes costs more processor time than importing torch does, nearly all of it for things
that no request ever uses: peft and scipy's statistics, every other architecture of diffusers, distributed
tensors, torch's compiler. Each cold start would pay for it. So while the two libraries are imported

* optional packages look as if they were not installed (both libraries work without them),
* the packages that only collect architectures are empty shells in which the wanted submodules are found, and
  transformers lists two families of its models, not hundreds,
* ``torch._dynamo`` is a stand-in whose decorators hand back what they decorate, remembering it for
  :func:`prepare_compilation`,
* transformers sees a torch without ``torch.distributed``.

Afterwards everything is put back: whatever is imported later is imported whole. If a new version of a library does not
get along with this, it is imported plainly: slower, and otherwise the same. ``python -m bench.imports`` shows what this
is worth.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import structlog
import torch

log = structlog.get_logger(__name__)

_OWN: Final = ("diffusers", "transformers")
_HIDDEN: Final = frozenset({"accelerate", "peft", "scipy"})
"""Packages that both libraries import where they find them and that serving does without."""

_SHELLS: Final = (
    "diffusers.models.autoencoders", "diffusers.models.transformers", "diffusers.models.unets", "transformers.models",
)  # fmt: skip
_NAMED: Final = ("auto", "clip")
"""Families of transformers' models whose classes are asked for by ``from transformers import …`` meanwhile."""

_COMPILER: Final = "torch._dynamo"

whole_because: str | None = None
"""Why the two libraries were imported plainly; None as long as the trimmed import works, which a test demands."""

_marked: list[tuple[str, Any]] = []
"""What was decorated by the stand-in for ``torch._dynamo``: the decorator's name and the object."""


def _classes() -> tuple[Any, ...]:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    return (
        AutoencoderKL, AutoencoderTiny, UNet2DConditionModel,
        CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer,
    )  # fmt: skip


def _import() -> tuple[Any, ...]:
    if _is_imported(*_OWN):
        return _classes()
    try:
        with _trimmed():
            return _classes()
    except Exception as error:
        global whole_because
        whole_because = f"{type(error).__name__}: {error}"
        log.warning(
            "importing diffusers and transformers whole: a cold start takes longer", reason=whole_because
        )
    for name in [name for name in sys.modules if name.partition(".")[0] in _OWN]:
        del sys.modules[name]
    _marked.clear()
    return _classes()


def _is_imported(*names: str) -> bool:
    return any(name in sys.modules for name in names)


@contextmanager
def _trimmed() -> Iterator[None]:
    """While this lasts, importing the two libraries brings in what is needed and little else."""
    with ExitStack() as stack:
        # A package that somebody has imported already costs nothing and may be seen.
        hidden = {name for name in _HIDDEN if name not in sys.modules}
        find_spec = importlib.util.find_spec

        def find(name: str, package: str | None = None) -> ModuleSpec | None:
            return None if name.partition(".")[0] in hidden else find_spec(name, package)

        stack.enter_context(_replaced(importlib.util, "find_spec", find))
        # Reads the file list of every installed distribution; the libraries ask it about optional packages alone.
        stack.enter_context(_replaced(importlib.metadata, "packages_distributions", dict))
        if _COMPILER not in sys.modules:
            stack.enter_context(_compiler_stand_in())
        with _shell("transformers") as shell:
            shell.__dict__["__version__"] = importlib.metadata.version("transformers")
            utils = importlib.import_module("transformers.utils")
            finder = importlib.import_module("transformers.utils.import_utils")
        # It reads the source of every model that there is for a list of what each offers.
        list_models = finder.define_import_structure
        structure = partial(_structure_of_needed, list_models)
        stack.enter_context(_replaced(finder, "define_import_structure", structure))
        # With the short list in it, it is not what others expect: who imports it next gets it whole.
        stack.callback(sys.modules.pop, "transformers", None)
        for module in (utils, finder):
            stack.enter_context(_replaced(module, "is_torch_distributed_available", _no))
        for name in _SHELLS:
            stack.enter_context(_shell(name))
        yield


def _structure_of_needed(list_models: Callable[..., Any], folder: Path, prefix: str | None = None) -> Any:
    """transformers' list of its models, of those alone that the two libraries name while they are imported."""
    if prefix != "models":  # one family's own
        return list_models(folder, prefix=prefix)
    found: dict[Any, dict[str, Any]] = {frozenset(): {}}
    for name in _NAMED:
        for needs, modules in list_models(folder / name, prefix=f"{prefix}.{name}").items():
            found.setdefault(needs, {}).update(modules)
    return found


def _no() -> bool:
    return False


@contextmanager
def _replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


@contextmanager
def _shell(name: str) -> Iterator[ModuleType]:
    """A package of that name in which submodules are found, but whose own code has not run."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"{name} is no package")
    shell = ModuleType(name)
    shell.__path__ = list(spec.submodule_search_locations)
    shell.__spec__ = spec
    sys.modules[name] = shell
    try:
        yield shell
    finally:
        if sys.modules.get(name) is shell:
            del sys.modules[name]


@contextmanager
def _compiler_stand_in() -> Iterator[None]:
    """A ``torch._dynamo`` that marks nothing: importing the real one imports sympy, and half of torch besides."""
    stand_in = ModuleType(_COMPILER)
    stand_in.__path__ = []
    stand_in.__getattr__ = _decorator  # type: ignore[method-assign]
    wrapped = ModuleType(f"{_COMPILER}._trace_wrapped_higher_order_op")
    wrapped.TransformGetItemToIndex = _transform_get_item_to_index  # type: ignore[attr-defined]
    modules = {_COMPILER: stand_in, wrapped.__name__: wrapped}
    sys.modules.update(modules)
    before = torch.__dict__.get("_dynamo")
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)
        # `import torch._dynamo` finds the stand-in without binding it, but be sure: torch loads the real one when it
        # is asked for an attribute that it does not have.
        if before is None:
            torch.__dict__.pop("_dynamo", None)


def _decorator(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(name)

    def decorate(target: Any = None, *options: Any, **named: Any) -> Any:
        if target is None:
            return decorate
        _marked.append((name, target))
        return target

    return decorate


def _transform_get_item_to_index() -> Any:
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    return TransformGetItemToIndex()


def prepare_compilation() -> None:
    """Tell torch's compiler what the two libraries would have told it; to be called before ``compile``."""
    while _marked:
        name, target = _marked.pop()
        # Those two mark an object in place; the others wrap functions that serving never calls.
        if name in ("allow_in_graph", "assume_constant_result"):
            getattr(importlib.import_module(_COMPILER), name)(target)


(
    AutoencoderKL, AutoencoderTiny, UNet2DConditionModel,
    CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer,
) = _import()  # fmt: skip
