"""What img2img starts from: the latent of the given images, the part that stays, and an inpainting UNet's input."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from service.core.generation import GenerationRequest, InitImage
from service.core.pixels import Mask
from service.engine.families.model import Model
from service.engine.generation import latents
from service.engine.generation.denoiser import Kept
from service.engine.generation.noise import NoiseSource


@dataclass(frozen=True, slots=True)
class Prepared:
    """The latents (n, c, h, w) that noise is added to; ``concat`` is for inpainting UNets only."""

    latent: Tensor
    kept: Kept | None = None
    concat: Tensor | None = None


def prepare(model: Model, request: GenerationRequest, init: InitImage, indices: list[int]) -> Prepared:
    """The start of img2img for the images ``indices`` of ``request``; images repeat where they are too few."""
    device = next(model.vae.parameters()).device
    chosen = [init.images[i % len(init.images)] for i in indices]
    pixels = torch.cat([latents.to_tensor(image, device, torch.float32) for image in chosen])
    width, height = latents.latent_size(model, request.width, request.height)
    latent = _encode_distinct(model, pixels, init, indices)
    if latent.shape[-2:] != (height, width):
        latent = interpolate(latent, (height, width), mode="bilinear")
    if init.mask is None:
        concat = blank_concat(model, len(indices), width, height, pixels) if model.is_inpainting else None
        return Prepared(latent, concat=concat)
    mask = latent_mask(init.mask, width, height, model.latent_factor).to(device)
    match init.inpainting_fill:
        case 2:
            seeds = [request.seed_of(i) for i in indices]
            unit = NoiseSource(seeds).initial((model.latent_channels, height, width), device=device)
            latent = latent * (1 - mask) + unit * mask
        case 3:
            latent = latent * (1 - mask)
    concat = _masked_concat(model, pixels, init, mask) if model.is_inpainting else None
    return Prepared(latent, kept=Kept(latent, mask), concat=concat)


def _encode_distinct(model: Model, pixels: Tensor, init: InitImage, indices: list[int]) -> Tensor:
    """Encode each different image once: a batch often repeats one."""
    count = len(init.images)
    distinct = sorted({i % count for i in indices})
    first = {number: [i % count for i in indices].index(number) for number in distinct}
    encoded = {
        number: latents.encode(model, pixels[position : position + 1]) for number, position in first.items()
    }
    return torch.cat([encoded[i % count] for i in indices])


def latent_mask(mask: Mask, width: int, height: int, factor: int) -> Tensor:
    """``mask`` (pixels, 255 = repaint) as (1, 1, height, width) of 0..1 over the latent's cells.

    The mask is extended as :func:`latents.encode` extends the image, and a cell is repainted as far as its
    pixels are, on average.
    """
    tensor = torch.from_numpy(mask.copy()).float()[None, None] / 255.0
    more_x, more_y = width * factor - mask.shape[1], height * factor - mask.shape[0]
    if more_x > 0 or more_y > 0:
        pad = (more_x // 2, more_x - more_x // 2, more_y // 2, more_y - more_y // 2)
        tensor = torch.nn.functional.pad(tensor, pad, mode="replicate")
    return interpolate(tensor, (height, width), mode="area").round()


def blank_concat(model: Model, count: int, width: int, height: int, like: Tensor) -> Tensor:
    """What an inpainting UNet is told where nothing is kept: everything masked, a grey picture."""
    factor = model.latent_factor
    grey = torch.zeros(1, 3, height * factor, width * factor, device=like.device)
    picture = latents.encode(model, grey).expand(count, -1, -1, -1)
    return torch.cat([torch.ones(count, 1, height, width, device=like.device), picture], dim=1)


def _masked_concat(model: Model, pixels: Tensor, init: InitImage, mask: Tensor) -> Tensor:
    """The mask and the latent of the picture without its masked part (grey), as the checkpoint was trained."""
    assert init.mask is not None
    full = torch.from_numpy(init.mask.copy()).float().to(pixels.device)[None, None] / 255.0
    hidden = pixels * (1 - full.round() * init.inpainting_mask_weight)
    picture = latents.encode(model, hidden)
    return torch.cat([mask.expand(len(picture), -1, -1, -1), picture], dim=1)
