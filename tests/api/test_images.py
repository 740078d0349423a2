"""What comes with images: infotext field, styles, comments, saving, grids, formats, samplers' own options."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.api.sdapi.saving import save
from service.api.sdapi.styles import Style, StyleBook
from service.imaging import infotext
from tests.api.conftest import SMALL, Api, opened
from tests.fakes import CHECKPOINT, OTHER, FakeEngine
from tests.live import LiveServer, serve

TEXT = (
    "a (red:1.2) fox\nNegative prompt: blurry, dark\n"
    "Steps: 7, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4.5, Seed: 99, Size: 128x64, "
    f"Model hash: {OTHER.short_hash}, Model: whatever, Variation seed: 5, Variation seed strength: 0.25, "
    "Clip skip: 2, ENSD: 31337, Version: v1.10.1"
)


def info_of(content: dict[str, Any]) -> dict[str, Any]:
    found = json.loads(content["info"])
    assert isinstance(found, dict)
    return found


# --- infotext -----------------------------------------------------------------------------------------


def test_an_infotext_fills_what_the_request_leaves_out(api: Api) -> None:
    answer = api.post("/sdapi/v1/txt2img", json={"infotext": TEXT, "steps": 3})
    assert answer.status_code == 200, answer.text
    made = api.engine.served[0]
    assert (made.prompt, made.negative_prompt) == ("a (red:1.2) fox", "blurry, dark")
    assert (made.steps, made.guidance_scale, made.seed) == (3, 4.5, 99), "what was sent stays"
    assert (made.width, made.height) == (128, 64)
    assert (made.sampler, made.scheduler) == ("DPM++ 2M", "Karras")
    assert (made.subseed, made.subseed_strength) == (5, 0.25)
    assert (made.clip_skip, made.eta_noise_seed_delta, made.checkpoint) == (2, 31337, OTHER.title)
    assert answer.json()["parameters"]["cfg_scale"] == 4.5


def test_override_settings_win_over_the_infotext(api: Api) -> None:
    body = {
        "infotext": TEXT,
        "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_model_checkpoint": CHECKPOINT.title},
    }
    assert api.post("/sdapi/v1/txt2img", json=body).status_code == 200
    assert (api.engine.served[0].clip_skip, api.engine.served[0].checkpoint) == (1, CHECKPOINT.title)


def test_a_checkpoint_that_is_not_here_is_a_remark(api: Api) -> None:
    text = "a\nSteps: 2, Sampler: Euler, Seed: 5, Size: 64x64, Model hash: 9999999999, Model: elsewhere"
    answer = api.post("/sdapi/v1/txt2img", json={"infotext": text}).json()
    assert api.engine.served[0].checkpoint is None
    assert "elsewhere" in info_of(answer)["comments"][0]


@pytest.mark.parametrize(
    "text",
    ["", "nothing of the kind", "Steps: many, Sampler: Euler, Seed: x, Size: 1x",
     "a\nSteps: 1e999, Seed: 5, CFG scale: abc", "\0\n\n::,,::", "Steps: 3, Sampler: Euler, Seed: 1, Tiling: perhaps"],
)  # fmt: skip
def test_any_text_will_do(api: Api, text: str) -> None:
    answer = api.post("/sdapi/v1/txt2img", json={"width": 64, "height": 64, "steps": 1, "infotext": text})
    assert answer.status_code == 200, answer.text


ROUND_TRIPS: list[dict[str, Any]] = [
    {"prompt": "a cat, sitting: here\nand there", "negative_prompt": "x"},
    {"sampler_name": "Euler a", "eta": 0.5},
    {"sampler_name": "DDIM", "eta": 0.75},
    {
        "sampler_name": "Euler",
        "override_settings": {"s_churn": 2.5, "s_tmin": 0.1, "s_tmax": 10, "s_noise": 1.01},
    },
    {"sampler_name": "DPM++ 2M SDE", "scheduler": "sgm_uniform"},
    {"tiling": True, "cfg_scale": 0.1, "subseed": 7, "subseed_strength": 0.1},
    {"seed_resize_from_w": 128, "seed_resize_from_h": 192},
    {
        "prompt": "a (cat:1.2)",
        "sampler_name": "Euler a",
        "override_settings": {
            "CLIP_stop_at_last_layers": 3,
            "emphasis": "No norm",
            "eta_noise_seed_delta": 5,
        },
    },
    {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent (bicubic)", "denoising_strength": 0.4},
    *({"enable_hr": True, "hr_scale": 1 + n / 13, "width": 512, "height": 384} for n in range(1, 13, 3)),
    {
        "enable_hr": True,
        "hr_resize_x": 96,
        "hr_resize_y": 128,
        "hr_upscaler": "Lanczos",
        "hr_second_pass_steps": 1,
    },
    {
        "enable_hr": True,
        "hr_sampler_name": "Heun",
        "hr_scheduler": "karras",
        "hr_prompt": "another, one: yes",
    },
    {"refiner_checkpoint": "other", "refiner_switch_at": 0.5},
]


@pytest.mark.parametrize("sent", ROUND_TRIPS)
def test_an_image_can_be_made_again_from_its_own_text(api: Api, sent: dict[str, Any]) -> None:
    first = api.txt2img(**sent)
    assert first.status_code == 200, first.text
    text = api.post("/sdapi/v1/png-info", json={"image": first.json()["images"][0]}).json()["info"]
    assert text == info_of(first.json())["infotexts"][0]
    second = api.post("/sdapi/v1/txt2img", json={"infotext": text})
    assert second.status_code == 200, second.text
    assert second.json()["images"] == first.json()["images"]
    one, two = api.engine.served
    # Unused where its strength is 0, so that no text tells it.
    ignored = {"subseed"} if not sent.get("subseed_strength") else set()
    fields = set(type(one).__dataclass_fields__) - ignored - {"checkpoint"}
    assert {name: getattr(one, name) for name in fields} == {name: getattr(two, name) for name in fields}


# --- styles and comments --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def styled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, FakeEngine, Path]]:
    folder = tmp_path_factory.mktemp("models")
    rows = 'name,prompt,negative_prompt\nsketch,"pencil of {prompt}, grey",colour\n"bold, one",bold,\n,nameless,\n'
    (folder / "styles.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    engine = FakeEngine()
    with serve(engine, models_dir=str(folder)) as live:
        yield live, engine, folder


def test_styles_are_listed_and_put_on(styled: tuple[LiveServer, FakeEngine, Path]) -> None:
    live, engine, folder = styled
    with live.client() as client:
        assert client.get("/sdapi/v1/prompt-styles").json() == [
            {"name": "sketch", "prompt": "pencil of {prompt}, grey", "negative_prompt": "colour"},
            {"name": "bold, one", "prompt": "bold", "negative_prompt": ""},
        ]
        body = {**SMALL, "negative_prompt": "dark", "styles": ["sketch", "bold, one", "missing"]}
        content = client.post("/sdapi/v1/txt2img", json=body).json()
        assert engine.served[-1].prompt == "pencil of a cat, grey, bold"
        assert engine.served[-1].negative_prompt == "dark, colour"
        info = info_of(content)
        assert (info["prompt"], info["styles"]) == ("pencil of a cat, grey, bold", body["styles"])
        assert info["comments"] == ["Styles not found: missing"]
        assert content["parameters"]["prompt"] == "a cat", "the echo is what was sent"
        (folder / "styles.csv").write_text("name,prompt,negative_prompt\nnew,x,y\n")
        assert client.post("/sdapi/v1/refresh-checkpoints").status_code == 200
        assert [style["name"] for style in client.get("/sdapi/v1/prompt-styles").json()] == ["new"]


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b'name\n"unclosed', b"a,b\n1,2\n", b"name,text\nold,way\n"]
)
def test_any_file_of_styles_can_be_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "styles.csv").write_bytes(content)
    assert all(isinstance(style, Style) for style in StyleBook.read(tmp_path).all())


def test_comments_are_stripped_unless_told_otherwise(api: Api) -> None:
    prompt = "a cat # with a hat\n# nothing here\non a mat"
    content = api.txt2img(prompt=prompt, negative_prompt="#all").json()
    assert (api.engine.served[0].prompt, api.engine.served[0].negative_prompt) == ("a cat\non a mat", "")
    assert info_of(content)["prompt"] == "a cat\non a mat"
    api.txt2img(prompt=prompt, override_settings={"enable_prompt_comments": False})
    assert api.engine.served[1].prompt == prompt


def test_restore_faces_is_ignored_and_said_to_be(api: Api) -> None:
    assert api.get("/sdapi/v1/face-restorers").json() == []
    info = info_of(api.txt2img(restore_faces=True).json())
    assert (info["restore_faces"], info["face_restoration_model"]) == (False, None)
    assert "no face restorer" in info["comments"][0]
    assert info_of(api.txt2img(restore_faces=False).json())["comments"] == []


# --- options that reach the engine ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "eta"),
    [
        ({"sampler_name": "Euler a"}, None),
        ({"sampler_name": "Euler a", "eta": 1.0}, None),  # webuiapi always sends it
        ({"sampler_name": "Euler a", "eta": 0}, 0.0),
        ({"sampler_name": "Euler a", "override_settings": {"eta_ancestral": 0.5}}, 0.5),
        ({"sampler_name": "Euler a", "override_settings": {"eta_ddim": 0.5}}, None),
        ({"sampler_name": "DDIM"}, None),
        ({"sampler_name": "DDIM", "eta": 1.0}, 1.0),
        ({"sampler_name": "DDIM", "override_settings": {"eta_ddim": 0.5}}, 0.5),
        ({"sampler_name": "Euler", "eta": 0.5}, None),  # takes none
    ],
)
def test_eta(api: Api, sent: dict[str, Any], eta: float | None) -> None:
    content = api.txt2img(**sent).json()
    assert api.engine.served[0].eta == eta
    written = {
        key: value
        for key, value in info_of(content)["extra_generation_params"].items()
        if key.startswith("Eta")
    }
    key = "Eta DDIM" if sent["sampler_name"] == "DDIM" else "Eta"
    assert written == ({} if eta is None else {key: eta})


def test_sigmas_come_from_fields_or_options(api: Api) -> None:
    api.txt2img(s_tmax=0, s_churn=1)
    api.txt2img(override_settings={"s_tmax": 5, "s_noise": 1.1, "s_min_uncond": 0.2})
    first, second = api.engine.served
    assert (first.s_tmax, first.s_churn) == (float("inf"), 1)
    assert (second.s_tmax, second.s_noise, second.s_min_uncond) == (5, 1.1, 0.2)


SHAPES = [
    ("rho", 5.0, "rho", "Schedule rho"),
    ("sigma_min", 0.1, "sigma_min", "Schedule min sigma"),
    ("sigma_max", 10.0, "sigma_max", "Schedule max sigma"),
    ("beta_dist_alpha", 0.5, "beta_alpha", "Beta schedule alpha"),
    ("beta_dist_beta", 0.5, "beta_beta", "Beta schedule beta"),
    ("always_discard_next_to_last_sigma", True, "discard_next_to_last_sigma", "Discard penultimate sigma"),
    ("uni_pc_skip_type", "logSNR", "unipc_spacing", "UniPC skip type"),
    ("uni_pc_variant", "bh2", "unipc_variant", "UniPC variant"),
    ("uni_pc_order", 2, "unipc_order", "UniPC order"),
    ("uni_pc_lower_order_final", False, "unipc_lower_order_final", "UniPC lower order final"),
]


@pytest.mark.parametrize(("option", "value", "field", "key"), SHAPES)
def test_options_bend_the_schedule_and_the_infotext_repeats_it(
    api: Api, option: str, value: Any, field: str, key: str
) -> None:
    # What has no effect is not told, but for UniPC's options.
    by = {"uni": {"sampler_name": "UniPC"}, "bet": {"scheduler": "Beta"}}.get(
        option[:3], {"scheduler": "Karras"}
    )
    content = api.txt2img(override_settings={option: value}, **by).json()
    api.txt2img(infotext=info_of(content)["infotexts"][0])
    api.txt2img()
    shapes = [getattr(request.shape, field) for request in api.engine.served]
    assert shapes[:2] == [value, value] != [shapes[2]] * 2
    assert info_of(content)["extra_generation_params"][key] == value


@pytest.mark.parametrize(
    "options",
    [{"sigma_min": 5, "sigma_max": 2}, {"sigma_min": 1e-9}, {"sigma_max": 0.01}, {"uni_pc_variant": "x"}],
)
def test_options_that_make_no_schedule_are_refused(api: Api, options: dict[str, Any]) -> None:
    answer = api.post("/sdapi/v1/txt2img", json={"override_settings": options})
    assert answer.status_code == 422, answer.text


# --- saving and grids -------------------------------------------------------------------------------------


def test_without_an_output_dir_a_grid_comes_first_and_nothing_is_written(api: Api) -> None:
    content = api.txt2img(save_images=True, n_iter=2, batch_size=2).json()
    info = info_of(content)
    assert len(content["images"]) == len(info["infotexts"]) == 5
    assert info["index_of_first_image"] == 1
    assert info["infotexts"][0] == info["infotexts"][1]
    grid = opened(content["images"][0])
    assert grid.size == (128, 128)
    assert grid.info["parameters"] == info["infotexts"][0]
    for index in range(4):
        tile = grid.crop((index % 2 * 64, index // 2 * 64, index % 2 * 64 + 64, index // 2 * 64 + 64))
        assert tile.tobytes() == opened(content["images"][index + 1]).tobytes()


@pytest.mark.parametrize(
    ("sent", "count"),
    [
        ({"save_images": True}, 1),
        ({"save_images": False, "batch_size": 3}, 3),
        ({"save_images": True, "batch_size": 3, "override_settings": {"return_grid": False}}, 3),
        ({"save_images": True, "override_settings": {"grid_only_if_multiple": False}}, 2),
        ({"save_images": True, "batch_size": 3, "send_images": False}, 0),
    ],
)
def test_when_there_is_a_grid(api: Api, sent: dict[str, Any], count: int) -> None:
    answer = api.txt2img(**sent)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["images"]) == count


def test_files_are_named_as_a1111_names_them(tmp_path: Path) -> None:
    with serve(FakeEngine(), output_dir=str(tmp_path)) as live, live.client() as client:
        for _ in range(2):
            body = {**SMALL, "seed": 7, "batch_size": 2, "save_images": True, "force_task_id": "../../x"}
            content = client.post("/sdapi/v1/txt2img", json=body).json()
        client.post("/sdapi/v1/txt2img", json=SMALL)
        override = {"samples_format": "jpg", "grid_format": "webp"}
        client.post(
            "/sdapi/v1/txt2img",
            json={**SMALL, "save_images": True, "batch_size": 2, "override_settings": override},
        )
        client.post(
            "/sdapi/v1/txt2img",
            json={**SMALL, "save_images": True, "override_settings": {"samples_save": False}},
        )
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    names = [re.sub(r"\d{4}-\d{2}-\d{2}", "DAY", name) for name in files]
    assert names == [
        "txt2img-grids/DAY/grid-0000.png", "txt2img-grids/DAY/grid-0001.png", "txt2img-grids/DAY/grid-0002.webp",
        "txt2img-images/DAY/00000-7.png", "txt2img-images/DAY/00001-8.png", "txt2img-images/DAY/00002-7.png",
        "txt2img-images/DAY/00003-8.png", "txt2img-images/DAY/00004-1.jpg", "txt2img-images/DAY/00005-2.jpg",
    ]  # fmt: skip
    assert (tmp_path / files[5]).read_bytes() == base64.b64decode(content["images"][1])


def test_a_full_disk_costs_the_files_not_the_answer(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert save(blocked, "txt2img", ["AAAA"], [1], "png") == []


@pytest.mark.parametrize(
    ("name", "format"), [("jpg", "JPEG"), ("JPEG", "JPEG"), ("webp", "WEBP"), ("png", "PNG")]
)
def test_the_format_of_one_request(api: Api, name: str, format: str) -> None:
    content = api.txt2img(override_settings={"samples_format": name, "jpeg_quality": 95}).json()
    image = opened(content["images"][0])
    assert image.format == format
    found = api.post("/sdapi/v1/png-info", json={"image": content["images"][0]}).json()
    assert found["info"] == info_of(content)["infotexts"][0]
    assert found["parameters"]["Seed"] == "1"


def test_info_has_a1111s_keys_in_order(api: Api) -> None:
    content = api.txt2img().json()
    assert list(content) == ["images", "parameters", "info"]
    assert list(info_of(content))[:32] == [
        "prompt", "all_prompts", "negative_prompt", "all_negative_prompts", "seed", "all_seeds", "subseed",
        "all_subseeds", "subseed_strength", "width", "height", "sampler_name", "cfg_scale", "steps", "batch_size",
        "restore_faces", "face_restoration_model", "sd_model_name", "sd_model_hash", "sd_vae_name", "sd_vae_hash",
        "seed_resize_from_w", "seed_resize_from_h", "denoising_strength", "extra_generation_params",
        "index_of_first_image", "infotexts", "styles", "job_timestamp", "clip_skip",
        "is_using_inpainting_conditioning", "version",
    ]  # fmt: skip
    assert infotext.parse(info_of(content)["infotexts"][0])["Seed"] == "1"
