"""Checkpoints of the usual families for the plan: real headers and configurations, holes for weights."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from service.catalogue.layouts import configuration
from service.engine.weights import loading

CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}


@cache
def shapes(family: str, part: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of one network, at its real size."""
    config: dict[str, Any] = configuration(family)[part]
    module: nn.Module = loading.build(part, CLASSES[part], config)
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def write(folder: Path, family: str) -> Path:
    """A diffusers folder of ``family`` ("sd1", "sd2", "sdxl"): gigabytes by its size, kilobytes on the disk."""
    config = configuration(family)
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline"}
    for part, name in CLASSES.items():
        if part not in config:
            continue
        index[part] = ["diffusers", name]
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config[part]))
        hollow(folder / part / "model.safetensors", shapes(family, part))
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def hollow(path: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of half-precision tensors whose bytes are a hole."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
