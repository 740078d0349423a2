"""Requests as well-known clients send them, in their order, with what each of them reads from the answers."""

import base64
import json
from typing import Any

import pytest

from tests.api.conftest import Api, opened, picture
from tests.fakes import CHECKPOINT, OTHER


def test_open_webui(api: Api) -> None:
    headers = {"authorization": ""}
    assert api.get("/sdapi/v1/options", headers=headers).status_code == 200
    models = api.get("/sdapi/v1/sd-models", headers=headers).json()
    options = api.get("/sdapi/v1/options", headers=headers).json()
    options["sd_model_checkpoint"] = models[1]["title"]
    assert api.post("/sdapi/v1/options", json=options, headers=headers).status_code == 200
    assert api.get("/sdapi/v1/options", headers=headers).json()["sd_model_checkpoint"] == models[1]["title"]
    body = {"prompt": "a", "batch_size": 1, "width": 64, "height": 64, "steps": 2, "negative_prompt": "b"}
    answer = api.post("/sdapi/v1/txt2img", json=body, headers=headers).json()
    assert opened(answer["images"][0]).size == (64, 64)
    assert json.loads(answer["info"])["sd_model_name"] == OTHER.name


def test_sillytavern(api: Api) -> None:
    headers = {"Authorization": "Basic"}
    assert "forge_preset" not in api.get("/sdapi/v1/options", headers=headers).json()
    assert api.get("/sdapi/v1/sd-modules", headers=headers).status_code == 404
    for path, key in (
        ("samplers", "name"),
        ("schedulers", "name"),
        ("upscalers", "name"),
        ("sd-vae", "model_name"),
    ):
        assert all(item[key] for item in api.get(f"/sdapi/v1/{path}", headers=headers).json())
    api.post("/sdapi/v1/options", json={"sd_model_checkpoint": OTHER.title}, headers=headers)
    ready = api.get("/sdapi/v1/progress", headers=headers).json()
    assert (ready["progress"], ready["state"]["job_count"]) == (0, 0)
    body = {
        "url": api.live.url, "auth": "", "prompt": "a", "negative_prompt": "b", "sampler_name": "Euler a",
        "scheduler": "karras", "steps": 2, "cfg_scale": 7, "width": 64, "height": 64, "restore_faces": False,
        "enable_hr": False, "hr_upscaler": "Latent", "hr_scale": 1, "hr_additional_modules": [],
        "denoising_strength": 0.7, "hr_second_pass_steps": 0, "seed": -1, "clip_skip": 1, "nsfw": True,
        "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"},
        "override_settings_restore_afterwards": True, "save_images": True, "send_images": True,
        "do_not_save_grid": False, "do_not_save_samples": False,
    }  # fmt: skip
    answer = api.post("/sdapi/v1/txt2img", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["images"]) == 1
    assert api.post("/sdapi/v1/interrupt", headers=headers).json() == {}


def test_librechat(api: Api) -> None:
    body = {
        "prompt": "a",
        "negative_prompt": "b",
        "cfg_scale": 4.5,
        "steps": 2,
        "width": 1024,
        "height": 1024,
    }
    answer = api.post("/sdapi/v1/txt2img", json=body).json()
    image = answer["images"][0].split(",", 1)[0]
    assert opened(image).size == (1024, 1024)
    info = json.loads(answer["info"])
    assert (info["height"], info["width"]) == (1024, 1024)
    assert str(info["seed"]) in info["infotexts"][0]


def test_koboldai_lite(api: Api) -> None:
    assert api.get("/sdapi/v1/sd-models").json()
    assert api.get("/sdapi/v1/options").json()["samples_format"] is not None
    body = {
        "prompt": "a", "negative_prompt": "", "seed": -1, "steps": 2, "width": 64, "height": 64, "cfg_scale": 7.0,
        "sampler_name": "Euler a", "clip_skip": -1, "batch_size": 1, "n_iter": 1,
        "override_settings": {
            "sd_model_checkpoint": CHECKPOINT.title, "eta_noise_seed_delta": 0.0, "CLIP_stop_at_last_layers": 1.0,
            "ddim_discretize": "uniform", "img2img_fix_steps": False, "sd_hypernetwork": "None",
            "inpainting_mask_weight": 1.0, "initial_noise_multiplier": 1.0, "comma_padding_backtrack": 20.0,
        },
    }  # fmt: skip
    assert api.post("/sdapi/v1/txt2img", json=body).status_code == 200
    assert (api.engine.served[0].clip_skip, api.engine.served[0].comma_padding_backtrack) == (1, 20)
    again = api.post(
        "/sdapi/v1/img2img", json={**body, "init_images": [picture()], "denoising_strength": 0.6}
    )
    assert again.status_code == 200, again.text


