"""What img2img starts from: the latent of the given images, the part that stays, and an inpainting UNet's input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from service.core.generation import InitImage
from service.core.pixels import Mask
from service.engine.families.autoencoder import to_tensor
from service.engine.families.protocol import Family
from service.engine.generation.hooks import Hook, KeepUnmasked, ShowPicture

Draw: TypeAlias = Callable[[Tensor], Tensor]
"""Random numbers like its argument."""


@dataclass(frozen=True, slots=True)
class Start:
    """The latents (n, c, h, w) that noise is added to (None: there is noise alone), and what keeps parts of them.

    ``extra_noise`` is added to the noise level.
    """

    latent: Tensor | None
    hooks: tuple[Hook, ...] = ()
    extra_noise: float = 0.0


def from_images(
    model: Family,
    init: InitImage,
    indices: Sequence[int],
    size: tuple[int, int],
    noise: Tensor,
    posterior: Draw,
    *,
    early: bool,
) -> Start:
    """The start of img2img for the images ``indices`` of a request; images repeat where they are too few.

    ``size`` is the request's (width, height) in pixels; ``noise`` (n, c, h, w) may stand under the mask.
    ``posterior`` draws for the autoencoder's distribution. ``early``: see :class:`hooks.KeepUnmasked`.
    """
    device = noise.device
    chosen = [init.images[i % len(init.images)] for i in indices]
    pixels = torch.cat([to_tensor(image, device, torch.float32) for image in chosen])
    _, height, width = model.latent_shape(*size)
    latent = _encode_distinct(model, pixels, init, indices, posterior)
    if latent.shape[-2:] != (height, width):
        latent = interpolate(latent, (height, width), mode="bilinear")
    if init.mask is None:
        return Start(latent, blank(model, len(indices), *size, device), init.extra_noise)
    mask = latent_mask(init.mask, width, height, rounded=init.mask_round).to(device)
    match init.inpainting_fill:
        case 2:
            latent = latent * (1 - mask) + noise * mask
        case 3:
            latent = latent * (1 - mask)
    shown = (ShowPicture(_masked_picture(model, pixels, init, height, width)),) if model.is_inpainting else ()
    return Start(latent, (KeepUnmasked(latent, mask, early), *shown), init.extra_noise)


def _encode_distinct(
    model: Family, pixels: Tensor, init: InitImage, indices: Sequence[int], posterior: Draw
) -> Tensor:
    """Encode each image once, however often it is repeated."""
    count = len(init.images)
    distinct = sorted({i % count for i in indices})
    first = {number: [i % count for i in indices].index(number) for number in distinct}
    encoded = {
        number: model.encode(pixels[position : position + 1], posterior) for number, position in first.items()
    }
    return torch.cat([encoded[i % count] for i in indices])


def latent_mask(mask: Mask, width: int, height: int, *, rounded: bool = True) -> Tensor:
    """``mask`` (pixels, 255 = repaint) as (1, 1, height, width) of 0..1 over the latent's cells.

    As in A1111 it is made smaller by Pillow's bicubic filter; ``rounded``: to 0 or 1.
    """
    small = Image.fromarray(mask).resize((width, height), Image.Resampling.BICUBIC)
    cells = torch.from_numpy(np.array(small)).float()[None, None] / 255.0
    return cells.round() if rounded else cells


def blank(model: Family, count: int, width: int, height: int, device: torch.device) -> tuple[Hook, ...]:
    """What an inpainting network is told where nothing is kept: all masked, a grey picture. Others: nothing."""
    if not model.is_inpainting:
        return ()
    picture = model.encode(torch.zeros(1, 3, height, width, device=device)).expand(count, -1, -1, -1)
    mask = torch.ones(count, 1, *picture.shape[-2:], device=device)
    return (ShowPicture(torch.cat([mask, picture], dim=1)),)


def _masked_picture(model: Family, pixels: Tensor, init: InitImage, height: int, width: int) -> Tensor:
    """The mask and the latent of the picture without its masked part (grey), as the checkpoint was trained."""
    assert init.mask is not None
    full = torch.from_numpy(init.mask.copy()).float().to(pixels.device)[None, None] / 255.0
    full = full.round() if init.mask_round else full
    picture = model.encode(torch.lerp(pixels, pixels * (1 - full), init.inpainting_mask_weight))
    mask = interpolate(full, (height, width))
    return torch.cat([mask.expand(len(picture), -1, -1, -1), picture], dim=1)
