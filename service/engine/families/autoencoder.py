"""Between pixels and latents: the VAE both ways, and cheap previews."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from service.core.pixels import Pixels

UNIT: Final = 8
"""Sides of pictures are multiples of this."""

PREVIEW_SIDE: Final = 128
"""A latent cell is one pixel of a preview; smaller pictures than this are enlarged."""


def factor(vae: Any) -> int:
    """Pixels per latent cell and side: 8 for Stable Diffusion."""
    config = vae.config
    blocks = getattr(config, "decoder_block_out_channels", None) or config.block_out_channels
    return int(2 ** (len(blocks) - 1))


def cells(side: int, factor: int) -> int:
    """Latent cells along a side in pixels. As in A1111 whole blocks of 8 pixels count; where the factor is larger
    than 8, what it does not divide is extended (:func:`encode`) and cut again (:func:`decode`)."""
    return -(-(side // UNIT * UNIT) // factor)


def to_tensor(pixels: Pixels, device: torch.device, dtype: torch.dtype) -> Tensor:
    """RGB uint8 (height, width, 3) as (1, 3, height, width) in -1..1."""
    tensor = torch.from_numpy(np.array(pixels)).to(device)  # a copy: callers' arrays may be read-only
    return (tensor.to(dtype).permute(2, 0, 1)[None] / 255.0) * 2.0 - 1.0


def to_pixels(images: Tensor) -> list[Pixels]:
    """(n, 3, height, width) in -1..1 as RGB uint8 arrays (height, width, 3); cut off as in A1111, not rounded."""
    scaled = (((images.float() + 1.0) / 2.0).clamp(0, 1) * 255.0).to(torch.uint8)
    return list(scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy())


def encode(vae: Any, images: Tensor, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """The latents (float32, scaled to unit variance) of images (n, 3, height, width) in -1..1.

    Sides are extended evenly by their edge pixels where the factor is larger than 8 and does not divide them. A
    remainder of a division by 8 is left out. ``noise(like)`` draws what a KL autoencoder's distribution is sampled
    with, image by image; without it its mean is taken.
    """
    config, pixels = vae.config, factor(vae)
    height, width = (cells(side, pixels) for side in images.shape[-2:])
    images = _extended(images, height * pixels, width * pixels)
    results = []
    for image in images.to(next(vae.parameters()).dtype):
        out = vae.encode(image[None])
        if hasattr(out, "latent_dist"):
            dist = out.latent_dist
            latent = dist.mean if noise is None else dist.mean + dist.std * noise(dist.mean)
        else:
            latent = out.latents
        results.append(latent[..., :height, :width].float())
    shift = getattr(config, "shift_factor", None) or 0.0
    return (torch.cat(results) - shift) * config.scaling_factor


def _extended(images: Tensor, height: int, width: int) -> Tensor:
    """``images`` with sides of at least height × width, the new edges being their own edge pixels."""
    (own_height, own_width) = (
        side // UNIT * UNIT if side < wanted else side
        for side, wanted in zip(images.shape[-2:], (height, width), strict=True)
    )
    more_x, more_y = max(0, width - own_width), max(0, height - own_height)
    pad = (more_x // 2, more_x - more_x // 2, more_y // 2, more_y - more_y // 2)
    if not any(pad):
        return images
    return torch.nn.functional.pad(images[..., :own_height, :own_width], pad, mode="replicate")


def decode(vae: Any, latents: Tensor, width: int, height: int) -> list[Pixels]:
    """The images of ``latents``, cut to ``width`` × ``height`` (whole blocks of 8) from the middle.

    One at a time: the VAE's activations at full size are the peak of a batch's memory.
    """
    config = vae.config
    shift = getattr(config, "shift_factor", None) or 0.0
    dtype = next(vae.parameters()).dtype
    pixels: list[Pixels] = []
    for latent in latents:
        scaled = (latent[None] / config.scaling_factor + shift).to(dtype)
        image = vae.decode(scaled, return_dict=False)[0]
        if not torch.isfinite(image).all():
            image = _decode_in_float32(vae, scaled)
        pixels += to_pixels(image)
    width, height = width // UNIT * UNIT, height // UNIT * UNIT
    top = (pixels[0].shape[0] - height) // 2 if pixels else 0
    left = (pixels[0].shape[1] - width) // 2 if pixels else 0
    return [np.ascontiguousarray(image[top : top + height, left : left + width]) for image in pixels]


def _decode_in_float32(vae: Any, latent: Tensor) -> Tensor:
    """Some VAEs (SDXL's first) overflow in half precision: NaN, black images. Decode again in single precision."""
    own = next(vae.parameters()).dtype
    vae.float()
    try:
        return torch.as_tensor(vae.decode(latent.float(), return_dict=False)[0])
    finally:
        vae.to(own)


def preview(denoised: Tensor, latent_to_rgb: Tensor) -> Pixels:
    """A rough RGB image of the first latent of a batch, at least 128 pixels a side: one small matrix product."""
    latent = denoised[0].float().cpu()
    flat = latent.flatten(1).T  # (cells, channels)
    rgb = flat @ latent_to_rgb[:-1] + latent_to_rgb[-1]
    image = rgb.T.reshape(1, 3, *latent.shape[1:])
    if (scale := PREVIEW_SIDE // min(latent.shape[1:])) > 1:
        image = torch.nn.functional.interpolate(image, scale_factor=scale, mode="bilinear")
    return to_pixels(image)[0]


def fit_preview(vae: Any) -> Tensor:
    """The affine map from latents to RGB that fits 64 flat colours best (least squares).

    Works for any VAE, needs no table of numbers, and costs one encoding of 64 tiny images.
    """
    levels = torch.tensor([-1.0, -0.33, 0.33, 1.0])
    colours = torch.cartesian_prod(levels, levels, levels)  # (64, 3)
    side = 3 * factor(vae)
    parameter = next(vae.parameters())
    cells = []
    for colour in colours:
        image = colour[None, :, None, None].expand(1, 3, side, side).to(parameter)
        cells.append(encode(vae, image)[0, :, 1, 1].cpu())
    design = torch.cat([torch.stack(cells), torch.ones(len(cells), 1)], dim=1)
    return torch.linalg.lstsq(design, colours).solution
