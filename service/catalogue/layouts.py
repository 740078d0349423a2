"""What a checkpoint on disk is, without torch: its parts, its family, the architecture that its files stand for.

A diffusers folder says so itself. A single ``.safetensors`` file in the layout of latent diffusion (SD 1.x, 2.x, SDXL,
its refiner) is told by the names and shapes of its tensors; the architectures are in ``configs``.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from service.catalogue.weights import PICKLES, SUFFIX, TensorEntry, refuse_pickle
from service.core.errors import ModelLoadError

PARTS: Final = ("unet", "vae", "text_encoder", "text_encoder_2")
PIPELINES: Final = "Stable Diffusion 1.x, 2.x or XL"

UNET: Final = "model.diffusion_model."
VAE: Final = "first_stage_model."
_CLIP_SD1: Final = "cond_stage_model.transformer."
_OPEN_CLIP_SD2: Final = "cond_stage_model.model."
_CLIP_XL: Final = "conditioner.embedders.0.transformer."
_OPEN_CLIP_XL: Final = "conditioner.embedders.1.model."
_OPEN_CLIP_REFINER: Final = "conditioner.embedders.0.model."
PREFIXES: Final = (UNET, VAE, "cond_stage_model.", "conditioner.")
"""What of a file is read; the rest (EMA copies, training state) stays on the disk."""

_FIRST: Final = f"{UNET}input_blocks.0.0.weight"


@dataclass(frozen=True, slots=True)
class Layout:
    """What a file holds: its family (a file of ``configs``), the UNet's input channels, and its text encoders.

    ``encoders`` maps a part to the prefix of its tensors and whether they are OpenCLIP's.
    """

    family: str
    in_channels: int
    encoders: Mapping[str, tuple[str, bool]]


_LAYOUTS: Final[tuple[tuple[str, Mapping[str, tuple[str, bool]]], ...]] = (
    ("sdxl", {"text_encoder": (_CLIP_XL, False), "text_encoder_2": (_OPEN_CLIP_XL, True)}),
    ("sdxl_refiner", {"text_encoder_2": (_OPEN_CLIP_REFINER, True)}),
    ("sd2", {"text_encoder": (_OPEN_CLIP_SD2, True)}),
    ("sd1", {"text_encoder": (_CLIP_SD1, False)}),
)

_OTHERS: Final = (
    (r"(^|\.)joint_blocks\.", "Stable Diffusion 3"),
    (r"(^|\.)double_blocks\.", "Flux"),
    (
        r"\.(lora_down|lora_up|lora_A|lora_B|hada_w1_a|lokr_w1)(\.|$)|lora_linear_layer",
        "a LoRA network (loras/)",
    ),
    (r"^(string_to_param|emb_params$|clip_g$)", "a textual inversion (embeddings/)"),
    (r"(^|\.)(zero_convs|input_hint_block|controlnet_cond_embedding|controlnet_blocks)\.", "a ControlNet"),
    (r"motion_modules\.", "a motion module"),
    (r"^(model\.1\.sub\.|conv_first\.|body\.0\.)", "an upscaler (upscalers/)"),
    (r"(^|\.)(layers|blocks|transformer_blocks)\.\d+\.", "a diffusion transformer"),
    (r"^(first_stage_model\.|vae\.)?decoder\.(up|mid|up_blocks|mid_block)\b", "a VAE alone (vae/)"),
    (r"^(down_blocks|up_blocks)\.", "one part of a diffusers folder"),
    (r"text_model\.|transformer\.resblocks\.", "a text encoder alone"),
)
"""What a file seems to be that is no checkpoint of ours; the first that matches."""


def identify(path: Path, entries: Mapping[str, TensorEntry]) -> Layout:
    """What kind of checkpoint a file is. Raises :class:`ModelLoadError` that says what it seems to be instead."""
    if _FIRST not in entries:
        raise ModelLoadError(_is_other(path, entries))
    if "edm_mean" in entries:
        raise ModelLoadError(
            f"{path.name} was trained in the EDM formulation (Playground 2.5), which is not supported: choose "
            "another checkpoint."
        )
    shape = entries[_FIRST].shape
    channels = shape[1] if len(shape) == 4 else 0
    if channels not in (4, 9):
        kind = {8: "InstructPix2Pix", 7: "the x4 upscaler", 5: "a depth-to-image model"}.get(
            channels, "an unknown one"
        )
        raise ModelLoadError(
            f"The UNet of {path.name} takes {channels} channels ({kind}): only 4 (ordinary) and 9 (inpainting) are "
            "supported."
        )
    has = {prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in entries)}
    if VAE not in has:
        raise ModelLoadError(
            f"{path.name} has no VAE (no tensor begins with {VAE!r}): use a complete checkpoint."
        )
    for family, encoders in _LAYOUTS:
        if all(any(name.startswith(prefix) for name in entries) for prefix, _ in encoders.values()):
            return Layout(family, channels, encoders)
    raise ModelLoadError(
        f"{path.name} has a UNet but no text encoder of Stable Diffusion 1.x, 2.x or XL: use a complete checkpoint."
    )


def _is_other(path: Path, entries: Mapping[str, TensorEntry]) -> str:
    for pattern, what in _OTHERS:
        if any(re.search(pattern, name) for name in entries):
            return (
                f"{path.name} seems to be {what}, not a checkpoint: only {PIPELINES} can be served, as a file "
                "with UNet, VAE and text encoder."
            )
    first = next(iter(entries), "none")
    return (
        f"{path.name} is no checkpoint of {PIPELINES}: it has no UNet ({_FIRST!r} is missing among its "
        f"{len(entries)} tensors, the first of which is {first!r})."
    )


def configuration(family: str) -> dict[str, Any]:
    """The architecture of ``family``, to be changed at will."""
    return read_json(Path(__file__).parent / "configs" / f"{family}.json")


def weights_of(folder: Path) -> list[Path]:
    """The safetensors files of one part: all shards, or the one file, the plain name before a variant's."""
    files = sorted(folder.glob(f"*{SUFFIX}"))
    shards = [file for file in files if "-of-" in file.name]
    plain = [file for file in files if file.name.count(".") == 1 and file not in shards]
    if shards and not plain:
        return shards
    if plain or files:
        return [(plain or files)[0]]
    pickles = [file for file in sorted(folder.glob("*")) if file.suffix in PICKLES]
    if pickles:
        refuse_pickle(pickles[0])
    raise ModelLoadError(f"{folder} has no {SUFFIX} file: the checkpoint is incomplete, fetch it again.")


def files_to_read(checkpoint: Path) -> list[Path]:
    """The files that loading a checkpoint reads. Raises :class:`ModelLoadError` where one is missing."""
    if checkpoint.is_file():
        return [checkpoint]
    parts = [checkpoint / part for part in PARTS if (checkpoint / part).is_dir()]
    return [file for part in parts for file in weights_of(part)]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint's folder. Raises :class:`ModelLoadError`."""
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise ModelLoadError(
            f"{path} cannot be read ({error.strerror}): the checkpoint is incomplete."
        ) from None
    except (ValueError, RecursionError):
        raise ModelLoadError(f"{path} is not JSON: fetch the checkpoint again.") from None
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path} is not a JSON object: fetch the checkpoint again.")
    return value
