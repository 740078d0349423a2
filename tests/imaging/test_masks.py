"""Masks: blur against SciPy's, boxes that hold what they must, filling from around."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter1d

from service.core.errors import BadRequest
from service.core.pixels import Mask, Pixels
from service.imaging.masks import LARGEST_BLUR, Box, blur, bounds, fill, invert

MASKS = hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)))


@given(
    mask=hnp.arrays(np.uint8, st.tuples(st.integers(2, 40), st.integers(2, 40))),
    x=st.integers(0, 9),
    y=st.integers(0, 9),
)
def test_blur_is_a_gaussian_cut_at_two_and_a_half_deviations(mask: Mask, x: int, y: int) -> None:
    expected = mask.astype(np.float64)
    for deviation, axis in ((x, 1), (y, 0)):
        if deviation:
            radius = int(2.5 * deviation + 0.5)
            expected = gaussian_filter1d(expected, deviation, axis=axis, mode="mirror", radius=radius)
    assert np.abs(blur(mask, x, y).astype(float) - expected).max() <= 3, "weights are multiples of 1/256"


@given(mask=MASKS, x=st.floats(0, LARGEST_BLUR), y=st.floats(0, LARGEST_BLUR))
@settings(max_examples=50, deadline=None)
def test_blur_keeps_shape_and_range(mask: Mask, x: float, y: float) -> None:
    soft = blur(mask, x, y)
    assert soft.shape == mask.shape
    assert int(soft.min()) >= int(mask.min()) - 1
    assert int(soft.max()) <= int(mask.max()) + 1


def test_no_blur_is_no_change() -> None:
    mask = np.random.default_rng(5).integers(0, 256, (9, 7), dtype=np.uint8)
    assert np.array_equal(blur(mask, 0, 0), mask)
    assert (blur(np.zeros((9, 7), np.uint8), 4, 4) == 0).all()
    assert (blur(np.full((9, 7), 255, np.uint8), 4, 4) == 255).all()


def test_far_from_the_mask_blur_leaves_zero() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[28:36, 28:36] = 255
    soft = blur(mask, 4, 4)
    assert (soft[:17] == 0).all()
    assert (soft[:, 47:] == 0).all()
    assert soft[32, 32] > 100


@pytest.mark.parametrize("deviation", [-1, 513, float("nan"), float("inf")])
def test_blurs_out_of_range(deviation: float) -> None:
    with pytest.raises(BadRequest, match="0 to 512"):
        blur(np.zeros((4, 4), np.uint8), deviation, 1)


@given(mask=MASKS)
def test_inverting_twice_is_nothing(mask: Mask) -> None:
    assert np.array_equal(invert(invert(mask)), mask)
    assert (invert(mask).astype(int) + mask == 255).all()


@given(mask=MASKS)
def test_bounds_hold_all_and_touch_it(mask: Mask) -> None:
    box = bounds(mask)
    if box is None:
        assert not mask.any()
        return
    inside = box.of(mask)
    assert int(inside.astype(int).sum()) == int(mask.astype(int).sum())
    assert inside[0].any()
    assert inside[-1].any()
    assert inside[:, 0].any()
    assert inside[:, -1].any()


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Box, int, int]:
    width, height = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return (
        Box(left, top, draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))),
        width,
        height,
    )


@given(placed=boxes(), padding=st.integers(0, 400), ratio=st.tuples(st.integers(1, 64), st.integers(1, 64)))
@settings(max_examples=300)
def test_regions_hold_their_box_inside_the_image(
    placed: tuple[Box, int, int], padding: int, ratio: tuple[int, int]
) -> None:
    box, width, height = placed
    for region in (box.padded(padding, width, height), box.with_ratio(*ratio, width, height)):
        assert 0 <= region.left <= box.left < box.right <= region.right <= width
        assert 0 <= region.top <= box.top < box.bottom <= region.bottom <= height
    region = box.with_ratio(*ratio, width, height)
    if region.width < width and region.height < height:
        assert abs(region.width * ratio[1] - region.height * ratio[0]) < max(ratio)


def test_regions_are_moved_at_the_edge() -> None:
    assert Box(0, 40, 10, 60).with_ratio(1, 1, 100, 100) == Box(0, 40, 20, 60)
    assert Box(40, 40, 50, 60).with_ratio(1, 1, 100, 100) == Box(35, 40, 55, 60)
    assert Box(95, 40, 100, 60).with_ratio(1, 1, 100, 100) == Box(80, 40, 100, 60)
    assert Box(0, 0, 10, 60).with_ratio(2, 1, 100, 100) == Box(0, 0, 100, 60)


@given(
    pixels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30), st.just(3))),
    seed=st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_fill_leaves_what_is_kept(pixels: Pixels, seed: int) -> None:
    mask = (np.random.default_rng(seed).random(pixels.shape[:2]) < 0.5).astype(np.uint8) * np.uint8(255)
    filled = fill(pixels, mask)
    assert np.array_equal(filled[mask == 0], pixels[mask == 0])


def test_fill_takes_the_colours_around() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = (200, 0, 0), (0, 0, 200)
    mask = np.zeros((64, 64), np.uint8)
    mask[20:44, 8:56] = 255
    pixels[mask > 0] = (0, 255, 0)
    filled = fill(pixels, mask)
    assert filled[:, :, 1].max() == 0
    assert filled[32, 12, 0] > 150
    assert filled[32, 51, 2] > 150
    middle = filled[32, 31:33].mean(axis=0)
    assert 50 < middle[0] < 150
    assert 50 < middle[2] < 150


def test_fill_under_a_mask_without_surroundings() -> None:
    pixels = np.full((5, 4, 3), (10, 20, 30), np.uint8)
    assert not fill(pixels, np.full((5, 4), 255, np.uint8)).any(), "black, as in A1111"
