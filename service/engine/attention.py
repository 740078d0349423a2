"""How a loaded model computes: memory layout, attention kernels, compilation."""

from importlib.util import find_spec

import structlog
import torch

from service.core.errors import ModelLoadError
from service.engine.device import Device
from service.engine.families.model import Model
from service.engine.weights import imports
from service.settings import Settings

log = structlog.get_logger(__name__)


def tune(model: Model, device: Device, settings: Settings) -> None:
    """Apply the settings to a model that has just been loaded. Raises :class:`ModelLoadError`."""
    if settings.channels_last:
        for module in (model.network, model.vae):
            module.to(memory_format=torch.channels_last)
    if _wants_xformers(device, settings):
        _enable_xformers(model, settings)
    # Else: diffusers' default attention processor is PyTorch's scaled_dot_product_attention.
    if settings.compile:
        imports.prepare_compilation()
        # In place: parameters keep their names, so that LoRA and switching work as without.
        model.network.compile(mode="default", dynamic=False)


def _enable_xformers(model: Model, settings: Settings) -> None:
    try:
        model.network.enable_xformers_memory_efficient_attention()
    except Exception as error:  # built for another PyTorch or CUDA, it fails in many ways
        if settings.attention == "xformers":
            raise ModelLoadError(
                f"SD_ATTENTION=xformers, but it does not work here ({type(error).__name__}: {error}): install the "
                "build for this PyTorch and CUDA, or set SD_ATTENTION=auto."
            ) from None
        log.warning(
            "xformers is installed but does not work here: using PyTorch's attention", reason=str(error)
        )


def _wants_xformers(device: Device, settings: Settings) -> bool:
    if settings.attention == "sdpa" or not device.is_cuda:
        if settings.attention == "xformers":
            raise ModelLoadError("SD_ATTENTION=xformers needs a CUDA device: set it to auto or sdpa.")
        return False
    if find_spec("xformers") is None:
        if settings.attention == "xformers":
            raise ModelLoadError(
                "SD_ATTENTION=xformers, but xformers is not installed: pip install 'knative-diffusion[gpu]'."
            )
        return False
    return True
