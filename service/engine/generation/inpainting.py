"""What img2img starts from: the latent of the given images, the part that stays, and an inpainting UNet's input."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from service.core.generation import InitImage
from service.core.pixels import Mask
from service.engine.families.autoencoder import to_tensor
from service.engine.families.protocol import Family
from service.engine.generation.hooks import Hook, KeepUnmasked, ShowPicture


@dataclass(frozen=True, slots=True)
class Start:
    """The latents (n, c, h, w) that noise is added to (None: there is noise alone), and what keeps parts of them."""

    latent: Tensor | None
    hooks: tuple[Hook, ...] = ()


def from_images(
    model: Family, init: InitImage, indices: Sequence[int], size: tuple[int, int], noise: Tensor
) -> Start:
    """The start of img2img for the images ``indices`` of a request; images repeat where they are too few.

    ``size`` is the request's (width, height) in pixels; ``noise`` (n, c, h, w) may stand under the mask.
    """
    device = noise.device
    chosen = [init.images[i % len(init.images)] for i in indices]
    pixels = torch.cat([to_tensor(image, device, torch.float32) for image in chosen])
    _, height, width = model.latent_shape(*size)
    latent = _encode_distinct(model, pixels, init, indices)
    if latent.shape[-2:] != (height, width):
        latent = interpolate(latent, (height, width), mode="bilinear")
    if init.mask is None:
        return Start(latent, blank(model, len(indices), *size, device))
    mask = latent_mask(init.mask, width, height).to(device)
    match init.inpainting_fill:
        case 2:
            latent = latent * (1 - mask) + noise * mask
        case 3:
            latent = latent * (1 - mask)
    shown = (ShowPicture(_masked_picture(model, pixels, init, mask)),) if model.is_inpainting else ()
    return Start(latent, (KeepUnmasked(latent, mask), *shown))


def _encode_distinct(model: Family, pixels: Tensor, init: InitImage, indices: Sequence[int]) -> Tensor:
    """Encode each image once, however often it is repeated."""
    count = len(init.images)
    distinct = sorted({i % count for i in indices})
    first = {number: [i % count for i in indices].index(number) for number in distinct}
    encoded = {number: model.encode(pixels[position : position + 1]) for number, position in first.items()}
    return torch.cat([encoded[i % count] for i in indices])


def latent_mask(mask: Mask, width: int, height: int) -> Tensor:
    """``mask`` (pixels, 255 = repaint) as (1, 1, height, width) of 0 or 1 over the latent's cells: what most of
    a cell's pixels are."""
    tensor = torch.from_numpy(mask.copy()).float()[None, None] / 255.0
    return interpolate(tensor, (height, width), mode="area").round()


def blank(model: Family, count: int, width: int, height: int, device: torch.device) -> tuple[Hook, ...]:
    """What an inpainting network is told where nothing is kept: all masked, a grey picture. Others: nothing."""
    if not model.is_inpainting:
        return ()
    picture = model.encode(torch.zeros(1, 3, height, width, device=device)).expand(count, -1, -1, -1)
    mask = torch.ones(count, 1, *picture.shape[-2:], device=device)
    return (ShowPicture(torch.cat([mask, picture], dim=1)),)


def _masked_picture(model: Family, pixels: Tensor, init: InitImage, mask: Tensor) -> Tensor:
    """The mask and the latent of the picture without its masked part (grey), as the checkpoint was trained."""
    assert init.mask is not None
    full = torch.from_numpy(init.mask.copy()).float().to(pixels.device)[None, None] / 255.0
    hidden = pixels * (1 - full.round() * init.inpainting_mask_weight)
    picture = model.encode(hidden)
    return torch.cat([mask.expand(len(picture), -1, -1, -1), picture], dim=1)
