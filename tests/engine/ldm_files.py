"""Checkpoints in the layout of latent diffusion, made small from random weights for each run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.catalogue.layouts import UNET, VAE, Layout, configuration, identify
from service.catalogue.weights import TensorEntry, read_header
from service.core.records import CheckpointInfo
from service.engine.conditioning import EncodingCache
from service.engine.device import Device
from service.engine.families.stable_diffusion import StableDiffusion
from service.engine.weights import ldm, loading
from service.engine.weights.single_file import load

CPU = Device(torch.device("cpu"), torch.float32, 0)
INFO = CheckpointInfo("tiny.safetensors [0123456789]", "tiny", "tiny.safetensors", "0123456789" + "0" * 54)


def tiny(family: str, channels: int = 4) -> dict[str, Any]:
    """The configuration of ``family`` with the same blocks, but few channels and layers."""
    config = configuration(family)
    unet, vae = config["unet"], config["vae"]
    count = len(unet["block_out_channels"])
    heads = unet["attention_head_dim"]
    unet |= {
        "in_channels": channels,
        "block_out_channels": [32, 32, 64, 64][:count],
        "attention_head_dim": [2, 2, 4, 4][:count] if isinstance(heads, list) else 2,
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
        "sample_size": 16,
        "layers_per_block": 2,
    }
    vae |= {"block_out_channels": [16, 16, 32, 32], "norm_num_groups": 8, "sample_size": 64}
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3}
    for part in ("text_encoder", "text_encoder_2"):
        if part in config:
            config[part] |= small | {"projection_dim": 24 if part == "text_encoder_2" else 32}
    if family.startswith("sdxl"):
        both = "text_encoder" in config
        unet |= {
            "cross_attention_dim": 64 if both else 32,
            "transformer_layers_per_block": [1, 1, 2, 2][:count],
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 24 + 8 * (6 if both else 5),
        }
    return config


def networks(config: Mapping[str, Any], *, seed: int = 0) -> dict[str, nn.Module]:
    """diffusers' networks of ``config`` with random weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    made: dict[str, nn.Module] = {
        "unet": UNet2DConditionModel.from_config(config["unet"]),
        "vae": AutoencoderKL.from_config(config["vae"]),
    }
    if "text_encoder" in config:
        made["text_encoder"] = CLIPTextModel(CLIPTextConfig(**config["text_encoder"]))
    if "text_encoder_2" in config:
        made["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**config["text_encoder_2"]))
    return {name: module.eval() for name, module in made.items()}


def ldm_tensors(parts: Mapping[str, nn.Module], layout: Layout) -> dict[str, Tensor]:
    """The weights of ``parts`` as a single file names them."""
    unet: Any = parts["unet"]
    vae: Any = parts["vae"]
    tensors = {UNET + ldm.unet_name(n, unet.config): t for n, t in unet.state_dict().items()}
    for name, tensor in vae.state_dict().items():
        pointwise = "attentions" in name and tensor.ndim == 2
        tensors[VAE + ldm.vae_name(name, vae.config)] = tensor[:, :, None, None] if pointwise else tensor
    for part, (prefix, is_open_clip) in layout.encoders.items():
        states = {n.removeprefix("text_model."): t for n, t in parts[part].state_dict().items()}
        if is_open_clip:
            tensors |= {prefix + name: tensor for name, tensor in _open_clip(states).items()}
        else:
            tensors |= {f"{prefix}text_model.{name}": tensor for name, tensor in states.items()}
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def _open_clip(states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    tensors = {"logit_scale": torch.tensor(4.6)}
    for name, tensor in states.items():
        if name in plain:
            tensors[plain[name]] = tensor
        elif name == "text_projection.weight":
            tensors["text_projection"] = tensor.T
        elif name.startswith("encoder.layers."):
            _, _, number, inner = name.split(".", 3)
            base = f"transformer.resblocks.{number}."
            for ours, theirs in ldm._OPEN_CLIP.items():
                inner = inner.replace(ours, theirs)
            if "q_proj" in inner:
                parts = [states[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
                tensors[f"{base}attn.in_proj_{inner.rsplit('.', 1)[1]}"] = torch.cat(parts)
            elif "k_proj" not in inner and "v_proj" not in inner:
                tensors[base + inner] = tensor
    return tensors


LAYOUTS = {
    "sd1": {"text_encoder": ("cond_stage_model.transformer.", False)},
    "sd2": {"text_encoder": ("cond_stage_model.model.", True)},
    "sdxl": {
        "text_encoder": ("conditioner.embedders.0.transformer.", False),
        "text_encoder_2": ("conditioner.embedders.1.model.", True),
    },
    "sdxl_refiner": {"text_encoder_2": ("conditioner.embedders.0.model.", True)},
}


def layout_of(family: str, channels: int = 4) -> Layout:
    """The layout of ``family``."""
    return Layout(family, channels, LAYOUTS[family])


def write_checkpoint(
    path: Path,
    family: str,
    channels: int = 4,
    *,
    seed: int = 0,
    metadata: dict[str, str] | None = None,
    extra: Mapping[str, Tensor] | None = None,
) -> dict[str, nn.Module]:
    """A whole tiny checkpoint at ``path``; returns the networks that are in it."""
    parts = networks(tiny(family, channels), seed=seed)
    save_file(ldm_tensors(parts, layout_of(family, channels)) | dict(extra or {}), path, metadata)
    return parts


def load_tiny(path: Path, channels: int = 4, info: CheckpointInfo = INFO) -> StableDiffusion:
    """Load a checkpoint of :func:`write_checkpoint`."""
    layout = identify(path, read_header(path)[0])
    return load(path, info, CPU, EncodingCache(), layout, tiny(layout.family, layout.in_channels))


def header_only(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, TensorEntry]:
    """The header of a file with float16 tensors of ``shapes``; the bytes are a hole."""
    header, position = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(torch.Size(shape).numel())
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)
    return read_header(path)[0]


def meta(part: str, config: Mapping[str, Any]) -> nn.Module:
    """A network of the real size without memory."""
    names = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
    return loading.build(part, names.get(part, "CLIPTextModelWithProjection"), dict(config[part]))
