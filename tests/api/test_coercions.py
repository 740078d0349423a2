"""What A1111's request models take and refuse: one row for each case."""

import json
from typing import Any

import pytest

from tests.api.conftest import SMALL, Api

TAKEN: list[tuple[dict[str, Any], str, Any]] = [
    # sent, echoed field, echoed value
    ({"steps": 20.7}, "steps", 20),
    ({"steps": "20"}, "steps", 20),
    ({"steps": " 3 "}, "steps", 3),
    ({"steps": None}, "steps", None),
    ({"prompt": 123}, "prompt", "123"),
    ({"prompt": 1.5}, "prompt", "1.5"),
    ({"prompt": None}, "prompt", None),
    ({"styles": [1]}, "styles", ["1"]),
    ({"styles": None}, "styles", None),
    ({"cfg_scale": "7.5"}, "cfg_scale", 7.5),
    ({"cfg_scale": 7}, "cfg_scale", 7.0),
    ({"enable_hr": 0}, "enable_hr", False),
    ({"tiling": "true"}, "tiling", True),
    ({"restore_faces": "off"}, "restore_faces", False),
    ({"send_images": 1}, "send_images", True),
    ({"hr_scale": "1.0"}, "hr_scale", 1.0),
    ({"seed": "-1"}, "seed", -1),
    ({"seed": None}, "seed", None),
    ({"s_tmax": 1e308}, "s_tmax", 1e308),
    ({"s_noise": 0}, "s_noise", 0.0),
    ({"denoising_strength": 0}, "denoising_strength", 0.0),
    ({"hr_upscaler": "ESRGAN_4x"}, "hr_upscaler", "ESRGAN_4x"),  # nobody looks without enable_hr
    ({"script_args": [1, "a", None]}, "script_args", [1, "a", None]),
    ({"comments": {}}, "comments", {}),
    ({"seed_resize_from_w": 0, "seed_resize_from_h": 0}, "seed_resize_from_w", 0),
    ({"override_settings": {"CLIP_stop_at_last_layers": 1.0}}, "override_settings", {"CLIP_stop_at_last_layers": 1.0}),
    ({"override_settings": {"forge_additional_modules": []}}, "override_settings", {"forge_additional_modules": []}),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "field", "value"), TAKEN)
def test_old_clients_values_are_taken(api: Api, sent: dict[str, Any], field: str, value: Any) -> None:
    answer = api.txt2img(**sent)
    assert answer.status_code == 200, answer.text
    echoed = answer.json()["parameters"][field]
    assert echoed == value
    assert type(echoed) is type(value)
    assert len(api.engine.served) == 1


def test_sampler_index_is_used_where_sampler_name_is_absent_and_may_be_a_number(api: Api) -> None:
    assert api.txt2img(sampler_index="DPM++ SDE Karras").status_code == 200
    assert (api.engine.served[0].sampler, api.engine.served[0].scheduler) == ("DPM++ SDE", "Karras")
    assert api.txt2img(sampler_name="", sampler_index="k_euler_a").status_code == 200
    assert api.engine.served[1].sampler == "Euler a"
    # A number is a name that nobody has; what counts is that it is not a type error.
    refused = api.txt2img(sampler_index=5)
    assert refused.status_code == 400
    assert "There is no sampler '5'" in refused.json()["detail"]


def test_unknown_fields_are_ignored_and_not_echoed(api: Api) -> None:
    answer = api.txt2img(url="http://localhost", auth="", clip_skip=2, nsfw=True)
    assert answer.status_code == 200
    assert not {"url", "auth", "clip_skip", "nsfw"} & answer.json()["parameters"].keys()


def test_every_field_may_be_null_but_six(api: Api) -> None:
    strict = ("sampler_index", "script_args", "send_images", "save_images", "alwayson_scripts")
    fields = api.txt2img().json()["parameters"]
    for name in fields:
        answer = api.txt2img(**{name: None, "steps": None if name == "steps" else 1})
        assert answer.status_code == (422 if name in strict else 200), name


WRONG: list[tuple[dict[str, Any], int]] = [
    ({"steps": "many"}, 422),
    ({"steps": "20.7"}, 422),
    ({"steps": [1]}, 422),
    ({"prompt": ["a"]}, 422),
    ({"prompt": {"a": 1}}, 422),
    ({"enable_hr": "maybe"}, 422),
    ({"styles": "one"}, 422),
    ({"override_settings": []}, 422),
    ({"override_settings": {"CLIP_stop_at_last_layers": 99}}, 422),
    ({"override_settings": {"CLIP_stop_at_last_layers": "x"}}, 422),
    ({"override_settings": {"samples_format": "tiff"}}, 422),
    ({"override_settings": {"sd_model_checkpoint": "nowhere"}}, 400),
    ({"override_settings": {"sd_vae": "nowhere"}}, 400),
    ({"alwayson_scripts": []}, 422),
    ({"alwayson_scripts": {"controlnet": {"args": []}}}, 422),
    ({"script_name": "nothing"}, 422),
    ({"scheduler": "nothing"}, 400),
    ({"sampler_name": "nothing"}, 400),
    ({"width": 0}, 422),
    ({"seed": -2}, 422),
    ({"cfg_scale": 1000}, 422),
    ({"enable_hr": True, "hr_upscaler": "nothing"}, 400),
    ({"enable_hr": True, "hr_checkpoint_name": "nothing"}, 400),
    ({"enable_hr": True, "hr_scale": 0}, 422),
    ({"enable_hr": True, "denoising_strength": 200}, 422),
    ({"refiner_checkpoint": "nothing"}, 400),
]


