"""From a client's images and mask to what the engine denoises, and from what it made back to the whole
picture.

Where the mask is 0 the finished picture has the original's pixels, exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from service.core.errors import BadImage, BadRequest
from service.core.pixels import Mask, Pixels
from service.imaging import masks, resize
from service.imaging.masks import Box
from service.imaging.resize import Upscale

FILL: Final = 0
ORIGINAL: Final = 1
CONTENTS: Final = ("fill", "original", "latent noise", "latent nothing")
"""What may stand under the mask when denoising begins, by the number that A1111 gives it."""

_ROWS: Final = 256

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
    _originals: tuple[Pixels, ...] = ()
    _overlay: Mask | None = None
    _region: Box | None = None

    def finish(self, made: Pixels, index: int = 0) -> Pixels:
        """``made`` from image ``index`` (counted on around the images) laid into its original under the
        mask.
        """
        if self._overlay is None:
            return made
        original = self._originals[index % len(self._originals)]
        region = self._region or Box(0, 0, original.shape[1], original.shape[0])
        placed = resize.fit(made, region.width, region.height, resize.CROP)
        whole = original.copy()
        region.of(whole)[:] = mix(region.of(original), placed, region.of(self._overlay))
        return whole


def mix(kept: Pixels, made: Pixels, mask: Mask) -> Pixels:
    """``kept`` where ``mask`` is 0, ``made`` where it is 255, both exactly; rounded mixtures in between."""
    made_whole = np.empty_like(kept)
    for start in range(0, len(kept), _ROWS):  # some rows at a time: the products are twelve times as large
        rows = slice(start, start + _ROWS)
        share = mask[rows].astype(np.uint32)[:, :, np.newaxis]
        made_whole[rows] = (kept[rows] * (255 - share) + made[rows] * share + 127) // 255
    return made_whole


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

    ``mode`` is A1111's resize mode, 0..3; with 3 the images keep their size, but for the rest of a division
    by 8. Images share one mask: it is stretched to the first image, and the others are brought to that
    one's size. With ``full_res`` only the masked part, its padding and what the ratio of the request needs
    are enlarged and made. ``latent_mask`` replaces the mask for the engine, not for the pasting back.
    Raises :class:`BadRequest` for values out of range.
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
    if mask is None:
        return Plan(tuple(_sized(image, width, height, mode, upscale) for image in images))
    first_height, first_width = images[0].shape[:2]
    images = [resize.fit(image, first_width, first_height, _of_pixels(mode)) for image in images]
    mask = resize.stretch(mask, first_width, first_height, resize.NEAREST)
    if inpainting.invert:
        mask = masks.invert(mask)
    mask = masks.blur(mask, inpainting.blur_x, inpainting.blur_y)
    if inpainting.full_res:
        made = _part(images, mask, width, height, inpainting, upscale)
        if made is None:
            whole = tuple(_sized(image, width, height, mode, upscale) for image in images)
            return Plan(whole, comment=BLANK_MASK)
    else:
        made = _whole(images, mask, width, height, mode, upscale)
    if latent_mask is not None:
        made = replace(made, mask=resize.stretch(latent_mask, width, height, resize.BILINEAR))
    if inpainting.fill != ORIGINAL and made.mask is not None:
        made = replace(made, images=tuple(masks.fill(image, made.mask) for image in made.images))
    return replace(made, infotext=_infotext(inpainting))


def _sized(image: Pixels, width: int, height: int, mode: int, upscale: Upscale | None) -> Pixels:
    if mode == resize.LATENT:
        # The autoencoder takes whole blocks of 8×8.
        width, height = (max(8, side // 8 * 8) for side in (image.shape[1], image.shape[0]))
        mode = resize.CROP
    return resize.fit(image, width, height, mode, upscale=upscale)


def _of_pixels(mode: int) -> int:
    """Where pixels are to be pasted back the latent's resize mode cannot serve: stretch instead."""
    return resize.STRETCH if mode == resize.LATENT else mode


def _whole(
    images: Sequence[Pixels], mask: Mask, width: int, height: int, mode: int, upscale: Upscale | None
) -> Plan:
    """All of the image is made; twice as much of the blurred mask as denoised is pasted back, as in A1111."""
    mode = _of_pixels(mode)
    originals = tuple(resize.fit(image, width, height, mode, upscale=upscale) for image in images)
    fitted = resize.fit(mask, width, height, mode, resize.BILINEAR)
    overlay = np.minimum(fitted.astype(np.uint16) * 2, 255).astype(np.uint8)
    return Plan(originals, fitted, _originals=originals, _overlay=overlay)


def _part(
    images: Sequence[Pixels],
    mask: Mask,
    width: int,
    height: int,
    inpainting: Inpainting,
    upscale: Upscale | None,
) -> Plan | None:
    """The masked part is made at the size of the request; None if nothing is masked."""
    tight = masks.bounds(mask)
    if tight is None:
        return None
    whole_height, whole_width = mask.shape
    region = tight.padded(inpainting.padding, whole_width, whole_height)
    region = region.with_ratio(width, height, whole_width, whole_height)
    parts = (np.ascontiguousarray(region.of(image)) for image in images)
    return Plan(
        tuple(resize.fit(part, width, height, resize.FILL, upscale=upscale) for part in parts),
        resize.fit(np.ascontiguousarray(region.of(mask)), width, height, resize.FILL, resize.BILINEAR),
        _originals=tuple(images),
        _overlay=mask,
        _region=region,
    )


def _infotext(inpainting: Inpainting) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if inpainting.blur_x == inpainting.blur_y and inpainting.blur_x > 0:
        fields["Mask blur"] = inpainting.blur_x
    if inpainting.invert:
        fields["Mask mode"] = "Inpaint not masked"
    if inpainting.fill != ORIGINAL:
        fields["Masked content"] = CONTENTS[inpainting.fill]
    if inpainting.full_res:
        fields |= {"Inpaint area": "Only masked", "Masked area padding": inpainting.padding}
    return fields
