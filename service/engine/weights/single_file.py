"""Checkpoints in one ``.safetensors`` file, in the layout of latent diffusion: SD 1.x, 2.x, SDXL and its refiner.

Nothing is fetched: what the file is follows from the names and shapes of its tensors (``service.catalogue.layouts``),
the tokenizer's vocabulary is in ``clip_vocabulary``.

SD 2.x was published in two kinds that have the same tensors: "base" predicts the noise, "768-v" the velocity. Which
one it is, is read from a configuration beside the file (``<name>.yaml``, A1111's way), the file's own metadata
(``modelspec.prediction_type``) or its marker tensor ``v_pred``; and if all are silent, from what the UNet does (see
:func:`predicts_noise`). Other families predict the noise unless one of the three says otherwise.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from service.catalogue import sidecar
from service.catalogue.layouts import UNET, VAE, Layout, configuration, identify
from service.catalogue.weights import TensorEntry, read_header
from service.core.records import CheckpointInfo
from service.engine.conditioning import EncodingCache
from service.engine.device import MAIN_MEMORY, Device
from service.engine.families.stable_diffusion import Prediction, StableDiffusion
from service.engine.samplers.schedules import training_sigmas, zero_terminal_snr
from service.engine.weights import ldm, loading
from service.engine.weights.clip_vocabulary import END, clip_tokenizer
from service.engine.weights.tensors import Reader, fill, read_tensors


def load_file(
    path: Path, info: CheckpointInfo, device: Device, cache: EncodingCache, read: Reader = read_tensors
) -> StableDiffusion:
    """The checkpoint in the file ``path``. Raises :class:`ModelLoadError`."""
    entries, metadata = read_header(path)
    layout = identify(path, entries)
    config = configuration(layout.family)
    config["unet"]["in_channels"] = layout.in_channels
    said = stated_prediction(entries, metadata)
    config["scheduler"]["prediction_type"] = said or "epsilon"
    config["scheduler"]["rescale_betas_zero_snr"] = "ztsnr" in entries
    if (beside := sidecar.read(path)) is not None:
        sidecar.apply(beside, config, path.name)
        said = config["scheduler"]["prediction_type"]
    model = load(path, info, device, cache, layout, config, read)
    if (alphas := _alphas_cumprod(path, entries)) is not None:
        model.sigmas = training_sigmas(alphas)
    if said is None and layout.family == "sd2":
        model.prediction = "epsilon" if predicts_noise(model) else "v_prediction"
    if layout.family == "sd2" and model.prediction == "v_prediction":
        model.unet.register_to_config(sample_size=96)  # trained at 768 pixels
    return model


def _alphas_cumprod(path: Path, entries: Mapping[str, TensorEntry]) -> Tensor | None:
    """The noise schedule that the file itself holds, if it does (SD 1.x and 2.x)."""
    name = "alphas_cumprod"
    if name not in entries or len(entries[name].shape) != 1:
        return None
    [(_, alphas)] = read_tensors(path, MAIN_MEMORY, lambda each: each == name)
    return zero_terminal_snr(alphas) if "ztsnr" in entries else alphas


def load(
    path: Path,
    info: CheckpointInfo,
    device: Device,
    cache: EncodingCache,
    layout: Layout,
    config: Mapping[str, Any],
    read: Reader = read_tensors,
) -> StableDiffusion:
    """The checkpoint in ``path`` with the given layout and configuration."""

    def tensors(prefix: str) -> Iterator[tuple[str, Tensor]]:
        return read(path, device, lambda name: name.startswith(prefix))

    modules: dict[str, nn.Module] = {}
    for part, class_name in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL")):
        prefix = UNET if part == "unet" else VAE
        modules[part] = loading.build(part, class_name, dict(config[part]))
        fill(modules[part], ldm.renamed(tensors(prefix), prefix, modules[part]), f"{part} in {path.name}")
    for part, (prefix, is_open_clip) in layout.encoders.items():
        pools = part == "text_encoder_2"
        class_name = "CLIPTextModelWithProjection" if pools else "CLIPTextModel"
        module = loading.build(part, class_name, dict(config[part]))
        if is_open_clip:
            layers = int(config[part]["num_hidden_layers"])
            renamed = ldm.renamed_open_clip(tensors(prefix), prefix, layers)
        else:
            renamed = ldm.renamed_clip(tensors(prefix), prefix)
        # SD 2.x carries a projection that nothing reads.
        fill(
            module,
            (t for t in renamed if pools or t[0] != "text_projection.weight"),
            f"{part} in {path.name}",
        )
        modules[part] = module
    tokenizers = {
        part.replace("text_encoder", "tokenizer"): clip_tokenizer("!" if is_open_clip else END)
        for part, (_, is_open_clip) in layout.encoders.items()
    }
    return loading.assemble(
        modules, tokenizers, dict(config["scheduler"]), info, device, cache,
        takes_aesthetic_score=layout.family == "sdxl_refiner",
    )  # fmt: skip


def stated_prediction(entries: Mapping[str, TensorEntry], metadata: Mapping[str, str]) -> Prediction | None:
    """What the UNet predicts, if the file says so: its metadata, its tensors."""
    if "v_pred" in entries:
        return "v_prediction"
    said = str(metadata.get("modelspec.prediction_type", "")).lower()
    if said.startswith("v"):
        return "v_prediction"
    return "epsilon" if said.startswith("eps") else None


def predicts_noise(model: StableDiffusion) -> bool:
    """True if the UNet answers pure noise with that noise, False if with a velocity.

    At the last timestep its input is noise but for a few percent, so that a model trained to predict the noise
    returns what it was given; a velocity is there the negative of the image, which has nothing to do with it.
    """
    parameter = next(model.unet.parameters())
    generator = torch.Generator().manual_seed(0)
    side = 32
    noise = torch.randn(1, model.latent_channels, side, side, generator=generator)
    rows = torch.zeros(1, int(model.unet.config.in_channels), side, side)
    rows[:, : model.latent_channels] = noise
    states = torch.zeros(1, 77, int(model.unet.config.cross_attention_dim))
    with torch.inference_mode():
        out = model.unet(
            rows.to(parameter),
            torch.tensor(len(model.sigmas) - 1, device=parameter.device),
            encoder_hidden_states=states.to(parameter),
            return_dict=False,
        )[0]
    answer = out.float().cpu().flatten()
    # How much of the noise is in the answer: 1 for a predicted noise, 0.07 for a velocity.
    return float(answer @ noise.flatten() / noise.flatten().square().sum()) > 0.5