@pytest.mark.parametrize(("sent", "status"), WRONG)
def test_what_cannot_be_is_refused_before_the_device(api: Api, sent: dict[str, Any], status: int) -> None:
    answer = api.txt2img(**sent)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]
    assert answer.headers["X-Error-Source"] == "client"
    assert not api.engine.served


def test_no_content_type_is_needed(api: Api) -> None:
    answer = api.post("/sdapi/v1/txt2img", content=json.dumps(SMALL).encode())
    assert answer.status_code == 200


# --- error bodies -------------------------------------------------------------------------------------

ERRORS: list[tuple[str, str, Any, int, str]] = [
    # method, path, body, status, what the detail has
    ("POST", "/sdapi/v1/txt2img", {"script_name": "x"}, 422, "Script 'x' not found"),
    ("POST", "/sdapi/v1/txt2img", {"alwayson_scripts": {"x": {}}}, 422, "Script 'x' not found"),
    ("POST", "/sdapi/v1/img2img", {"prompt": "x"}, 404, "Init image not found"),
    ("POST", "/sdapi/v1/img2img", {"init_images": ["nonsense!"]}, 400, "base64"),
    ("POST", "/sdapi/v1/img2img", {"init_images": []}, 400, "init_images is empty"),
    ("POST", "/sdapi/v1/interrogate", {"image": "", "model": "x"}, 404, "Model not found"),
    ("POST", "/sdapi/v1/interrogate", {"image": "", "model": "clip"}, 400, "empty"),
    ("POST", "/sdapi/v1/interrogate", {"image": "", "model": "deepdanbooru"}, 422, "clip"),
    ("POST", "/sdapi/v1/png-info", {"image": ""}, 400, "empty"),
    ("POST", "/sdapi/v1/png-info", {"image": "http://example.org/a.png"}, 400, "Requests not allowed"),
    ("POST", "/sdapi/v1/extra-single-image", {"image": ""}, 400, "empty"),
    ("POST", "/sdapi/v1/extra-batch-images", {"imageList": []}, 422, "imageList"),
    ("POST", "/sdapi/v1/options", {"sd_model_checkpoint": "x"}, 400, "There is no checkpoint 'x'"),
    ("POST", "/sdapi/v1/options", {"sd_vae": "x"}, 400, "There is no VAE 'x'"),
    ("POST", "/sdapi/v1/options", {"jpeg_quality": 0}, 422, "jpeg_quality"),
    ("POST", "/sdapi/v1/server-kill", None, 404, "SD_ENABLE_SERVER_STOP"),
    ("POST", "/sdapi/v1/train/embedding", {}, 501, "does not train"),
    ("POST", "/sdapi/v1/create/hypernetwork", {}, 501, "does not train"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "detail"), ERRORS)
def test_errors_have_a1111s_four_keys(
    api: Api, method: str, path: str, body: Any, status: int, detail: str
) -> None:
    answer = api.post(path, json=body)
    assert answer.status_code == status, answer.text
    content = answer.json()
    assert set(content) == {"error", "detail", "body", "errors"}
    assert detail in content["detail"]
    assert content["body"] == ""


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/sdapi/v1/nowhere", 404, {"detail": "Not Found"}),
        ("GET", "/sdapi/v1/sd-modules", 404, {"detail": "Not Found"}),  # SillyTavern asks for Forge's list
        ("GET", "/sdapi/v1/version", 404, {"detail": "Not Found"}),  # aiyabot looks for SD.Next
        ("GET", "/sdapi/v1/txt2img", 405, {"detail": "Method Not Allowed"}),
        ("PUT", "/sdapi/v1/options", 405, {"detail": "Method Not Allowed"}),
    ],
)
def test_unknown_routes_are_answered_plainly(
    api: Api, method: str, path: str, status: int, body: dict[str, str]
) -> None:
    answer = api.request(method, path)
    assert (answer.status_code, answer.json()) == (status, body)


def test_422_of_the_schema_has_the_list_that_fastapi_makes(api: Api) -> None:
    detail = api.txt2img(steps="many").json()["detail"]
    assert detail[0]["loc"] == ["body", "steps"]
    assert set(detail[0]) == {"loc", "msg", "type"}
    assert api.post("/sdapi/v1/png-info", json={}).json()["detail"][0]["loc"] == ["body", "image"]


@pytest.mark.parametrize("side", ["width", "height"])
def test_a_first_pass_without_a_size_has_no_second_one(api: Api, side: str) -> None:
    answer = api.txt2img(**{side: 0, "enable_hr": True, "hr_resize_x": 128})
    assert answer.status_code == 422
    assert side in answer.json()["detail"]
