"""What the lists say, and that all they name can be used."""

from typing import Any

import pytest

from service.catalogue import samplers
from tests.api.conftest import Api
from tests.fakes import CHECKPOINT, OTHER
from tests.live import on_a_pod

A1111_SAMPLERS = [
    "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a", "Euler",
    "LMS", "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "DDIM CFG++", "PLMS", "UniPC",
    "LCM",
]  # fmt: skip


def get(api: Api, path: str) -> Any:
    answer = api.get(f"/sdapi/v1/{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_samplers(api: Api) -> None:
    found = get(api, "samplers")
    assert [item["name"] for item in found] == A1111_SAMPLERS
    assert found[6] == {
        "name": "Euler a",
        "aliases": ["k_euler_a", "k_euler_ancestral"],
        "options": {"uses_ensd": "True"},
    }
    for item in found:
        assert all(isinstance(value, str) for value in item["options"].values())
        for name in (item["name"], *item["aliases"], item["name"].upper()):
            assert api.txt2img(sampler_name=name, steps=1).status_code == 200, name
            assert api.engine.served[-1].sampler == item["name"]


def test_schedulers(api: Api) -> None:
    found = get(api, "schedulers")
    assert [item["name"] for item in found] == [s.name for s in samplers.SCHEDULERS]
    assert found[2] == {
        "name": "karras", "label": "Karras", "aliases": None, "default_rho": 7.0, "need_inner_model": False,
    }  # fmt: skip
    assert [item["aliases"] for item in found if item["aliases"]] == [["SGMUniform"]]
    for item in found:
        for name in (item["name"], item["label"]):
            assert api.txt2img(scheduler=name, steps=1).status_code == 200
            assert api.engine.served[-1].scheduler == item["label"]


def test_upscalers(api: Api) -> None:
    found = get(api, "upscalers")
    assert [item["name"] for item in found] == ["None", "Lanczos", "Nearest", "Fake 4x"]
    assert found[3] == {
        "name": "Fake 4x", "model_name": "Fake 4x", "model_path": "/models/upscalers/fake.safetensors",
        "model_url": None, "scale": 4.0,
    }  # fmt: skip
    assert get(api, "realesrgan-models") == [
        {"name": "Fake 4x", "path": "/models/upscalers/fake.safetensors", "scale": 4}
    ]
    for name in [item["name"] for item in found] + [
        item["name"] for item in get(api, "latent-upscale-modes")
    ]:
        assert api.txt2img(enable_hr=True, hr_upscaler=name).status_code == 200, name


def test_checkpoints(api: Api) -> None:
    found = get(api, "sd-models")
    assert found[0] == {
        "title": CHECKPOINT.title, "model_name": CHECKPOINT.name, "hash": CHECKPOINT.short_hash,
        "sha256": CHECKPOINT.sha256, "filename": CHECKPOINT.filename, "config": None,
    }  # fmt: skip
    assert [item["title"] for item in found] == [CHECKPOINT.title, OTHER.title]
    for item in found:
        for key in ("title", "model_name", "hash", "sha256"):
            answer = api.txt2img(override_settings={"sd_model_checkpoint": item[key]})
            assert answer.status_code == 200
            assert api.engine.served[-1].checkpoint == item["title"]
    assert api.txt2img(refiner_checkpoint="OTHER", refiner_switch_at=0.5).status_code == 200
    assert api.engine.served[-1].refiner_checkpoint == OTHER.title


def test_vaes(api: Api) -> None:
    found = get(api, "sd-vae")
    assert found == [{"model_name": "other.vae.safetensors", "filename": "/models/vae/other.vae.safetensors"}]
    for name, meant in [(found[0]["model_name"],) * 2, ("Automatic", None), ("None", None), ("", None)]:
        assert api.txt2img(override_settings={"sd_vae": name}).status_code == 200
        assert api.engine.served[-1].vae == meant


def test_networks_and_embeddings(api: Api) -> None:
    assert get(api, "loras") == [
        {
            "name": "detail",
            "alias": "more-detail",
            "path": "/models/loras/detail.safetensors",
            "metadata": {"ss_network_dim": "8"},
        }
    ]
    plain = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None}
    assert get(api, "embeddings") == {
        "loaded": {"nice": {**plain, "shape": 768, "vectors": 4}},
        "skipped": {"wide": {**plain, "shape": 1024, "vectors": 2}},
    }


