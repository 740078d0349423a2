"""Captions for /interrogate: a BLIP model (Li et al. 2022, arXiv:2201.12086) from a folder that the operator names.

Loaded when it is first asked for, through transformers; kept afterwards, on the engine's device.
"""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from service.core.errors import ModelLoadError
from service.core.pixels import Pixels
from service.engine.device import Device

MOST_TOKENS = 48
"""As A1111's option ``interrogate_clip_max_length``."""


class Captioner:
    """A captioning model in ``folder`` (transformers' layout, safetensors). Raises :class:`ModelLoadError`."""

    def __init__(self, folder: Path, device: Device) -> None:
        if not (folder / "config.json").is_file():
            raise ModelLoadError(
                f"SD_CAPTIONER is {folder}, which has no config.json: name the folder of a BLIP captioning model."
            )
        # Only here: most services never caption, and the import takes a second.
        from transformers import BlipForConditionalGeneration, BlipProcessor

        self._device = device
        try:
            self._processor: Any = BlipProcessor.from_pretrained(folder, local_files_only=True)
            model: Any = BlipForConditionalGeneration.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=device.dtype
            )
        except Exception as error:  # transformers raises of many kinds
            raise ModelLoadError(
                f"The captioning model in {folder} cannot be loaded ({type(error).__name__}: {error})."
            ) from None
        self._model = model.to(device.torch_device).eval()

    def caption(self, pixels: Pixels) -> str:
        """One line about what can be seen (uint8 RGB, height × width × 3)."""
        inputs = self._processor(images=Image.fromarray(pixels), return_tensors="pt")
        tensor = inputs["pixel_values"].to(self._device.torch_device, self._device.dtype)
        with torch.inference_mode():
            ids = self._model.generate(pixel_values=tensor, max_new_tokens=MOST_TOKENS)
        return str(self._processor.decode(ids[0], skip_special_tokens=True)).strip()
