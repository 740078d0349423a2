"""Resize modes and built-in upscalers."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.core.errors import BadRequest, UnknownName
from service.core.pixels import Pixels
from service.imaging import resize
from service.imaging.resize import fit, inner_size, stretch, upscale_by_name

SIDES = st.integers(1, 90)


def noise(width: int, height: int, channels: int = 3) -> Pixels:
    return np.random.default_rng(4).integers(0, 256, (height, width, channels), dtype=np.uint8)


def stripes(width: int, height: int) -> Pixels:
    """Each column has its number as red, each row as green."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :, 0] = np.arange(width)[None, :]
    pixels[:, :, 1] = np.arange(height)[:, None]
    return pixels


@given(from_width=SIDES, from_height=SIDES, width=SIDES, height=SIDES, mode=st.integers(0, 2))
@settings(max_examples=200)
def test_any_size_becomes_any_size(
    from_width: int, from_height: int, width: int, height: int, mode: int
) -> None:
    assert fit(noise(from_width, from_height), width, height, mode).shape == (height, width, 3)
    assert fit(noise(from_width, from_height, 4), width, height, mode).shape == (height, width, 4)
    assert fit(noise(from_width, from_height)[:, :, 0].copy(), width, height, mode).shape == (height, width)


@given(from_width=SIDES, from_height=SIDES, width=SIDES, height=SIDES, mode=st.integers(0, 2))
def test_one_colour_stays_one_colour(
    from_width: int, from_height: int, width: int, height: int, mode: int
) -> None:
    plain = np.full((from_height, from_width, 3), (10, 130, 250), np.uint8)
    fitted = fit(plain, width, height, mode)
    # What is filled up may leave one row black, of an odd remainder.
    odd = np.zeros(3, np.uint8) if mode == resize.FILL else plain[0, 0]
    assert ((fitted == plain[0, 0]) | (fitted == odd)).all()
    assert (fitted == plain[0, 0]).mean() > 0.3


@pytest.mark.parametrize("mode", resize.MODES)
def test_the_right_size_is_left_alone(mode: int) -> None:
    pixels = noise(33, 17)
    assert np.array_equal(fit(pixels, 33, 17, mode), pixels)


def test_stretch_is_lanczos() -> None:
    pixels = noise(20, 10)
    expected = np.asarray(Image.fromarray(pixels).resize((50, 70), Image.Resampling.LANCZOS))
    assert np.array_equal(fit(pixels, 50, 70), expected)


def test_crop_keeps_the_middle() -> None:
    pixels = fit(stripes(100, 40), 40, 40, resize.CROP)
    assert np.array_equal(pixels, stripes(100, 40)[:, 30:70])
    pixels = fit(stripes(40, 100), 40, 40, resize.CROP)
    assert np.array_equal(pixels, stripes(40, 100)[30:70])


def test_fill_repeats_the_edges() -> None:
    source = stripes(20, 40)
    pixels = fit(source, 40, 40, resize.FILL)
    assert np.array_equal(pixels[:, 10:30], source)
    # As A1111's: drawn out by a filter that reads the second column too, and of an odd remainder one stays black.
    assert np.abs(pixels[:, :10].astype(int) - source[:, :1]).mean() < 8
    assert np.abs(pixels[:, 30:].astype(int) - source[:, -1:]).mean() < 8
    odd = fit(stripes(20, 40), 41, 40, resize.FILL)
    assert np.array_equal(odd[:, :40], pixels)
    assert not odd[:, 40].any()


def test_latent_mode_is_not_for_pixels() -> None:
    assert fit(noise(9, 5), 64, 64, resize.LATENT).shape == (5, 9, 3)


@pytest.mark.parametrize("mode", [-1, 4])
def test_unknown_modes(mode: int) -> None:
    with pytest.raises(BadRequest, match="resize_mode"):
        fit(noise(9, 5), 64, 64, mode)


@given(width=SIDES, height=SIDES, to_width=SIDES, to_height=SIDES)
def test_inner_size_fits_and_keeps_the_ratio(width: int, height: int, to_width: int, to_height: int) -> None:
    inner = inner_size(width, height, to_width, to_height)
    assert 1 <= inner[0] <= to_width
    assert 1 <= inner[1] <= to_height
    assert inner[0] == to_width or inner[1] == to_height


def test_built_in_upscalers() -> None:
    pixels = noise(6, 4)
    assert np.array_equal(upscale_by_name("nearest")(pixels, 4), pixels.repeat(4, axis=0).repeat(4, axis=1))
    assert upscale_by_name("Lanczos")(pixels, 2.5).shape == (8, 8, 3), "multiples of 8, as A1111's"
    assert upscale_by_name("Lanczos")(pixels, 0.01).shape == (1, 1, 3)
    with pytest.raises(UnknownName, match="Lanczos, Nearest"):
        upscale_by_name("ESRGAN_4x")


@pytest.mark.parametrize("mode", [resize.STRETCH, resize.CROP, resize.FILL])
def test_an_upscaler_enlarges_and_never_shrinks(mode: int) -> None:
    asked: list[tuple[tuple[int, ...], float]] = []

    def four_times(pixels: Pixels, factor: float) -> Pixels:
        asked.append((pixels.shape, factor))
        return pixels.repeat(4, axis=0).repeat(4, axis=1)

    small = stripes(30, 20)
    large = fit(small, 60, 60, mode, upscale=four_times)
    assert large.shape == (60, 60, 3)
    expected = {
        resize.STRETCH: ((20, 30, 3), 3.0),
        resize.CROP: ((20, 30, 3), 3.0),
        resize.FILL: ((20, 30, 3), 2.0),
    }
    assert asked == [expected[mode]]
    plain = fit(small, 60, 60, mode)
    assert np.abs(plain.astype(int) - large).mean() < 1
    assert fit(small, 10, 10, mode, upscale=four_times).shape == (10, 10, 3)
    assert len(asked) == 1


def test_a_crop_in_fractions_of_pixels_with_an_upscaler() -> None:
    nearest = upscale_by_name("Nearest")
    assert fit(stripes(31, 17), 64, 48, resize.CROP, upscale=nearest).shape == (48, 64, 3)


NARROW = """
import numpy as np
from service.imaging.resize import fit
for shape in ((1, 8_000_000, 3), (8_000_000, 1, 3)):
    for mode in (0, 1, 2):
        assert fit(np.zeros(shape, np.uint8), 512, 512, mode).shape == (512, 512, 3)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""


def test_narrow_giants_take_no_giant_memory() -> None:
    run = subprocess.run([sys.executable, "-c", NARROW], capture_output=True, text=True, check=True)
    assert (
        int(run.stdout) < 400_000
    )  # KiB; resampling tables alone would take as much without averaging first


def test_stretch_of_a_part() -> None:
    assert np.array_equal(stretch(stripes(50, 50), 10, 10, box=(5, 7, 15, 17)), stripes(50, 50)[7:17, 5:15])
