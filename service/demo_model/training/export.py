"""Writing the model's folder: half-precision safetensors and configs that `StableDiffusionPipeline` loads."""

import json
import os
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from . import tokenizer as tokenizers
from .unet import scheduler


def pipeline(
    autoencoder: AutoencoderTiny,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    tokenizer: CLIPTokenizer,
) -> StableDiffusionPipeline:
    """A Stable Diffusion pipeline of the parts, without safety checker."""
    made = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def export(parts: StableDiffusionPipeline, scaling: float, target: Path) -> None:
    """Writes the parts into `target` file by file, each replaced in one go, so a reader never sees half a file."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".writing-") as folder:
        new = Path(folder)
        parts.vae.register_to_config(scaling_factor=scaling)
        floats = (parts.vae, parts.text_encoder, parts.unet)
        try:
            for part in floats:
                part.to(torch.float16)
            parts.save_pretrained(new, safe_serialization=True)
        finally:
            for part in floats:
                part.to(torch.float32)
        # Weights are stored in half precision and computed in single where nobody asks for another.
        _edit(new / "text_encoder/config.json", dtype="float32")
        _edit(new / "vae/config.json", block_out_channels=None)
        tokenizers.save(parts.tokenizer, new / "tokenizer")
        for path in sorted(new.rglob("*")):
            if path.is_file():
                place = target / path.relative_to(new)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.chmod(path, 0o644)
                os.replace(path, place)


def _edit(path: Path, **changes: str | None) -> None:
    """Sets keys of a config file, or removes those whose value is None."""
    config = json.loads(path.read_text())
    config.update(changes)
    kept = {name: value for name, value in config.items() if name not in changes or changes[name] is not None}
    path.write_text(json.dumps(kept, indent=2) + "\n")
