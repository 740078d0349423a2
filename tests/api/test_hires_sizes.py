"""Which sizes the two passes of hires fix have, and sizes that 8 does not divide: A1111's."""

from typing import Any

import pytest

from tests.api.conftest import Api


@pytest.mark.parametrize(
    ("sent", "first", "enlarged", "crop"),
    [
        ({"hr_scale": 2}, (128, 128), (256, 256), None),
        ({"hr_scale": 1.3}, (128, 128), (166, 166), None),
        ({"hr_resize_x": 200}, (128, 128), (200, 200), None),
        ({"hr_resize_y": 200, "width": 256}, (256, 128), (400, 200), None),
        ({"hr_resize_x": 256, "hr_resize_y": 256}, (128, 128), (256, 256), None),
        # Another ratio: enlarged until it covers the asked size, and cut to it in whole cells of the latent.
        ({"hr_resize_x": 320, "hr_resize_y": 256}, (128, 128), (320, 320), (320, 256)),
        ({"hr_resize_x": 100, "hr_resize_y": 300}, (128, 128), (300, 300), (96, 296)),
        # The first pass at a size of its own.
        ({"firstphase_width": 128, "firstphase_height": 64, "width": 512}, (128, 64), (256, 128), None),
    ],
)
def test_sizes_of_hires_fix(
    api: Api,
    sent: dict[str, Any],
    first: tuple[int, int],
    enlarged: tuple[int, int],
    crop: tuple[int, int] | None,
) -> None:
    answer = api.txt2img(**{"width": 128, "height": 128, "enable_hr": True, **sent})
    assert answer.status_code == 200, answer.text
    [request] = api.engine.served
    assert (request.width, request.height) == first
    assert request.hires is not None
    assert (request.hires.width, request.hires.height) == enlarged
    assert request.hires.crop_to == crop


def test_any_size_is_taken(api: Api) -> None:
    assert api.txt2img(width=500, height=333).status_code == 200


def test_the_size_of_the_first_pass_holds_without_a_second_one(api: Api) -> None:
    assert api.txt2img(width=512, height=512, firstphase_width=128, firstphase_height=64).status_code == 200
    [request] = api.engine.served
    assert (request.width, request.height, request.hires) == (128, 64, None)


def test_no_refiner_has_a_name(api: Api) -> None:
    for name in ("None", "none", ""):
        assert api.txt2img(refiner_checkpoint=name, refiner_switch_at=0.5).status_code == 200
    assert {request.refiner_checkpoint for request in api.engine.served} == {None}


def test_an_upscaler_is_told_where_it_was_asked_for(api: Api) -> None:
    for sent, told in (({}, False), ({"hr_upscaler": "Latent"}, True)):
        answer = api.txt2img(width=64, height=64, enable_hr=True, **sent).json()
        assert ("Hires upscaler: Latent" in answer["info"]) == told