def test_openoutpaint(api: Api) -> None:
    assert api.get("/sdapi/v1/options/").status_code == 200
    assert api.post("/sdapi/v1/options/", json={"inpainting_mask_weight": 0.5}).status_code == 200
    body = {
        "prompt": "a", "init_images": ["data:image/png;base64," + picture(64, 64)], "width": 64, "height": 64,
        "mask": "data:image/png;base64," + picture(64, 64, "RGB"), "inpainting_fill": 2, "inpaint_full_res": False,
        "mask_blur": 0, "steps": 2, "styles": [], "denoising_strength": 1, "inpainting_mask_invert": True,
    }  # fmt: skip
    answer = api.post("/sdapi/v1/img2img", json=body)
    assert answer.status_code == 200, answer.text
    request = api.engine.served[0]
    assert request.init is not None
    assert (request.init.inpainting_fill, request.inpainting_mask_weight) == (2, 0.5)
    body = {"resize-mode": 0, "upscaling_resize": 2, "upscaler_1": "Lanczos", "image": picture(32, 32)}
    assert opened(api.post("/sdapi/v1/extra-single-image/", json=body).json()["image"]).size == (64, 64)


def test_text_generation_webui(api: Api) -> None:
    body = {
        "prompt": "a", "seed": -1, "sampler_name": "DPM++ 2M", "enable_hr": False, "hr_scale": "1.0",
        "hr_upscaler": "ESRGAN_4x", "denoising_strength": 0.5, "steps": 2, "cfg_scale": 7, "width": 64, "height": 64,
        "restore_faces": False, "override_settings_restore_afterwards": True, "negative_prompt": "",
    }  # fmt: skip
    answer = api.post("/sdapi/v1/txt2img", json=body).json()
    assert base64.b64decode(answer["images"][0].split(",", 1)[0])
    for path in ("unload-checkpoint", "reload-checkpoint"):
        assert api.post(f"/sdapi/v1/{path}", json="").json() == {}


def test_dify(api: Api) -> None:
    def post(path: str, body: Any) -> Any:
        answer = api.post(f"/sdapi/v1/{path}", content=json.dumps(body).encode())  # no Content-Type
        assert answer.status_code == 200, answer.text
        return answer.json()

    names = [item["model_name"] for item in api.get("/sdapi/v1/sd-models").json()]
    post("options", {"sd_model_checkpoint": names[1]})
    draw = {
        "init_images": [], "styles": [], "seed": -1, "subseed": -1, "subseed_strength": 0, "seed_resize_from_h": -1,
        "seed_resize_from_w": -1, "sampler_index": "DPM++ SDE Karras", "batch_size": 1, "n_iter": 1, "steps": 2,
        "cfg_scale": 7, "width": 64, "height": 64, "restore_faces": False, "do_not_save_samples": False,
        "do_not_save_grid": False, "eta": 0, "denoising_strength": 0, "s_min_uncond": 0, "s_churn": 0, "s_tmax": 0,
        "s_tmin": 0, "s_noise": 0, "override_settings": {}, "override_settings_restore_afterwards": True,
        "refiner_switch_at": 0, "disable_extra_networks": False, "comments": {}, "enable_hr": False,
        "firstphase_width": 0, "firstphase_height": 0, "hr_scale": 2, "hr_second_pass_steps": 0, "hr_resize_x": 0,
        "hr_resize_y": 0, "hr_prompt": "", "hr_negative_prompt": "", "script_args": [], "send_images": True,
        "save_images": False, "alwayson_scripts": {}, "prompt": "a", "negative_prompt": "",
    }  # fmt: skip
    assert post("txt2img", draw)["images"]
    made = api.engine.served[0]
    assert (made.sampler, made.scheduler, made.checkpoint) == ("DPM++ SDE", "Karras", OTHER.title)


def test_aiyabot(api: Api) -> None:
    assert api.get("/sdapi/v1/cmd-flags").status_code == 200
    assert "sd.next" not in api.get("/sdapi/v1/version").text
    assert api.get("/sdapi/v1/embeddings").json()["loaded"]
    for path in ("samplers", "prompt-styles", "face-restorers", "hypernetworks", "upscalers", "sd-models"):
        assert isinstance(api.get(f"/sdapi/v1/{path}").json(), list)
    assert [lora["alias"] for lora in api.get("/sdapi/v1/loras").json()] == ["more-detail"]


def test_swarmui(api: Api) -> None:
    title = OTHER.title.rsplit(" [", 1)[0]
    assert api.post("/sdapi/v1/options", json={"sd_model_checkpoint": title}).status_code == 200
    assert api.get("/sdapi/v1/options").json()["sd_model_checkpoint"].startswith(title)
    answer = api.txt2img(prompt="a <lora:detail:0.7>")
    assert json.loads(answer.json()["info"])["prompt"] == "a <lora:detail:0.7>"


@pytest.mark.parametrize("s_tmax", [1e308, 0, "1e3"])
def test_distributed(api: Api, s_tmax: Any) -> None:
    assert set(api.get("/sdapi/v1/memory").json()) == {"ram", "cuda"}
    answer = api.txt2img(s_tmax=s_tmax, batch_size=3).json()
    info = json.loads(answer["info"])
    assert len(info["all_seeds"]) == len(info["infotexts"]) == len(info["all_prompts"]) == 3
