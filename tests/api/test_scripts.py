"""A1111's scripts over HTTP: what they make, in which order, and what they refuse."""

import base64
import io
import json
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.api.sdapi.scripts.axes import axes_for
from service.core.tiling import Tiling
from tests.fakes import FakeEngine
from tests.live import LiveServer, serve

BODY: dict[str, Any] = {"prompt": "a cat|red|in snow", "seed": 10, "steps": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def live() -> Iterator[tuple[LiveServer, FakeEngine]]:
    engine = FakeEngine()
    with serve(engine) as server:
        yield server, engine


def ask(
    live: tuple[LiveServer, FakeEngine], script: str, arguments: list[Any], path: str = "txt2img", **body: Any
) -> httpx.Response:
    live[1].served.clear()
    with live[0].client() as client:
        return client.post(
            f"/sdapi/v1/{path}", json={**BODY, "script_name": script, "script_args": arguments, **body}
        )


def pictures(answer: httpx.Response) -> list[Image.Image]:
    assert answer.status_code == 200, answer.text
    return [Image.open(io.BytesIO(base64.b64decode(image))) for image in answer.json()["images"]]


def png(width: int = 64, height: int = 64) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3)).save(
        buffer, "PNG"
    )
    return base64.b64encode(buffer.getvalue()).decode()


def test_prompt_matrix_makes_every_combination_and_a_grid(live: tuple[LiveServer, FakeEngine]) -> None:
    answer = ask(live, "Prompt matrix", [False, False, "positive", "comma", 0])
    assert [request.prompt for request in live[1].served] == [
        "a cat", "a cat, red", "a cat, in snow", "a cat, red, in snow",
    ]  # fmt: skip
    assert {request.seed for request in live[1].served} == {10}
    shown = pictures(answer)
    assert len(shown) == 5
    assert min(shown[0].size) > 2 * 64, "the grid has captions"
    info = json.loads(answer.json()["info"])
    assert info["index_of_first_image"] == 1
    assert len(info["infotexts"]) == 5
    assert info["all_prompts"][3] == "a cat, red, in snow"
    assert shown[4].info["parameters"].startswith("a cat, red, in snow\nSteps: 2")
    assert "parameters" not in shown[0].info
    assert info["infotexts"][0].startswith("a cat\nSteps: 2")


def test_prompt_matrix_on_the_negative_prompt_with_other_seeds(live: tuple[LiveServer, FakeEngine]) -> None:
    ask(live, "prompt matrix", [True, True, "negative", "space"], prompt="x", negative_prompt="a|b")
    assert [request.negative_prompt for request in live[1].served] == ["a", "b a"]
    assert [request.seed for request in live[1].served] == [10, 11]


@pytest.mark.parametrize("arguments", [
    ["Steps", "2,3", "CFG Scale", "1-2 [3]", "Nothing", "", True, True, False, False, 0],
    [4, "2,3", [], "cfg scale", "1-2 (+0.5)", [], 0, "", [], "True", "True", *[False] * 5, 0, False],
])  # fmt: skip
def test_xyz_plot_runs_through_its_axes(live: tuple[LiveServer, FakeEngine], arguments: list[Any]) -> None:
    answer = ask(live, "X/Y/Z plot", arguments)
    assert [(request.steps, request.guidance_scale) for request in live[1].served] == [
        (2, 1.0), (3, 1.0), (2, 1.5), (3, 1.5), (2, 2.0), (3, 2.0),
    ]  # fmt: skip
    assert len(pictures(answer)) == 7


def test_xyz_plot_answers_the_grid_alone_unless_lone_images_are_wanted(
    live: tuple[LiveServer, FakeEngine],
) -> None:
    answer = ask(live, "x/y/z plot", ["Prompt S/R", "cat, dog", "Sampler", "Euler a, DPM++ 2M Karras"])
    assert len(pictures(answer)) == 1
    asked = [(request.prompt, request.sampler, request.scheduler) for request in live[1].served]
    assert asked[0] == ("a cat|red|in snow", "Euler a", "Automatic")
    assert asked[3] == ("a dog|red|in snow", "DPM++ 2M", "Karras")


def test_xyz_plot_tells_of_its_axes(live: tuple[LiveServer, FakeEngine]) -> None:
    arguments = ["Seed", "5-6", [], "Steps", "2", [], "CFG Scale", "1, 2", [], False, False, True, False]
    answer = ask(live, "x/y/z plot", [*arguments, *[False] * 3, 0, False])
    shown, info = pictures(answer), json.loads(answer.json()["info"])
    assert len(shown) == 3, "the grid, and one for each value of z"
    assert all("parameters" not in image.info for image in shown), "as in A1111"
    axes = (
        'Script: X/Y/Z plot, X Type: Seed, X Values: 5-6, Fixed X Values: "5, 6", Y Type: Steps, Y Values: 2'
    )
    assert info["infotexts"][0].split("RNG: CPU, ")[1] == (
        f'{axes}, Z Type: CFG Scale, Z Values: "1, 2", Version: v1.10.1'
    )
    assert [text.split("RNG: CPU, ")[1] for text in info["infotexts"][1:3]] == [
        f"{axes}, Version: v1.10.1"
    ] * 2
    assert "CFG scale: 2.0" in info["infotexts"][2]
    assert len(info["infotexts"]) == 3 + 4, "pictures that are not sent are told of too"
    assert info["all_seeds"] == [5, 6, 5, 6]


