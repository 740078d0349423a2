"""Between pixels and latents: the VAE both ways, sizes that its factor does not divide, and cheap previews."""

from typing import Final

import numpy as np
import torch
from torch import Tensor

from service.core.pixels import Pixels
from service.engine.families.model import Model

PREVIEW_SIDE: Final = 128
"""A latent cell is one pixel of a preview; smaller pictures than this are enlarged."""


def latent_size(model: Model, width: int, height: int) -> tuple[int, int]:
    """(width, height) of the latent of an image; sizes that the factor does not divide are rounded up."""
    factor = model.latent_factor
    return -(-width // factor), -(-height // factor)


def to_tensor(pixels: Pixels, device: torch.device, dtype: torch.dtype) -> Tensor:
    """RGB uint8 (height, width, 3) as (1, 3, height, width) in -1..1."""
    tensor = torch.from_numpy(np.array(pixels)).to(device)  # a copy: callers' arrays may be read-only
    return (tensor.to(dtype).permute(2, 0, 1)[None] / 127.5) - 1.0


def to_pixels(images: Tensor) -> list[Pixels]:
    """(n, 3, height, width) in -1..1 as RGB uint8 arrays of shape (height, width, 3)."""
    scaled = ((images.float().clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8)
    return list(scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy())


def encode(model: Model, images: Tensor, generators: list[torch.Generator] | None = None) -> Tensor:
    """The latents (float32, scaled to unit variance) of images (n, 3, height, width) in -1..1.

    Sides are extended evenly by their edge pixels to what the factor divides (:func:`decode` cuts the
    middle). With ``generators`` a KL autoencoder's
    distribution is sampled, one generator an image; without, its mean is taken.
    """
    factor, config = model.latent_factor, model.vae.config
    height, width = images.shape[-2:]
    more_x, more_y = -width % factor, -height % factor
    pad = (more_x // 2, more_x - more_x // 2, more_y // 2, more_y - more_y // 2)
    if any(pad):
        images = torch.nn.functional.pad(images, pad, mode="replicate")
    results = []
    for i, image in enumerate(images.to(next(model.vae.parameters()).dtype)):
        out = model.vae.encode(image[None])
        if hasattr(out, "latent_dist"):
            dist = out.latent_dist
            latent = dist.mean
            if generators is not None:
                noise = torch.randn(latent.shape, generator=generators[i]).to(latent)
                latent = latent + dist.std * noise
        else:
            latent = out.latents
        results.append(latent.float())
    shift = getattr(config, "shift_factor", None) or 0.0
    return (torch.cat(results) - shift) * config.scaling_factor


def decode(model: Model, latents: Tensor, width: int, height: int) -> list[Pixels]:
    """The images of ``latents``, cut to ``width`` × ``height`` from the middle.

    One at a time: the VAE's activations at full size are the peak of a batch's memory.
    """
    config = model.vae.config
    shift = getattr(config, "shift_factor", None) or 0.0
    dtype = next(model.vae.parameters()).dtype
    pixels: list[Pixels] = []
    for latent in latents:
        scaled = (latent[None] / config.scaling_factor + shift).to(dtype)
        image = model.vae.decode(scaled, return_dict=False)[0]
        if not torch.isfinite(image).all():
            image = _decode_in_float32(model, scaled)
        pixels += to_pixels(image)
    top = (pixels[0].shape[0] - height) // 2 if pixels else 0
    left = (pixels[0].shape[1] - width) // 2 if pixels else 0
    return [np.ascontiguousarray(image[top : top + height, left : left + width]) for image in pixels]


def _decode_in_float32(model: Model, latent: Tensor) -> Tensor:
    """Some VAEs (SDXL's first) overflow in half precision: NaN, black images. Decode again in single precision."""
    own = next(model.vae.parameters()).dtype
    model.vae.float()
    try:
        return torch.as_tensor(model.vae.decode(latent.float(), return_dict=False)[0])
    finally:
        model.vae.to(own)


def preview(model: Model, denoised: Tensor) -> Pixels:
    """A rough RGB image of the first latent of a batch, at least 128 pixels a side: one small matrix product."""
    if model.preview_map is None:
        model.preview_map = _fit_preview(model)
    latent = denoised[0].float().cpu()
    flat = latent.flatten(1).T  # (cells, channels)
    rgb = flat @ model.preview_map[:-1] + model.preview_map[-1]
    image = rgb.T.reshape(1, 3, *latent.shape[1:])
    if (scale := PREVIEW_SIDE // min(latent.shape[1:])) > 1:
        image = torch.nn.functional.interpolate(image, scale_factor=scale, mode="bilinear")
    return to_pixels(image)[0]


def _fit_preview(model: Model) -> Tensor:
    """The affine map from latents to RGB that fits 64 flat colours best (least squares).

    Works for any VAE, needs no table of numbers, and costs one encoding of 64 tiny images.
    """
    levels = torch.tensor([-1.0, -0.33, 0.33, 1.0])
    colours = torch.cartesian_prod(levels, levels, levels)  # (64, 3)
    side = 3 * model.latent_factor
    parameter = next(model.vae.parameters())
    cells = []
    for colour in colours:
        image = colour[None, :, None, None].expand(1, 3, side, side).to(parameter)
        cells.append(encode(model, image)[0, :, 1, 1].cpu())
    design = torch.cat([torch.stack(cells), torch.ones(len(cells), 1)], dim=1)
    return torch.linalg.lstsq(design, colours).solution
