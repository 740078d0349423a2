"""Inpainting: what is not masked is the original's, exactly, whatever the sizes."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.errors import BadImage, BadRequest
from service.core.pixels import Mask, Pixels
from service.imaging import resize
from service.imaging.inpaint import BLANK_MASK, CONTENTS, Inpainting, plan
from service.imaging.masks import blur


def noise(width: int, height: int, seed: int = 6) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def spot(width: int, height: int, box: tuple[int, int, int, int]) -> Mask:
    mask = np.zeros((height, width), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    return mask


@given(
    size=st.tuples(st.integers(8, 120), st.integers(8, 120)),
    target=st.tuples(st.integers(1, 12), st.integers(1, 12)).map(lambda s: (8 * s[0], 8 * s[1])),
    data=st.data(),
    deviation=st.integers(0, 6),
    padding=st.integers(0, 40),
    invert=st.booleans(),
    fill=st.integers(0, 3),
    mode=st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_only_masked_pixels_change(
    size: tuple[int, int],
    target: tuple[int, int],
    data: st.DataObject,
    deviation: int,
    padding: int,
    invert: bool,
    fill: int,
    mode: int,
) -> None:
    (width, height), (to_width, to_height) = size, target
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = (left, top, data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height)))
    image, mask = noise(width, height), spot(width, height, box)
    options = Inpainting(deviation, deviation, invert, fill, True, padding)
    made = plan([image], mask, to_width, to_height, mode, options)
    wanted = blur(255 - mask if invert else mask, deviation, deviation)
    if not wanted.any():
        assert made.comment == BLANK_MASK
        return
    assert made.mask is not None
    assert made.mask.shape == (to_height, to_width)
    assert made.images[0].shape == (to_height, to_width, 3)
    painted = np.full((to_height, to_width, 3), 77, np.uint8)
    finished = made.finish(painted)
    assert finished.shape == image.shape
    assert np.array_equal(finished[wanted == 0], image[wanted == 0])
    assert (finished[wanted == 255] == 77).all()


@pytest.mark.parametrize("mode", [resize.STRETCH, resize.CROP, resize.FILL])
def test_the_whole_picture_at_its_own_size(mode: int) -> None:
    image, mask = noise(64, 48), spot(64, 48, (10, 10, 30, 30))
    made = plan([image], mask, 64, 48, mode, Inpainting(0, 0, fill=1, full_res=False))
    assert np.array_equal(made.images[0], image)
    assert made.mask is not None
    assert np.array_equal(made.mask, mask)
    finished = made.finish(np.zeros_like(image))
    assert np.array_equal(finished, np.where(mask[:, :, None] > 0, 0, image))


@pytest.mark.parametrize("mode", resize.MODES)
def test_the_whole_picture_at_another_size(mode: int) -> None:
    image, mask = noise(100, 60), spot(100, 60, (0, 0, 50, 60))
    made = plan([image], mask, 64, 64, mode, Inpainting(0, 0, fill=1, full_res=False))
    finished = made.finish(np.full((64, 64, 3), 9, np.uint8))
    if mode == resize.LATENT:  # the picture keeps its size, what was made is brought to it
        assert np.array_equal(finished[:, 60:], image[:, 60:])
        return
    fitted = resize.fit(image, 64, 64, mode)
    assert np.array_equal(finished[:, 36:], fitted[:, 36:])
    assert (finished[:, :28] == 9).all()


def test_the_region_is_enlarged() -> None:
    image, mask = noise(200, 100), spot(200, 100, (90, 40, 110, 60))
    made = plan([image], mask, 64, 64, 0, Inpainting(0, 0, fill=1, padding=6))
    expected = resize.stretch(image[34:66, 84:116], 64, 64)
    assert np.array_equal(made.images[0], expected)
    assert made.mask is not None
    assert made.mask[32, 32] == 255
    assert made.mask[2, 2] == 0


def test_what_the_engine_gave_back_unchanged_changes_little() -> None:
    x = np.linspace(0, 255, 160)
    image = np.stack([np.tile(x, (120, 1))] * 3, axis=-1).astype(np.uint8)
    made = plan([image], spot(160, 120, (50, 30, 100, 90)), 64, 64, 0, Inpainting(fill=1, padding=8))
    assert np.abs(made.finish(made.images[0]).astype(int) - image).max() <= 4


def test_fill_hides_what_was_there() -> None:
    image = np.full((64, 64, 3), 50, np.uint8)
    mask = spot(64, 64, (20, 20, 44, 44))
    image[mask > 0] = (255, 0, 0)
    for fill in range(4):
        made = plan([image], mask, 64, 64, 0, Inpainting(0, 0, fill=fill, full_res=False))
        red = (made.images[0][mask > 0] == (255, 0, 0)).all()
        assert bool(red) == (fill == 1)
        assert made.infotext.get("Masked content", "original") == CONTENTS[fill]


def test_a_blank_mask_makes_plain_img2img() -> None:
    made = plan([noise(50, 40)], np.zeros((40, 50), np.uint8), 32, 32)
    assert made.mask is None
    assert made.comment == BLANK_MASK
    assert made.images[0].shape == (32, 32, 3)
    assert np.array_equal(made.finish(noise(32, 32)), noise(32, 32))


def test_without_a_mask() -> None:
    images = [noise(50, 40), noise(20, 90)]
    assert [image.shape for image in plan(images, None, 64, 32).images] == [(32, 64, 3)] * 2
    latent = plan(images, None, 64, 32, resize.LATENT)
    assert [image.shape for image in latent.images] == [(40, 50, 3), (90, 20, 3)]
    assert latent.infotext == {}


def test_several_images_share_the_mask() -> None:
    images = [noise(60, 60, 1), noise(60, 60, 2), noise(60, 60, 3)]
    mask = spot(60, 60, (20, 20, 40, 40))
    made = plan(images, mask, 32, 32, 0, Inpainting(0, 0))
    assert len(made.images) == 3
    for index in range(4):
        finished = made.finish(np.zeros((32, 32, 3), np.uint8), index)
        source = images[index % 3]
        assert np.array_equal(finished[mask == 0], source[mask == 0])
        assert (finished[mask > 0] == 0).all()


def test_a_mask_of_another_size_is_brought_to_the_request_as_images_are() -> None:
    image = noise(80, 40)
    made = plan(
        [image], spot(40, 40, (0, 0, 20, 40)), 64, 64, resize.STRETCH, Inpainting(0, 0, full_res=False)
    )
    assert made.mask is not None
    assert (made.mask[:, :28] == 255).all()
    assert not made.mask[:, 36:].any()
    finished = made.finish(np.zeros((64, 64, 3), np.uint8))
    assert np.array_equal(finished[:, 36:], resize.stretch(image, 64, 64)[:, 36:])
    assert not finished[:, :28].any()


def test_a_latent_mask_is_for_the_engine() -> None:
    latent = spot(64, 64, (0, 0, 64, 32))
    image, mask = noise(64, 64), spot(64, 64, (0, 0, 32, 64))
    made = plan([image], mask, 64, 64, 0, Inpainting(0, 0, full_res=False), latent_mask=latent)
    assert made.mask is not None
    assert np.array_equal(made.mask, latent)
    assert np.array_equal(made.finish(noise(64, 64, 9))[:, 32:], image[:, 32:])


def test_the_mask_and_what_is_under_it_on_request() -> None:
    image, mask = noise(64, 48), spot(64, 48, (10, 10, 30, 30))
    made = plan([image], mask, 64, 48, 0, Inpainting(0, 0, full_res=False))
    painted = np.full((48, 64, 3), 77, np.uint8)
    assert made.beside(painted, 0, mask=False, composite=False) == []
    shown, under = made.beside(painted, 0, mask=True, composite=True)
    assert np.array_equal(shown, np.repeat(mask[:, :, None], 3, axis=2))
    assert under.shape == (48, 64, 4)
    assert (under[mask > 0] == (77, 77, 77, 255)).all()
    assert not under[mask == 0].any()


def test_colours_are_corrected_before_the_original_is_laid_over() -> None:
    image, mask = noise(64, 48), spot(64, 48, (10, 10, 30, 30))
    made = dataclasses.replace(
        plan([image], mask, 64, 48, 0, Inpainting(0, 0, fill=1, full_res=False)), colours=(image,)
    )
    finished = made.finish(noise(64, 48, 9))
    assert np.array_equal(finished[mask == 0], image[mask == 0])
    plain = dataclasses.replace(made, colours=()).finish(noise(64, 48, 9))
    assert not np.array_equal(finished, plain)


@pytest.mark.parametrize(
    ("options", "infotext"),
    [
        (
            Inpainting(),
            {
                "Mask blur": 4,
                "Inpaint area": "Only masked",
                "Masked area padding": 0,
                "Masked content": "fill",
            },
        ),
        (Inpainting(3, 2, True, 1, False), {"Mask mode": "Inpaint not masked", "Mask blur": None}),
        (Inpainting(0, 0, fill=2, full_res=False), {"Masked content": "latent noise"}),
    ],
)
def test_infotext(options: Inpainting, infotext: dict[str, Any]) -> None:
    made = plan([noise(32, 32)], spot(32, 32, (8, 8, 20, 20)), 32, 32, 0, options)
    assert made.infotext == infotext
    assert list(made.infotext) == list(infotext)


@pytest.mark.parametrize(
    "change", [{"fill": 4}, {"fill": -1}, {"padding": -1}, {"blur_x": -2}, {"blur_y": 1e9}]
)
def test_values_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        plan([noise(8, 8)], spot(8, 8, (1, 1, 4, 4)), 8, 8, 0, dataclasses.replace(Inpainting(), **change))


def test_no_images() -> None:
    with pytest.raises(BadImage, match="init_images is empty"):
        plan([], None, 8, 8)