def test_xyz_plot_puts_styles_on(tmp_path: Path) -> None:
    rows = 'name,prompt,negative_prompt\nink,"ink, {prompt}",\ndark,at night,light\n'
    (tmp_path / "styles.csv").write_text(rows)
    arguments = ["Styles", '"ink", "ink,dark", "None"', "Nothing", "", "Nothing", ""]
    engine = FakeEngine()
    with serve(engine, models_dir=tmp_path) as server:
        answer = ask((server, engine), "x/y/z plot", arguments, prompt="a cat", negative_prompt="blur")
        assert answer.status_code == 200, answer.text
        assert [(request.prompt, request.negative_prompt) for request in engine.served] == [
            ("ink, a cat", "blur"), ("ink, a cat, at night", "blur, light"), ("a cat", "blur"),
        ]  # fmt: skip
        second: dict[str, Any] = {
            "enable_hr": True,
            "hr_scale": 2,
            "hr_prompt": "a dog",
            "denoising_strength": 0.5,
        }
        assert ask((server, engine), "x/y/z plot", ["Styles", "dark"], **second).status_code == 200
        hires = engine.served[0].hires
        assert hires is not None
        assert (hires.prompt, hires.negative_prompt) == ("a dog, at night", None)
        unknown = ask((server, engine), "x/y/z plot", ["Styles", "dusk"])
        assert (unknown.status_code, "Use one of: ink, dark" in unknown.text) == (422, True)
        with server.client() as client:
            told = client.get("/sdapi/v1/script-info").json()
    plot = next(one for one in told if one["name"] == "x/y/z plot" and not one["is_img2img"])
    assert "Styles" in plot["args"][0]["choices"]


def test_xyz_plot_draws_the_seeds_that_are_left_open(live: tuple[LiveServer, FakeEngine]) -> None:
    answer = ask(live, "x/y/z plot", ["Seed", "-1, -1, 3"])
    seeds = [request.seed for request in live[1].served]
    assert seeds[2] == 3
    assert len(set(seeds)) == 3
    assert min(seeds) >= 0
    assert f'Fixed X Values: "{seeds[0]}, {seeds[1]}, 3"' in json.loads(answer.json()["info"])["infotexts"][0]
    open_seeds: list[Any] = ["Steps", "2,3", "Nothing", "", "Nothing", "", False, False, False, True]
    ask(live, "x/y/z plot", open_seeds)
    assert {request.seed for request in live[1].served} == {10}, "a seed that was given stays"
    ask(live, "x/y/z plot", open_seeds, seed=-1)
    assert len({request.seed for request in live[1].served}) == 2


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("x/y/z plot", ["Steps", "1-100"], "SD_MAX_IMAGES"),
        ("x/y/z plot", ["Steps", "many"], "cannot be read"),
        ("x/y/z plot", ["Steps", "500"], "steps is 500"),
        ("x/y/z plot", ["Styles", "a,b"], "not offered"),  # there are none
        ("x/y/z plot", ["Face restore", "GFPGAN"], "not offered"),
        ("x/y/z plot", ["Token merging ratio", "0.95"], "from 0 to 0.9"),
        ("x/y/z plot", ["Nonsense", "1"], "choose one of"),
        ("x/y/z plot", ["Prompt S/R", "zebra, dog"], "did not find"),
        ("x/y/z plot", ["Seed", "1-9999999 (+0.1)"], "range"),
        ("x/y/z plot", ["Sampler", "nope"], "no sampler"),
        ("prompt matrix", [False, False, "sideways"], "choose one of"),
        ("prompt matrix", [False, False, "positive", "comma", "wide"], "must be a number"),
        ("sd upscale", [None, 64, "None", 2], "not found"),
        ("nonsense", [], "not found"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(
    live: tuple[LiveServer, FakeEngine], script: str, arguments: list[Any], expected: str
) -> None:
    answer = ask(live, script, arguments)
    assert 400 <= answer.status_code < 500
    assert expected in answer.json()["detail"]
    assert not live[1].served


def test_sd_upscale_makes_the_larger_picture_from_tiles(live: tuple[LiveServer, FakeEngine]) -> None:
    answer = ask(live, "SD upscale", [None, 16, "Lanczos", 2], "img2img", prompt="x", init_images=[png()])
    assert pictures(answer)[0].size == (128, 128)
    assert len(live[1].served) == 9  # 3 × 3 tiles of 64 with an overlap of 16
    assert all(request.init is not None for request in live[1].served)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(20, 90), st.integers(20, 90), st.integers(0, 19))
