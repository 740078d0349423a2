"""From a client's images and mask to what the engine denoises, and from what it made back to the whole
picture.

Where the mask is 0 the finished picture has the original's pixels, exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from PIL import Image, ImageOps

from service.core.errors import BadImage, BadRequest
from service.core.pixels import Mask, Pixels
from service.imaging import colour, masks, resize
from service.imaging.masks import Box
from service.imaging.resize import Upscale

FILL: Final = 0
ORIGINAL: Final = 1
CONTENTS: Final = ("fill", "original", "latent noise", "latent nothing")
"""What may stand under the mask when denoising begins, by the number that A1111 gives it."""

BLANK_MASK: Final = "The mask is blank, so the whole image was made anew (img2img)."


@dataclass(frozen=True, slots=True)
class Inpainting:
    """How a mask is used, with A1111's names and defaults. Blurs and padding are pixels of the original
    image.
    """

    blur_x: float = 4
    blur_y: float = 4
    invert: bool = False
    fill: int = FILL
    full_res: bool = True
    padding: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What the engine starts from, and how :meth:`finish` turns what it made into the picture to send.

    ``images`` and ``mask`` (None: all is repainted) have the size of the request; the images are already
    filled under the mask where that was asked for. ``infotext`` tells of the mask in A1111's words.
    ``comment`` is a sentence for the client, or "".
    """

    images: tuple[Pixels, ...]
    mask: Mask | None = None
    infotext: dict[str, Any] = field(default_factory=dict)
    comment: str = ""
    overlays: tuple[Image.Image, ...] = ()
    """For each image what is kept of its original (RGBA, transparent where it is repainted)."""
    region: Box | None = None
    """Where what is made belongs in the original; None for all of it."""
    shown_mask: Mask | None = None
    """The mask at the size of the overlays, 255 where nothing of the original is kept."""
    colours: tuple[Pixels, ...] = ()
    """For each image what the colours of what is made are corrected to; none: they stay."""

    def finish(self, made: Pixels, index: int = 0) -> Pixels:
        """``made`` from image ``index`` (counted on around the images) under what is kept of its original."""
        made = self._coloured(made, index)
        if not self.overlays:
            return made
        overlay = self.overlays[index % len(self.overlays)]
        under = self.placed(made, overlay.size)
        under.alpha_composite(overlay)
        return np.array(under.convert("RGB"))

    def _coloured(self, made: Pixels, index: int) -> Pixels:
        return colour.corrected(made, self.colours[index % len(self.colours)]) if self.colours else made

    def beside(self, made: Pixels, index: int, *, mask: bool, composite: bool) -> list[Pixels]:
        """What A1111 sends on request after the picture: the ``mask``, and what was made under it (RGBA)."""
        if self.shown_mask is None:
            return []
        shown = Image.fromarray(self.shown_mask)
        found = [np.array(shown.convert("RGB"))] if mask else []
        if composite:
            under = self.placed(self._coloured(made, index), shown.size)
            empty = Image.new("RGBa", shown.size)
            found.append(np.array(Image.composite(under.convert("RGBa"), empty, shown).convert("RGBA")))
        return found

    def placed(self, made: Pixels, size: tuple[int, int]) -> Image.Image:
        """``made`` where it belongs in a picture of ``size`` (width, height), RGBA, before anything is laid over it."""
        region = self.region or Box(0, 0, *size)
        canvas = Image.new("RGBA", size)
        fitted = resize.fit(made, region.width, region.height, resize.CROP)
        canvas.paste(Image.fromarray(fitted), (region.left, region.top))
        return canvas


