"""The measures of the plan, carried out on networks: each is put on, and taken off without a trace.

No model's code knows of them: a VAE's tiles are diffusers' own, the UNet is called through a wrapper, and
:class:`Residence` moves whole networks between their calls.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from service.plan.measures import Measure, Measures
from service.plan.stages import OVERLAP, SLICE, TILES
from service.settings import Settings


def put_on(stack: ExitStack, unet: Any, vae: Any, measures: Measures) -> None:
    """Carry out what acts on the networks' calls until ``stack`` is closed."""
    if Measure.GUIDANCE_IN_TURNS in measures:
        _replace_forward(stack, unet, _rows_in_turns)
    if Measure.ATTENTION_SLICING in measures:
        _slice(stack, unet)
    for measure, side in TILES.items():
        if measure in measures:
            _tile(stack, vae, side)


def store_in_8_bits(unet: Any, compute: torch.dtype) -> None:
    """Keep the UNet's weights in float8 (e4m3) and cast each layer to ``compute`` while it runs; for good."""
    unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=compute)


def _replace_forward(
    stack: ExitStack, module: nn.Module, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = wrap(module.forward)

    def undo() -> None:
        if before is None:
            module.__dict__.pop("forward", None)
        else:
            module.__dict__["forward"] = before

    stack.callback(undo)


# --- rows in turns -----------------------------------------------------------------------------------


def _rows_in_turns(forward: Callable[..., Any]) -> Callable[..., Any]:
    """One row of the batch after the other: prompt and negative prompt of each image by themselves."""

    def in_turns(sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        rows = len(sample)
        if rows == 1:
            return forward(sample, *args, **kwargs)
        made: Tensor | None = None
        for row in range(rows):
            each = forward(
                sample[row : row + 1],
                *_row_of(args, row, rows),
                **_row_of(kwargs, row, rows) | {"return_dict": False},
            )[0]
            if made is None:
                made = torch.empty((rows, *each.shape[1:]), dtype=each.dtype, device=each.device)
            made[row] = each[0]
        return (made,)

    return in_turns


def _row_of(value: Any, row: int, rows: int) -> Any:
    """The part of an argument that belongs to one row."""
    match value:
        case Tensor():
            return value[row : row + 1] if value.dim() and len(value) == rows else value
        case list() | tuple():
            return type(value)(_row_of(each, row, rows) for each in value)
        case dict():
            return {name: _row_of(each, row, rows) for name, each in value.items()}
        case _:
            return value


# --- slices of attention and feed-forward layers -------------------------------------------------------


class _SlicedQueries:
    """An attention processor of diffusers: keys and values of all tokens, queries a slice at a time."""

    def __init__(self) -> None:
        # Late: importing diffusers before ``weights.imports`` would import all of it.
        from diffusers.models.attention_processor import AttnProcessor2_0

        self._plain = AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Attention of ``hidden_states`` (rows, tokens, width)."""
        simple = (
            attention_mask is None and hidden_states.dim() == 3 and attn.group_norm is None
            and not attn.residual_connection and not attn.norm_cross and attn.spatial_norm is None
            and attn.norm_q is None
        )  # fmt: skip
        rows, tokens = hidden_states.shape[:2]
        step = max(1, SLICE // rows)
        if not simple or tokens <= step:
            return torch.as_tensor(
                self._plain(attn, hidden_states, encoder_hidden_states, attention_mask, **options)
            )
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        def heads(x: Tensor) -> Tensor:
            return x.view(rows, x.shape[1], attn.heads, -1).transpose(1, 2)

        key, value = heads(attn.to_k(context)), heads(attn.to_v(context))
        out = torch.empty_like(hidden_states)
        for start in range(0, tokens, step):
            query = heads(attn.to_q(hidden_states[:, start : start + step]))
            h = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
            h = attn.to_out[1](attn.to_out[0](h))
            out[:, start : start + step] = h / attn.rescale_output_factor
        return out


def _slice(stack: ExitStack, unet: Any) -> None:
    before = dict(unet.attn_processors)
    unet.set_attn_processor(_SlicedQueries())
    stack.callback(lambda: unet.set_attn_processor(before))
    for module in unet.modules():
        if type(module).__name__ == "FeedForward":
            _replace_forward(stack, module, _in_slices)


def _in_slices(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def sliced(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows, tokens = hidden_states.shape[:2]
        step = max(1, SLICE // rows)
        if tokens <= step:
            return forward(hidden_states, *args, **kwargs)
        out = torch.empty_like(hidden_states)
        for start in range(0, tokens, step):
            out[:, start : start + step] = forward(hidden_states[:, start : start + step], *args, **kwargs)
        return out

    return sliced


# --- tiles of the VAE --------------------------------------------------------------------------------


def _tile(stack: ExitStack, vae: Any, side: int) -> None:
    config = vae.config
    blocks = getattr(config, "decoder_block_out_channels", None) or config.block_out_channels
    factor = 2 ** (len(blocks) - 1)
    wanted: dict[str, Any] = {
        "use_tiling": True,
        "tile_sample_min_size": side,
        "tile_latent_min_size": side // factor,
        "tile_overlap_factor": OVERLAP,
    }
    if hasattr(vae, "spatial_scale_factor"):  # of AutoencoderTiny, which takes it from the number of colours
        wanted["spatial_scale_factor"] = factor
    for name, value in wanted.items():
        stack.callback(setattr, vae, name, getattr(vae, name))
        setattr(vae, name, value)


# --- which networks are on the device ------------------------------------------------------------------


def settle(
    model: Any, device: torch.device, compute: torch.dtype, measures: Measures, settings: Settings
) -> None:
    """A model that was just read: its weights in 8 bits where that is wanted, and each network where it belongs."""
    if Measure.FP8_WEIGHTS in measures:
        store_in_8_bits(model.network, compute)
    if device.type == "cpu":
        return  # there is nowhere else to be
    model.conditioner.encoders = tuple(replace(each, device=device) for each in model.conditioner.encoders)
    model.residence = Residence(model.modules, device, hooked=not settings.compile)


def rule(measures: Measures) -> str:
    """The rule of :class:`Residence` under these measures."""
    if Measure.MODEL_OFFLOAD in measures:
        return "turns"
    return "text" if Measure.TEXT_OFFLOAD in measures else "all"


TEXT: Final = ("text_encoder", "text_encoder_2")
NETWORK: Final = ("unet",)
VAE: Final = ("vae",)


class Residence:
    """Which networks of a model are on its device; the others wait in main memory, pinned where that speeds copies.

    ``rule`` is what :meth:`use` does with those that are not needed: nothing, the text encoders off ("text"), or
    all off ("turns"). Weights that were changed in place (LoRA) move as they are.
    """

    def __init__(self, modules: dict[str, nn.Module], device: torch.device, *, hooked: bool = True) -> None:
        """``hooked``: each network but the VAE has itself brought to the device when it is called."""
        self._modules = modules
        self.device = device
        self._homes: dict[str, list[Tensor]] = {}
        self._off = {
            name
            for name, module in modules.items()
            if any(tensor.device.type != device.type for tensor in module.parameters())
        }
        self.rule = "all"
        for name, module in modules.items():
            if hooked and name not in VAE:
                group = TEXT if name in TEXT else (name,)
                module.register_forward_pre_hook(lambda module, given, group=group: self.use(group))

    @property
    def asleep(self) -> bool:
        """True if no network is on the device."""
        return self._off >= set(self._modules)

    def use(self, names: Iterable[str]) -> None:
        """Have ``names`` on the device now, and the others where the rule wants them."""
        wanted = set(names)
        for name in self._modules:
            away = name not in wanted and (self.rule == "turns" or (self.rule == "text" and name in TEXT))
            if away:
                self._move_off(name)
        for name in self._modules:
            if name in wanted or self.rule == "all" or (self.rule == "text" and name not in TEXT):
                self._move_on(name)

    def wake(self) -> None:
        """On the device what the rule wants there before anything is used."""
        if self.rule != "turns":
            self.use(() if self.rule == "text" else tuple(self._modules))

    def sleep(self) -> None:
        """Everything off the device."""
        for name in self._modules:
            self._move_off(name)

    def _tensors(self, name: str) -> list[Tensor]:
        module = self._modules[name]
        return [*module.parameters(), *module.buffers()]

    def _move_off(self, name: str) -> None:
        if name in self._off:
            return
        tensors = self._tensors(name)
        homes = self._homes.get(name)
        if homes is None:
            pinned = self.device.type == "cuda"
            homes = self._homes[name] = [
                torch.empty_like(tensor, device="cpu", pin_memory=pinned) for tensor in tensors
            ]
        for tensor, home in zip(tensors, homes, strict=True):
            home.copy_(tensor.data, non_blocking=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        for tensor, home in zip(tensors, homes, strict=True):
            tensor.data = home
        self._off.add(name)

    def _move_on(self, name: str) -> None:
        if name not in self._off:
            return
        for tensor in self._tensors(name):
            # A copy even where the device is a CPU: the home stays what it was.
            tensor.data = tensor.data.to(self.device, non_blocking=True, copy=True)
        self._off.discard(name)