def test_tiles_that_nobody_changed_join_to_the_same_picture(
    width: int, height: int, tile_width: int, tile_height: int, overlap: int
) -> None:
    tiling = Tiling(width, height, tile_width, tile_height, overlap)
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    tiles = tiling.cut(picture)
    assert all(tile.shape == (tile_height, tile_width, 3) for tile in tiles)
    assert np.array_equal(tiling.join(tiles), picture)


def test_scripts_are_listed_with_their_arguments(live: tuple[LiveServer, FakeEngine]) -> None:
    with live[0].client() as client:
        listed = client.get("/sdapi/v1/scripts").json()
        assert listed == {
            "txt2img": ["prompt matrix", "x/y/z plot"],
            "img2img": ["prompt matrix", "sd upscale", "x/y/z plot"],
        }
        described = {script["name"]: script for script in client.get("/sdapi/v1/script-info").json()}
        axes = described["x/y/z plot"]["args"]
        assert axes[0]["value"] == "Seed"
        assert axes[0]["choices"][:2] == ["Nothing", "Seed"]
        assert "Cond. Image Mask Weight" in axes[0]["choices"], "the last one described is img2img's"
        assert "Hires steps" not in axes[0]["choices"]
        assert (axes[2]["value"], axes[2]["choices"]) == (None, [])
        assert axes[-1]["label"] == "Use text inputs instead of dropdowns"
        upscalers = [one["name"] for one in client.get("/sdapi/v1/upscalers").json()]
        assert described["sd upscale"]["args"][2]["choices"] == upscalers


def test_positions_of_axes_are_those_that_clients_know() -> None:
    labels = [axis.label for axis in axes_for("txt2img")]
    assert labels[:11] == [
        "Nothing", "Seed", "Var. seed", "Var. strength", "Steps", "Hires steps", "CFG Scale", "Prompt S/R",
        "Prompt order", "Sampler", "Hires sampler",
    ]  # fmt: skip
    assert [axis.label for axis in axes_for("img2img")][:9] == [
        "Nothing", "Seed", "Var. seed", "Var. strength", "Steps", "CFG Scale", "Image CFG Scale", "Prompt S/R",
        "Prompt order",
    ]  # fmt: skip
    assert {kind: axes_for(kind)[-1].label for kind in ("txt2img", "img2img")} == dict.fromkeys(
        ("txt2img", "img2img"), "Size"
    )
    assert (len(axes_for("txt2img")), len(axes_for("img2img"))) == (42, 41), "as many as A1111 has"


@pytest.mark.parametrize(
    ("axis", "written", "field", "values"),
    [
        ("Schedule rho", "5, 7", "shape.rho", [5, 7]),
        ("Beta schedule alpha", "0.5-0.6 (+0.1)", "shape.beta_alpha", [0.5, 0.6]),
        ("Extra noise", "0, 0.1", "extra_noise", [0, 0.1]),
        ("UniPC Order", "1-3", "shape.unipc_order", [1, 2, 3]),
        ("Token merging ratio", "0, 0.5", "token_merging", [0, 0.5]),
        ("SGM noise multiplier", "True, False", "shape.vp_start", [True, False]),
        (
            "Always discard next-to-last sigma",
            "False, true",
            "shape.discard_next_to_last_sigma",
            [False, True],
        ),
        ("Refiner checkpoint", "None, none", "refiner_checkpoint", [None, None]),
        ("Refiner switch at", "0.5, 0.8", "refiner_switch_at", [0.5, 0.8]),
        ("RNG source", "nv, CPU", "noise_source", ["NV", "CPU"]),
    ],
)
def test_axes_of_options(
    live: tuple[LiveServer, FakeEngine], axis: str, written: str, field: str, values: list[Any]
) -> None:
    answer = ask(live, "x/y/z plot", [axis, written])
    assert answer.status_code == 200, answer.text
    assert [attrgetter(field)(request) for request in live[1].served] == values


@pytest.mark.parametrize(
    "arguments",
    [
        ["Seed", "0-60", "Steps", "1-60", "CFG Scale", "1-60"],
        ["Seed", "0-100000", "Nothing", "", "Nothing", ""],
        ["Seed", ",".join(map(str, range(500))), "Seed", "1-30", "Nothing", ""],
        ["Seed", "0-1 [9999]", "Nothing", "", "Nothing", ""],
        ["Prompt order", "a, cat", "Prompt order", "a, cat, red, in, snow", "Seed", "1-30"],
    ],
)
def test_lengths_are_multiplied_before_anything_is_built(
    live: tuple[LiveServer, FakeEngine], arguments: list[Any]
) -> None:
    answer = ask(live, "x/y/z plot", arguments)
    assert answer.status_code == 422
    assert "SD_MAX_IMAGES" in answer.json()["detail"]


@pytest.mark.parametrize(
    "values", ["1\r2", "x" * 131_073, '"' + "1" * 70_000, "nan", "9" * 400, "1e999", "\0"]
)
def test_values_that_cannot_be_read_are_refused_with_a_sentence(
    live: tuple[LiveServer, FakeEngine], values: str
) -> None:
    for axis in ("Seed", "CFG Scale", "Sigma max"):
        answer = ask(live, "x/y/z plot", [axis, values, "Nothing", "", "Nothing", ""])
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"]
