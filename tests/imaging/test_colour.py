"""Colour correction: the colours of one picture on another."""

import numpy as np
import pytest

from service.core.pixels import Pixels
from service.imaging.colour import corrected, from_lab, to_lab


def noise(seed: int, low: int, high: int) -> Pixels:
    return np.random.default_rng(seed).integers(low, high, (40, 30, 3), dtype=np.uint8)


def test_lab_of_known_colours() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    # CIELAB under D65: lightness, a, b of the corners of sRGB, in eight bits each.
    expected = [[0, 128, 128], [255, 128, 128], [136, 208, 195], [224, 42, 211], [82, 207, 20]]
    assert np.abs(to_lab(colours)[0].astype(int) - expected).max() <= 1


def test_lab_and_back_loses_little() -> None:
    pixels = noise(1, 0, 256)
    assert np.abs(from_lab(to_lab(pixels)).astype(int) - pixels).mean() < 2


def test_a_picture_corrected_to_itself_stays() -> None:
    pixels = noise(2, 40, 200)
    assert np.abs(corrected(pixels, pixels).astype(int) - pixels).mean() < 3


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_colours_move_and_brightness_stays(channel: int) -> None:
    made, like = noise(3, 60, 180), noise(4, 60, 180)
    like[:, :, channel] = np.minimum(like[:, :, channel].astype(int) + 70, 255).astype(np.uint8)
    result = corrected(made, like)
    others = [each for each in range(3) if each != channel]

    def lead(pixels: Pixels) -> float:
        return float(pixels[:, :, channel].mean() - pixels[:, :, others].mean())

    assert lead(result) > lead(made) + 20
    luma = np.array([0.3, 0.59, 0.11])
    assert np.abs(result @ luma - made @ luma).mean() < 2


def test_sizes_may_differ() -> None:
    assert corrected(noise(5, 0, 256), noise(6, 0, 256)[:7, :9]).shape == (40, 30, 3)
