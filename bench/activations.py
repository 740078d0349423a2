"""What networks really take while they run: by the allocator's own count, and by tensors without memory.

:func:`counted` runs a network and adds up what PyTorch's CPU allocator reports to its profiler: every block, kernels'
scratch tensors included. :func:`traced` runs it on fake tensors, which have shapes and lifetimes but neither memory
nor numbers: any size of network, in seconds. The two agree where both can be had; the plan is held against either.
"""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from service.engine.weights import loading
from service.plan.networks.autoencoder import latent_factor

Run = Callable[[], Any]
Make = Callable[[], Run]


def counted(run: Run) -> int:
    """Bytes that ``run`` takes at most beyond what was there, by the CPU allocator's events."""
    with torch.inference_mode(), profile(use_kineto=True, profile_memory=True) as record:
        result = run()
    del result
    alive = peak = 0
    events = [event for event in record.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


class _Lifetimes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operators make, until their last tensor goes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = 0
        self._known: dict[int, Any] = {}
        self._given: dict[int, torch.Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(
                leaf, torch.Tensor
            ):  # weights and inputs: there before, and views of them are no memory
                self._give(leaf)
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        return out

    def _give(self, tensor: torch.Tensor) -> None:
        key = tensor.untyped_storage()._cdata
        if key not in self._known:
            self._given.setdefault(key, tensor)

    def _see(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in self._given:
            return

        def gone(_: Any) -> None:
            self.alive -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)
        self.alive += size
        self.peak = max(self.peak, self.alive)


def traced(make: Make) -> int:
    """Bytes that a run takes at most. ``make`` builds network and inputs, and returns what runs the one on the other.

    Both happen on fake tensors; what ``make`` made is not counted.
    """
    with FakeTensorMode(), torch.no_grad():
        run = make()
        with _Lifetimes() as seen:
            result = run()
        del result
    return int(seen.peak)


def dressed(module: torch.nn.Module, dtype: torch.dtype, *, channels_last: bool = True) -> torch.nn.Module:
    """``module`` with parameters of ``dtype`` in the layout that the service gives them; small random values."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is None:
                continue
            made = torch.empty(parameter.shape, dtype=dtype).normal_(std=0.02)
            if made.dim() == 4 and channels_last:
                made = made.to(memory_format=torch.channels_last)
            part._parameters[name] = torch.nn.Parameter(made, requires_grad=False)
    return module.eval()


def unet(
    config: Mapping[str, Any], rows: int, height: int, width: int, dtype: torch.dtype, **options: Any
) -> Make:
    """A UNet and its inputs: ``rows`` latents of ``height`` × ``width`` cells. ``options`` as :func:`dressed`'s."""

    def make() -> Run:
        module = dressed(loading.build("unet", "UNet2DConditionModel", dict(config)), dtype, **options)
        return step(module, rows, height, width)

    return make


def step(module: Any, rows: int, height: int, width: int) -> Run:
    """One call of the UNet ``module`` for ``rows`` latents of ``height`` × ``width`` cells."""
    config, dtype = module.config, module.dtype
    latent = torch.zeros(rows, config["in_channels"], height, width, dtype=dtype)
    states = torch.zeros(rows, 77, config["cross_attention_dim"], dtype=dtype)
    time = torch.tensor(5.0)
    added = None
    if config.get("addition_embed_type") == "text_time":
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        added = {
            "text_embeds": torch.zeros(rows, pooled, dtype=dtype),
            "time_ids": torch.zeros(rows, 6, dtype=dtype),
        }
    return lambda: module(
        latent, time, encoder_hidden_states=states, added_cond_kwargs=added, return_dict=False
    )[0]


def vae(config: Mapping[str, Any], height: int, width: int, dtype: torch.dtype, *, encode: bool) -> Make:
    """An autoencoder and a picture of ``height`` × ``width`` pixels to encode, or the latent of one to decode."""

    def make() -> Run:
        kind = "AutoencoderTiny" if "decoder_block_out_channels" in config else "AutoencoderKL"
        module: Any = dressed(loading.build("vae", kind, dict(config)), dtype)
        return translate(module, height, width, encode=encode)

    return make


def translate(module: Any, height: int, width: int, *, encode: bool) -> Run:
    """The autoencoder ``module`` on a picture of ``height`` × ``width`` pixels, or on the latent of one."""
    config, dtype = module.config, module.dtype
    factor = latent_factor(config)
    if encode:
        picture = torch.zeros(1, 3, height, width)
        return lambda: module.encode(picture.to(dtype))
    latent = torch.zeros(1, config["latent_channels"], height // factor, width // factor, dtype=dtype)
    return lambda: module.decode(latent, return_dict=False)[0]