def plan(
    images: Sequence[Pixels],
    mask: Mask | None,
    width: int,
    height: int,
    mode: int = resize.STRETCH,
    inpainting: Inpainting = Inpainting(),
    *,
    latent_mask: Mask | None = None,
    upscale: Upscale | None = None,
) -> Plan:
    """Bring ``images`` and ``mask`` to the size of the request, as img2img does before it starts.

    ``mode`` is A1111's resize mode, 0..3; with 3 the images keep their size. Images share one mask, which is brought
    to the size of each as they are to that of the request. With ``full_res`` only the masked part, its padding and
    what the ratio of the request needs are enlarged and made. ``latent_mask`` replaces the mask for the engine, not
    for the pasting back. Raises :class:`BadRequest` for values out of range.
    """
    if not images:
        raise BadImage("init_images is empty: send at least one image as base64.")
    if not 0 <= inpainting.fill < len(CONTENTS):
        choices = ", ".join(f"{number} {name}" for number, name in enumerate(CONTENTS))
        raise BadRequest(f"inpainting_fill {inpainting.fill} does not exist: choose one of {choices}.")
    if inpainting.padding < 0:
        raise BadRequest(
            f"inpaint_full_res_padding {inpainting.padding} is negative: it counts pixels from 0."
        )
    sized = [resize.fit(image, width, height, mode, upscale=upscale) for image in images]
    if mask is None:
        return Plan(tuple(sized))
    if inpainting.invert:
        mask = masks.invert(mask)
    mask = masks.blur(mask, inpainting.blur_x, inpainting.blur_y)
    infotext = _infotext(inpainting)
    region = None
    if inpainting.full_res:
        tight = masks.bounds(mask)
        if tight is None:
            return Plan(tuple(sized), infotext=infotext, comment=BLANK_MASK)
        region = tight.padded(inpainting.padding, mask.shape[1], mask.shape[0])
        region = region.with_ratio(width, height, mask.shape[1], mask.shape[0])
        fitted = resize.fit(np.ascontiguousarray(region.of(mask)), width, height, resize.FILL)
        shown = mask
        infotext |= {"Inpaint area": "Only masked", "Masked area padding": inpainting.padding}
        sized = list(images)
    else:
        fitted = resize.fit(mask, width, height, _of_masks(mode))
        # As in A1111 twice as much of the blurred mask is pasted back as is denoised.
        shown = np.minimum(fitted.astype(np.uint16) * 2, 255).astype(np.uint8)
    overlays = []
    for image in sized:
        shown = resize.fit(shown, image.shape[1], image.shape[0], _of_masks(mode))
        overlays.append(_kept(image, shown))
    if region is not None:
        parts = [np.ascontiguousarray(_within(region, image).of(image)) for image in sized]
        sized = [resize.fit(part, width, height, resize.FILL, upscale=upscale) for part in parts]
    under = fitted if latent_mask is None else latent_mask
    if inpainting.fill != ORIGINAL:
        sized = [masks.fill(image, resize.stretch(under, image.shape[1], image.shape[0])) for image in sized]
        infotext["Masked content"] = CONTENTS[inpainting.fill]
    return Plan(tuple(sized), under, infotext, overlays=tuple(overlays), region=region, shown_mask=shown)


def _of_masks(mode: int) -> int:
    """Masks are never left at their size: where the latent is resized they are filled up, as in A1111."""
    return resize.FILL if mode == resize.LATENT else mode


def _within(region: Box, image: Pixels) -> Box:
    """``region`` of the mask within an image that is smaller than the mask."""
    right, bottom = min(region.right, image.shape[1]), min(region.bottom, image.shape[0])
    return Box(min(region.left, right - 1), min(region.top, bottom - 1), right, bottom)


def _kept(image: Pixels, mask: Mask) -> Image.Image:
    """``image`` as far as ``mask`` keeps it, by way of colours multiplied with their opacity, in eight bits each.

    That is how A1111 cuts it out, and what makes its edges.
    """
    whole = Image.fromarray(image)
    cut = Image.new("RGBa", whole.size)
    keep = ImageOps.invert(Image.fromarray(mask))
    cut.paste(whole.convert("RGBA").convert("RGBa"), mask=keep)
    return cut.convert("RGBA")


def _infotext(inpainting: Inpainting) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if inpainting.invert:
        fields["Mask mode"] = "Inpaint not masked"
    if max(inpainting.blur_x, inpainting.blur_y) > 0:
        # A1111 has no word for two blurs.
        fields["Mask blur"] = inpainting.blur_x if inpainting.blur_x == inpainting.blur_y else None
    return fields
