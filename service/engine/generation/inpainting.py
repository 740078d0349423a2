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
    extra_noise: float = 0.0,
    mask_weight: float = 1.0,
) -> Start:
    """The start of img2img for the images ``indices`` of a request; images repeat where they are too few.

    ``size`` is the request's (width, height) in pixels; ``noise`` (n, c, h, w) may stand under the mask.
    ``posterior`` draws for the autoencoder's distribution. ``early``: see :class:`hooks.KeepUnmasked`; ``mask_weight``:
    see :func:`shown`.
    """
    device = noise.device
    chosen = [init.images[i % len(init.images)] for i in indices]
    pixels = torch.cat([to_tensor(image, device, torch.float32) for image in chosen])
    _, height, width = model.latent_shape(*size)
    latent = _encode_distinct(model, pixels, init, indices, posterior)
    if latent.shape[-2:] != (height, width):
        latent = interpolate(latent, (height, width), mode="bilinear")
    if init.mask is None:
        return Start(latent, shown(model, pixels, (width, height), mask_weight), extra_noise)
    mask = latent_mask(init.mask, width, height, rounded=init.mask_round).to(device)
    match init.inpainting_fill:
        case 2:
            latent = latent * (1 - mask) + noise * mask
        case 3:
            latent = latent * (1 - mask)
    full = torch.from_numpy(init.mask.copy()).float().to(device)[None, None] / 255.0
    full = full.round() if init.mask_round else full
    if full.shape[-2:] != pixels.shape[-2:]:  # the latent is resized, not the picture
        full = interpolate(full, pixels.shape[-2:])
    told = shown(model, pixels, (width, height), mask_weight, full)
    return Start(latent, (KeepUnmasked(latent, mask, early), *told), extra_noise)


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
    """What an inpainting network is told where there is no picture yet: all masked, a grey one. Others: nothing."""
    if not model.is_inpainting:
        return ()
    _, rows, columns = model.latent_shape(width, height)
    grey = torch.zeros(1, 3, height, width, device=device)
    return tuple(
        ShowPicture(each.concat.expand(count, -1, -1, -1)) for each in shown(model, grey, (columns, rows))
    )


def shown(
    model: Family, pixels: Tensor, cells: tuple[int, int], weight: float = 1.0, mask: Tensor | None = None
) -> tuple[ShowPicture, ...]:
    """What an inpainting network is told of ``pixels`` (n, 3, h, w; -1..1): the mask, and the latent of the picture
    whose masked part is grey by the share ``weight``, as the checkpoint was trained. Others: nothing.

    ``mask`` (1, 1, h, w) is 1 where it is repainted; without one it is so everywhere. ``cells`` is the latent's
    (width, height).
    """
    if not model.is_inpainting:
        return ()
    width, height = cells
    mask = torch.ones(1, 1, *pixels.shape[-2:], device=pixels.device) if mask is None else mask
    picture = model.encode(torch.lerp(pixels, pixels * (1 - mask), weight))
    if picture.shape[-2:] != (height, width):
        picture = interpolate(picture, (height, width), mode="bilinear")
    small = interpolate(mask, (height, width)).expand(len(picture), -1, -1, -1)
    return (ShowPicture(torch.cat([small, picture], dim=1)),)
