"""The names of the latent-diffusion (LDM) layout, in which single-file checkpoints are written.

Stable Diffusion was first published as one file whose tensors are named for the modules of its training code
(https://github.com/CompVis/latent-diffusion and https://github.com/Stability-AI/generative-models). diffusers
cuts the same networks into other modules. The maps below give the LDM name of each of its modules; they follow from
the configuration alone, so that tensors can be renamed one by one while they are read.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from torch import Tensor, nn

_RESNET: Final = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS: Final = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION: Final = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OPEN_CLIP: Final = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def unet_name(name: str, config: Mapping[str, Any]) -> str:
    """The LDM name of ``name``, a module or tensor of a ``UNet2DConditionModel`` of ``config``.

    >>> unet_name("down_blocks.1.attentions.0.proj_in.weight", {"layers_per_block": 2})
    'input_blocks.4.1.proj_in.weight'
    """
    for ours, theirs in _UNET_ENDS.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    layers = int(config["layers_per_block"])
    kind, *path = name.split(".")
    match kind, path:
        case "down_blocks", [block, "resnets", layer, *rest]:
            return f"input_blocks.{int(block) * (layers + 1) + int(layer) + 1}.0.{_inner(rest)}"
        case "down_blocks", [block, "attentions", layer, *rest]:
            return f"input_blocks.{int(block) * (layers + 1) + int(layer) + 1}.1.{'.'.join(rest)}"
        case "down_blocks", [block, "downsamplers", "0", "conv", *rest]:
            return ".".join([f"input_blocks.{(int(block) + 1) * (layers + 1)}.0.op", *rest])
        case "mid_block", ["resnets", layer, *rest]:
            return f"middle_block.{2 * int(layer)}.{_inner(rest)}"
        case "mid_block", ["attentions", "0", *rest]:
            return f"middle_block.1.{'.'.join(rest)}"
        case "up_blocks", [block, "resnets", layer, *rest]:
            return f"output_blocks.{int(block) * (layers + 1) + int(layer)}.0.{_inner(rest)}"
        case "up_blocks", [block, "attentions", layer, *rest]:
            return f"output_blocks.{int(block) * (layers + 1) + int(layer)}.1.{'.'.join(rest)}"
        case "up_blocks", [block, "upsamplers", "0", "conv", *rest]:
            # Behind the attention, where the block has one.
            place = 2 if "CrossAttn" in config["up_block_types"][int(block)] else 1
            return ".".join([f"output_blocks.{int(block) * (layers + 1) + layers}.{place}.conv", *rest])
    return name


def vae_name(name: str, config: Mapping[str, Any]) -> str:
    """The LDM name of ``name``, a module or tensor of an ``AutoencoderKL`` of ``config``."""
    half, *path = name.split(".")
    match path:
        case ["down_blocks", block, "resnets", layer, *rest]:
            changed = f"down.{block}.block.{layer}.{'.'.join(rest)}"
        case ["down_blocks", block, "downsamplers", "0", *rest]:
            changed = f"down.{block}.downsample.{'.'.join(rest)}"
        case ["mid_block", "resnets", layer, *rest]:
            changed = f"mid.block_{int(layer) + 1}.{'.'.join(rest)}"
        case ["mid_block", "attentions", "0", *rest]:
            changed = f"mid.attn_1.{_replaced('.'.join(rest), _VAE_ATTENTION)}"
        case ["up_blocks", block, "resnets", layer, *rest]:
            changed = f"up.{len(config['up_block_types']) - 1 - int(block)}.block.{layer}.{'.'.join(rest)}"
        case ["up_blocks", block, "upsamplers", "0", *rest]:
            changed = f"up.{len(config['up_block_types']) - 1 - int(block)}.upsample.{'.'.join(rest)}"
        case ["conv_norm_out", *rest]:
            changed = ".".join(["norm_out", *rest])
        case _:
            return name
    return f"{half}.{changed.replace('conv_shortcut', 'nin_shortcut')}"


def renamed(
    tensors: Iterable[tuple[str, Tensor]], prefix: str, module: nn.Module
) -> Iterator[tuple[str, Tensor]]:
    """``tensors`` in the LDM layout, ``prefix`` before their names, as those of the diffusers ``module``.

    Tensors under ``prefix`` that the module does not have keep their LDM name, for the loader to complain about.
    """
    config: Mapping[str, Any] = getattr(module, "config", {})
    name_of = vae_name if hasattr(module, "decoder") else unet_name
    targets = {name_of(name, config): (name, value.shape) for name, value in module.state_dict().items()}
    for name, tensor in tensors:
        inner = name.removeprefix(prefix)
        found, shape = targets.get(inner, (inner, tensor.shape))
        # The VAE's attention was written with 1×1 convolutions, and SD 1.x' projections still are.
        yield found, tensor.reshape(shape) if _is_pointwise(tensor.shape, shape) else tensor


def renamed_clip(tensors: Iterable[tuple[str, Tensor]], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the CLIP text encoder of SD 1.x and SDXL: transformers' names behind ``prefix``."""
    for name, tensor in tensors:
        yield name.removeprefix(prefix).removeprefix("text_model."), tensor


def renamed_open_clip(
    tensors: Iterable[tuple[str, Tensor]], prefix: str, layers: int
) -> Iterator[tuple[str, Tensor]]:
    """Tensors of an OpenCLIP text encoder as those of transformers' CLIP with its first ``layers`` layers.

    Query, key and value are one matrix in OpenCLIP, and its text projection is transposed.
    """
    for name, tensor in tensors:
        inner = name.removeprefix(prefix)
        if inner.startswith("transformer.resblocks."):
            number, _, rest = inner.removeprefix("transformer.resblocks.").partition(".")
            if int(number) >= layers:
                continue  # SD 2.x stops before the last one
            base = f"encoder.layers.{number}."
            if rest.startswith("attn.in_proj_"):
                kind = rest.removeprefix("attn.in_proj_")
                for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                    yield f"{base}self_attn.{part}_proj.{kind}", piece
            else:
                inverse = {theirs: ours for ours, theirs in _OPEN_CLIP.items()}
                yield base + _replaced(rest, inverse), tensor
        elif inner == "text_projection":
            yield "text_projection.weight", tensor.T.contiguous()
        elif inner == "positional_embedding":
            yield "embeddings.position_embedding.weight", tensor
        elif inner == "token_embedding.weight":
            yield "embeddings.token_embedding.weight", tensor
        elif inner.startswith("ln_final."):
            yield f"final_layer_norm.{inner.removeprefix('ln_final.')}", tensor
        elif inner != "logit_scale":
            yield inner, tensor


def _inner(rest: list[str]) -> str:
    return ".".join([_RESNET.get(rest[0], rest[0]), *rest[1:]])


def _replaced(name: str, names: Mapping[str, str]) -> str:
    """``name`` with the one of ``names`` that it begins with exchanged."""
    for old, new in names.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name


def _is_pointwise(shape: Iterable[int], wanted: Iterable[int]) -> bool:
    """True if the shapes differ in sides of length 1 at their ends only."""
    first, second = list(shape), list(wanted)
    short, long = sorted((first, second), key=len)
    return len(short) == 2 and long[:2] == short and len(long) > 2 and all(side == 1 for side in long[2:])
