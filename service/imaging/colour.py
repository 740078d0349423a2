"""Colour correction of img2img: what was made gets the colours of the picture that it started from.

As in A1111: histograms are matched in CIELAB, and the brightness of what was made is kept.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.core.pixels import Pixels

_Floats = npt.NDArray[Any]

_TO_XYZ: Final = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
"""Linear sRGB to CIE XYZ under D65 (ITU-R BT.709)."""
_WHITE: Final = _TO_XYZ.sum(axis=1)
_LUMA: Final = np.array([0.3, 0.59, 0.11])
_EDGE: Final = 216 / 24389
"""Below it the cube root of CIELAB is a straight line."""
_SLOPE: Final = 24389 / 27


def corrected(made: Pixels, like: Pixels) -> Pixels:
    """``made`` (height, width, 3) with the colours of ``like`` (of any size)."""
    lab, target = to_lab(made), to_lab(like)
    matched = np.stack([_matched(lab[:, :, channel], target[:, :, channel]) for channel in range(3)], axis=2)
    return _with_brightness(from_lab(matched), made)


def to_lab(pixels: Pixels) -> Pixels:
    """CIELAB in eight bits each: lightness 0..255, a and b shifted by 128."""
    share = pixels.astype(np.float64) / 255
    linear = np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    xyz = linear @ _TO_XYZ.T / _WHITE
    f = np.where(xyz > _EDGE, np.cbrt(xyz), (_SLOPE * xyz + 16) / 116)
    x, y, z = f[:, :, 0], f[:, :, 1], f[:, :, 2]
    lab = np.stack([(116 * y - 16) * 255 / 100, 500 * (x - y) + 128, 200 * (y - z) + 128], axis=2)
    return np.asarray(np.clip(np.rint(lab), 0, 255), np.uint8)


def from_lab(lab: Pixels) -> Pixels:
    """The reverse of :func:`to_lab`, as far as eight bits hold it."""
    lightness, a, b = (lab[:, :, channel].astype(np.float64) for channel in range(3))
    y = (lightness * 100 / 255 + 16) / 116
    f = np.stack([(a - 128) / 500 + y, y, y - (b - 128) / 200], axis=2)
    xyz = np.where(f**3 > _EDGE, f**3, (116 * f - 16) / _SLOPE) * _WHITE
    linear = np.clip(xyz @ np.linalg.inv(_TO_XYZ).T, 0, 1)
    share = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, linear * 12.92)
    return np.asarray(np.clip(np.rint(share * 255), 0, 255), np.uint8)


def _matched(channel: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """``channel`` with the cumulative histogram of ``target``; what lies between two levels is cut off."""
    own, wanted = (np.bincount(each.ravel(), minlength=256) for each in (channel, target))
    levels = np.flatnonzero(wanted)
    shares = np.cumsum(wanted)[levels] / target.size
    table = np.interp(np.cumsum(own) / channel.size, shares, levels)
    return np.asarray(table.astype(np.uint8)[channel])


def _with_brightness(colours: Pixels, bright: Pixels) -> Pixels:
    """The hue and saturation of ``colours`` with the luminosity of ``bright`` (W3C Compositing, "luminosity")."""
    base, source = colours.astype(np.float64) / 255, bright.astype(np.float64) / 255
    luma = (source @ _LUMA)[:, :, None]
    moved: _Floats = base + luma - (base @ _LUMA)[:, :, None]
    low, high = moved.min(axis=2, keepdims=True), moved.max(axis=2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        raised = np.where(low < 0, luma + (moved - luma) * luma / (luma - low), moved)
        held = np.where(high > 1, luma + (raised - luma) * (1 - luma) / (high - luma), raised)
    return np.asarray(np.clip(held * 255, 0, 255), np.uint8)
