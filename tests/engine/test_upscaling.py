"""The built-in image filters enlarge in A1111's steps: the filter, multiples of 8, the size."""

import numpy as np
import pytest
from PIL import Image

from service.catalogue.upscalers import enlarged_size
from service.core.pixels import Pixels
from service.engine.generation.upscaling import enlarge_image

LANCZOS, NEAREST = Image.Resampling.LANCZOS, Image.Resampling.NEAREST


def noise(width: int, height: int) -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def by_steps(pixels: Pixels, *steps: tuple[tuple[int, int], Image.Resampling]) -> Pixels:
    image = Image.fromarray(pixels)
    for size, filter in steps:
        image = image.resize(size, filter)
    return np.array(image)


def test_the_second_pass_of_hires_fix_gets_what_came_from_multiples_of_8() -> None:
    made = enlarge_image(noise(128, 128), 166, 166, "Lanczos")
    expected = by_steps(noise(128, 128), ((166, 166), LANCZOS), ((160, 160), LANCZOS), ((166, 166), LANCZOS))
    assert np.array_equal(made, expected)
    made = enlarge_image(noise(128, 128), 166, 166, "Nearest")
    expected = by_steps(noise(128, 128), ((166, 166), NEAREST), ((160, 160), LANCZOS), ((166, 166), LANCZOS))
    assert np.array_equal(made, expected)


def test_an_upscaler_may_be_asked_for_a_remainder_more_than_is_wanted() -> None:
    size = enlarged_size(101, 67, 1.5)
    assert size == (144, 96)
    made = enlarge_image(noise(101, 67), *size, "Lanczos", 1.5)
    assert np.array_equal(made, by_steps(noise(101, 67), ((151, 100), LANCZOS), (size, LANCZOS)))


@pytest.mark.parametrize("name", ["None", "Lanczos", "Nearest"])
def test_nothing_but_lanczos_makes_a_picture_smaller(name: str) -> None:
    assert np.array_equal(
        enlarge_image(noise(128, 96), 64, 48, name), by_steps(noise(128, 96), ((64, 48), LANCZOS))
    )
    assert np.array_equal(enlarge_image(noise(64, 64), 64, 64, name), noise(64, 64))
