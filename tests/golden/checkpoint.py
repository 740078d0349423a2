"""The checkpoint that the golden pictures were made with, worked out from seeds: nothing of anybody's training.

It has the layout of SD 1.x's single files (``layout.json``: names and shapes) with a UNet of 64 channels, not 320, and
a VAE of 32, not 128; the text encoder has its full size. Every number follows from its tensor's name and a seed, so
that the files are the same, byte for byte, wherever they are made. ``golden-b`` has other weights but golden's VAE.
"""

import json
import re
import shutil
import zlib
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

_HERE: Final = Path(__file__).parent
_LAYOUT: Final[dict[str, dict[str, list[int]]]] = json.loads((_HERE / "layout.json").read_text())
_VAE: Final = "first_stage_model."
_NORM: Final = r"(norm\w*|in_layers\.0|out_layers\.0|model\.out\.0)\."

_RULES: Final[tuple[tuple[str, float | str | list[float], float | list[float]], ...]] = (
    (r"final_layer_norm\.weight", 0.2, 1.0),
    (r"final_layer_norm\.bias", 0.2, -0.12),  # emphasis divides by the mean: it is kept off 0
    (_NORM + "weight", 0.05, 1.0),
    (_NORM + "bias", 0.05, 0.0),
    (r"text_model\.embeddings", 0.02, 0.0),
    (r"text_model.*\.bias", 0.01, 0.0),
    (r"text_model.*fc1", "0.70710678", 0.0),
    (r"text_model.*out_proj", "1.0", 0.0),
    (r"text_model", 0.00737, 0.0),
    (r"diffusion_model\.out\.2\.weight", "1.68", 0.0),
    (r"diffusion_model.*(\.out\.2|out_layers\.3|proj_out)\.bias", 0.0, 0.0),
    (r"diffusion_model.*(out_layers\.3|proj_out)\.weight", "0.7", 0.0),
    (r"attn2\.to_(q|k|out\.0)\.weight", "1.1547005", 0.0),  # makes the prompt matter
    (r"first_stage_model\.quant_conv\.weight", [4.0] * 4 + [0.02] * 4, 0.0),
    (r"first_stage_model\.quant_conv\.bias", [1.6] * 4 + [0.0] * 4, [0.0] * 4 + [-12.0] * 4),
    (r"decoder\.conv_out\.weight", "0.69282032", 0.0),
    (r"", "0.57735027", 0.0),
)
"""The first pattern found in a tensor's name gives its standard deviation and mean. A number is taken as it is, a text
is a factor for fan_in ** -0.5, a list has one value per output row."""


def write(folder: Path) -> None:
    """Checkpoints (with their configuration beside them), LoRA and embedding where ``SD_MODELS_DIR`` has them."""
    for name in ("checkpoints", "loras", "embeddings"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("golden", "golden-b")):
        _save(folder / f"checkpoints/{name}.safetensors", _checkpoint(seed), {"format": "pt"})
        shutil.copy(_HERE / "golden.yaml", folder / f"checkpoints/{name}.yaml")
    told = {"ss_network_module": "networks.lora", "ss_output_name": "testlora"}
    _save(folder / "loras/testlora.safetensors", _lora(), told)
    vectors = _draw("testemb", [3, 768], 0.03).astype(np.float32)
    _save(folder / "embeddings/testemb.safetensors", {"emb_params": vectors}, {"format": "pt"})


def _draw(name: str, shape: list[int], deviation: Any, mean: Any = 0.0, seed: int = 0) -> Array:
    """Normal numbers of a stream that belongs to this name."""
    stream = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode()) + (seed << 32)))
    deviation, mean = (
        np.asarray(v, np.float32).reshape((-1,) + (1,) * (len(shape) - 1)) for v in (deviation, mean)
    )
    return np.asarray(stream.standard_normal(shape, np.float32) * deviation + mean, np.float16)


def _checkpoint(seed: int) -> dict[str, Array]:
    beta = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    tensors: dict[str, Array] = {"alphas_cumprod": np.cumprod(1 - beta).astype(np.float32)}
    shapes = _LAYOUT["checkpoint"]
    for name, shape in shapes.items():
        deviation, mean = next((s, m) for pattern, s, m in _RULES if re.search(pattern, name))
        if isinstance(deviation, str):
            fan_in = np.prod(shapes[re.sub("bias$", "weight", name)][1:])
            deviation = float(deviation) * float(fan_in) ** -0.5
        tensors[name] = _draw(name, shape, deviation, mean, 0 if name.startswith(_VAE) else seed)
    return tensors


def _lora() -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    for name, shape in _LAYOUT["lora"].items():
        if name.endswith(".alpha"):
            tensors[name] = np.array(2.0, np.float16)
            continue
        scale = 0.5 if "lora_te" in name else 0.3 if "resnets" in name or "upsamplers" in name else 1.0
        tensors[name] = _draw(name, shape, scale * (0.5 if "lora_up" in name else shape[1] ** -0.5))
    return tensors


def _save(path: Path, tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path, metadata)
