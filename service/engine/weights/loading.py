"""From a checkpoint on disk to a :class:`StableDiffusion`: diffusers folders, and single files through ``single_file``.

The networks are built without memory for their parameters and filled tensor by tensor (see ``tensors``), so that
loading takes hardly more memory than what stays. Whatever is wrong with a checkpoint ends in one sentence.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from service.catalogue.layouts import PARTS, PIPELINES, read_json, weights_of
from service.catalogue.weights import INDEX
from service.core.errors import ModelLoadError
from service.core.records import CheckpointInfo
from service.engine.conditioning import Conditioner, EncodingCache
from service.engine.device import Device
from service.engine.families.stable_diffusion import Refiner, StableDiffusion, StableDiffusionXL
from service.engine.samplers.schedules import training_sigmas, zero_terminal_snr
from service.engine.weights.imports import (
    AutoencoderKL,
    AutoencoderTiny,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    UNet2DConditionModel,
)
from service.engine.weights.tensors import Reader, fill, read_tensors, without_memory

_DIFFUSERS: Final[dict[str, Any]] = {
    "UNet2DConditionModel": UNet2DConditionModel,
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderTiny": AutoencoderTiny,
}
_TRANSFORMERS: Final[dict[str, Any]] = {
    "CLIPTextModel": CLIPTextModel,
    "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
}


def load_folder(
    folder: Path, info: CheckpointInfo, device: Device, cache: EncodingCache, read: Reader = read_tensors
) -> StableDiffusion:
    """The checkpoint in a diffusers folder. Raises :class:`ModelLoadError`."""
    index = read_json(folder / INDEX)
    names = {part: value[1] for part, value in index.items() if isinstance(value, list) and len(value) == 2}
    if names.get("unet") not in _DIFFUSERS or names.get("vae") not in _DIFFUSERS:
        raise ModelLoadError(
            f"{folder} holds a {index.get('_class_name', 'pipeline of unknown class')}, but only {PIPELINES} can be "
            "served: choose another checkpoint."
        )
    modules: dict[str, nn.Module] = {}
    for part in PARTS:
        if names.get(part) is not None:
            module = build(part, names[part], read_json(folder / part / "config.json"))
            fill(module, tensors_of(folder / part, device, read), f"{part} in {folder.name}")
            modules[part] = module
    tokenizers = {
        name: CLIPTokenizer.from_pretrained(folder / name, local_files_only=True)
        for name in ("tokenizer", "tokenizer_2")
        if names.get(name) is not None
    }
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    return assemble(
        modules, tokenizers, scheduler, info, device, cache,
        takes_aesthetic_score=bool(index.get("requires_aesthetics_score", False)),
    )  # fmt: skip


def build(part: str, class_name: str, config: dict[str, Any]) -> nn.Module:
    """A network of diffusers or transformers without memory for its parameters (its buffers are real)."""
    try:
        with without_memory():
            if class_name in _DIFFUSERS:
                module: nn.Module = _DIFFUSERS[class_name].from_config(config)
            elif class_name in _TRANSFORMERS:
                module = _TRANSFORMERS[class_name](CLIPTextConfig(**config))
            else:
                raise ModelLoadError(f"The {part} is a {class_name}, which none of {PIPELINES} uses.")
    except (TypeError, ValueError, KeyError) as error:
        raise ModelLoadError(f"The configuration of the {part} cannot be used: {error}.") from None
    return module.eval()


def assemble(
    modules: dict[str, nn.Module],
    tokenizers: dict[str, Any],
    scheduler: dict[str, Any],
    info: CheckpointInfo,
    device: Device,
    cache: EncodingCache,
    *,
    takes_aesthetic_score: bool = False,
) -> StableDiffusion:
    """Put filled networks together as a model on ``device``."""
    parts = _Parts(
        text_encoder=modules.get("text_encoder"),
        text_encoder_2=modules.get("text_encoder_2"),
        tokenizer=tokenizers.get("tokenizer"),
        tokenizer_2=tokenizers.get("tokenizer_2"),
    )
    for module in modules.values():
        module.requires_grad_(False)
        module.to(device.torch_device)
    conditioner = Conditioner.of_pipeline(parts, key=info.title, cache=cache, device=device.torch_device)
    family = StableDiffusionXL if "text_encoder_2" in modules else StableDiffusion
    return (Refiner if takes_aesthetic_score else family)(
        info=info,
        unet=modules["unet"],
        vae=modules["vae"],
        conditioner=conditioner,
        sigmas=training_sigmas(_alphas_cumprod(scheduler)),
        prediction=scheduler.get("prediction_type", "epsilon"),
        modules=modules,
    )


class _Parts:
    """The attributes that ``Conditioner.of_pipeline`` reads of a pipeline."""

    def __init__(self, text_encoder: Any, text_encoder_2: Any, tokenizer: Any, tokenizer_2: Any) -> None:
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.tokenizer_2 = tokenizer_2
        if text_encoder_2 is not None:
            self.text_encoder_2 = text_encoder_2


def _alphas_cumprod(config: dict[str, Any]) -> Tensor:
    """The cumulative products of 1 - beta that a diffusers scheduler's configuration means (float64 for accuracy)."""
    count = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 0.00085)), float(config.get("beta_end", 0.012))
    match config.get("beta_schedule", "scaled_linear"):
        case "scaled_linear":
            betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64) ** 2
        case "linear":
            betas = torch.linspace(start, end, count, dtype=torch.float64)
        case other:
            raise ModelLoadError(
                f"The checkpoint's beta schedule {other!r} is not supported (scaled_linear, linear)."
            )
    alphas = (1 - betas).cumprod(0)
    return zero_terminal_snr(alphas) if config.get("rescale_betas_zero_snr") else alphas


def tensors_of(folder: Path, device: Device, read: Reader = read_tensors) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one part of a checkpoint, on the device and in its precision."""
    for file in weights_of(folder):
        yield from read(file, device)