@pytest.mark.parametrize("path", ["hypernetworks", "face-restorers", "extensions", "prompt-styles"])
def test_what_there_is_not_is_an_empty_list(api: Api, path: str) -> None:
    assert get(api, path) == []


def test_scripts_and_their_arguments_agree(api: Api) -> None:
    names, described = get(api, "scripts"), get(api, "script-info")
    for kind in ("txt2img", "img2img"):
        assert [item["name"] for item in described if item["is_img2img"] is (kind == "img2img")] == names[
            kind
        ]
    assert all(name == name.lower() for kind in names.values() for name in kind)
    for item in described:
        assert item["is_alwayson"] is False
        for argument in item["args"]:
            assert set(argument) == {"label", "value", "minimum", "maximum", "step", "choices"}


def test_no_list_names_what_clients_would_then_send(api: Api) -> None:
    listed = str(get(api, "scripts")).lower()
    assert not [name for name in ("controlnet", "adetailer", "animatediff", "reactor") if name in listed]
    assert "forge_preset" not in get(api, "options")


def test_memory(api: Api) -> None:
    found = get(api, "memory")
    assert found["cuda"] == {"error": "unavailable"}
    ram = found["ram"]
    assert 0 < ram["used"] < ram["total"]
    assert ram["free"] == ram["total"] - ram["used"]


@on_a_pod
def test_memory_of_a_device(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"total": 1000, "used": 600, "allocated": 300, "reserved": 400}
    monkeypatch.setattr(api.engine, "device_memory", lambda: figures)
    cuda = get(api, "memory")["cuda"]
    assert cuda["system"] == {"free": 400, "used": 600, "total": 1000}
    assert (cuda["allocated"]["current"], cuda["reserved"]["current"], cuda["inactive"]["current"]) == (
        300,
        400,
        100,
    )
    assert cuda["events"] == {"retries": 0, "oom": 0}


@on_a_pod
@pytest.mark.parametrize(
    "path", ["refresh-checkpoints", "refresh-vae", "refresh-loras", "refresh-embeddings"]
)
@pytest.mark.parametrize("content", [b"", b'""', b"{}"])
def test_refresh(api: Api, path: str, content: bytes) -> None:
    before = api.engine.refreshed
    answer = api.post(f"/sdapi/v1/{path}", content=content)
    assert (answer.status_code, answer.json()) == (200, None)
    assert api.engine.refreshed == before + 1


@on_a_pod
@pytest.mark.parametrize("content", [b"", b'""'])  # text-generation-webui posts a JSON string
def test_unload_and_reload(api: Api, content: bytes) -> None:
    assert api.post("/sdapi/v1/reload-checkpoint", content=content).json() == {}
    assert api.engine.loaded == [CHECKPOINT.title]
    assert api.post("/sdapi/v1/unload-checkpoint", content=content).json() == {}
    assert api.engine.loaded == []


def test_everything_is_described(api: Api) -> None:
    schema = api.get("/openapi.json").json()
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            assert operation.get("summary"), (method, path)
            assert operation.get("description"), (method, path)
    assert api.get("/docs").status_code == 200
    assert api.get("/redoc").status_code == 200


def test_options_of_a1111s_own_extensions_are_there(api: Api) -> None:
    options = get(api, "options")
    assert (options["sd_lora"], options["lora_preferred_name"]) == ("None", "Alias from file")
    assert options["canvas_disabled_functions"] == ["Overlap"]
    assert (options["extra_options_txt2img"], options["extra_options_cols"]) == ([], 1)
    assert {"settings_in_ui", "sd_vae_explanation", "profiling_explanation"} <= options.keys()


def test_what_is_refused_leaves_errors_empty_and_what_is_not_found_does_not(api: Api) -> None:
    refused = api.post("/sdapi/v1/img2img", json={}).json()
    assert refused["detail"].startswith("Init image not found")
    assert refused["errors"] == ""
    unknown = api.post("/sdapi/v1/options", json={"sd_model_checkpoint": "nope"}).json()
    assert "nope" in unknown["errors"]
