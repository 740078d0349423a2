"""The three kinds of input, and what is wrong with them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.batch.errors import BatchError
from service.batch.pictures import PictureFolder
from service.batch.plan import Shard, parse_shard, plan, problem, validated
from service.batch.readers import read
from service.core.errors import BadImage
from service.settings import Settings


def sweep(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def test_json_lines(rows: Callable[..., Path]) -> None:
    path = rows(
        {"prompt": "a", "steps": 3},
        {"prompt": "b", "override_settings.CLIP_stop_at_last_layers": 2, "id": "x"},
    )
    path.write_text(path.read_text().replace("\n", "\n\n"))
    first, second = read(path)
    assert (first.number, first.body, first.label) == (1, {"prompt": "a", "steps": 3}, "")
    assert (second.number, second.body, second.label) == (
        2, {"prompt": "b", "override_settings": {"CLIP_stop_at_last_layers": 2}}, "x",
    )  # fmt: skip


def test_csv_means_what_json_means(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        "\ufeffprompt,steps,cfg_scale,enable_hr,init_images,styles,script_args,override_settings.eta_ddim,seed\n"
        '"a cat, red",4,6.5,true,,,,0.5,7\n'
        "\n"
        'b,,,,photo.png,Cinematic,"[1, ""x""]",,\n'
    )
    first, second = read(path)
    assert first.body == {
        "prompt": "a cat, red", "steps": 4, "cfg_scale": 6.5, "enable_hr": True, "seed": 7,
        "override_settings": {"eta_ddim": 0.5},
    }  # fmt: skip
    body = validated("txt2img", plan([first])[0].body)
    assert (body.prompt, body.steps, body.cfg_scale, body.seed) == ("a cat, red", 4, 6.5, 7)
    assert body.model_dump()["enable_hr"] is True
    assert body.override_settings == {"eta_ddim": 0.5}
    assert second.number == 2
    assert second.kind == "img2img"
    assert second.body == {
        "prompt": "b",
        "init_images": ["photo.png"],
        "styles": ["Cinematic"],
        "script_args": [1, "x"],
    }


def test_a_sweep_is_a_product_of_its_axes_over_its_list(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("an apple\n\n# not this one\na cup\n")
    path = sweep(
        tmp_path,
        """
defaults: {steps: 4, override_settings: {eta_ddim: 0.1}}
axes:
  prompt: {file: prompts.txt}
  seed: {from: 1, to: 2}
  shape: [{width: 64, height: 128}, {width: 128, height: 64}]
  override_settings.CLIP_stop_at_last_layers: [1, 2]
list:
  - {sampler_name: Euler}
  - {sampler_name: DDIM, steps: 9}
""",
    )
    found = read(path)
    assert len(found) == 2 * 2 * 2 * 2 * 2
    assert found[0].body == {
        "steps": 4, "prompt": "an apple", "seed": 1, "width": 64, "height": 128, "sampler_name": "Euler",
        "override_settings": {"eta_ddim": 0.1, "CLIP_stop_at_last_layers": 1},
    }  # fmt: skip
    assert found[1].body["steps"] == 9
    assert found[-1].body["prompt"] == "a cup"
    assert [row.number for row in found] == list(range(1, 33))


def test_a_sweep_can_zip_its_axes(tmp_path: Path) -> None:
    path = sweep(
        tmp_path,
        {
            "combine": "zip",
            "axes": {"prompt": ["a", "b"], "cfg_scale": {"from": 0.1, "to": 0.2, "step": 0.1}},
        },
    )
    assert [(row.body["prompt"], row.body["cfg_scale"]) for row in read(path)] == [("a", 0.1), ("b", 0.2)]
    path = sweep(tmp_path, {"combine": "zip", "axes": {"prompt": ["a", "b"], "steps": [1]}})
    with pytest.raises(BatchError, match=r"as many values \(prompt 2, steps 1\)"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", "a\n", "is no input: its suffix"),
        ("a.jsonl", "\n", "has no rows"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt"\n', "line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 is no JSON object"),
        ("a.jsonl", '{"sampler": "Euler"}\n', "unknown column 'sampler'. Did you mean 'sampler_name'?"),
        ("a.jsonl", '{"CLIP_stop_at_last_layers": 2}\n', "write override_settings.CLIP_stop_at_last_layers"),
        ("a.jsonl", '{"override_settings.clip": 2}\n', "there is no option 'clip'"),
        ("a.jsonl", '{"save_images": true}\n', "means nothing here"),
        ("a.jsonl", '{"id": "../x"}\n', "makes no file name"),
        ("a.jsonl", '{"id": "x"}\n{"id": "X"}\n', "rows 1 and 2 have the same id"),
        ("a.csv", "prompt,stepz\na,3\n", "line 1: unknown column 'stepz'. Did you mean 'steps'?"),
        ("a.csv", "prompt,prompt\na,b\n", "is there twice"),
        ("a.csv", "prompt\na,b\n", "has 2 cells, but there are 1 columns"),
        ("a.csv", 'prompt\n"a\n', "is no CSV"),
        ("a.csv", "prompt,script_args\na,[1\n", "is not JSON"),
        ("a.yaml", "a: [", "is not YAML"),
        ("a.yaml", "prompt: a\n", "is no sweep"),
        ("a.yaml", "axes: {prompt: [a]}\nrepeat: 3\n", "unknown key 'repeat'"),
        ("a.yaml", "axes: {prompt: a}\n", "axis prompt: give a list of values"),
        ("a.yaml", "axes: {prompt: []}\n", "has no values"),
        ("a.yaml", "axes: {prompt: {file: none.txt}}\n", "none.txt can't be read"),
        ("a.yaml", "axes: {seed: {from: 3, to: 1}}\n", "from ≤ to"),
        ("a.yaml", "axes: {seed: {from: 1, to: 99999999}}\n", "must be numbers"),
        ("a.yaml", "axes: {seed: {from: 1, to: 2000}, steps: {from: 1, to: 2000}}\n", "more than 1,000,000 rows"),
        ("a.yaml", "list: []\n", "must be a list of rows"),
        ("a.yaml", "combine: mix\naxes: {steps: [1]}\n", "neither product nor zip"),
        ("none.csv", None, "can't be read"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_a_sentence(
    tmp_path: Path, name: str, content: str | None, sentence: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(BatchError) as error:
        read(path)
    assert sentence in str(error.value)
    assert str(error.value).endswith(".")


def test_drawn_seeds_depend_on_the_row_alone(rows: Callable[..., Path]) -> None:
    apple, cup = {"prompt": "apple"}, {"prompt": "cup", "seed": -1}
    one = plan(read(rows(apple, cup, apple)))
    other = plan(read(rows(cup, apple, apple, {"prompt": "more"})))
    seeds = [request.body["seed"] for request in one]
    assert len(set(seeds)) == 3, "rows that say the same are drawn apart"
    assert [request.body["seed"] for request in other][:3] == [seeds[1], seeds[0], seeds[2]]
    assert plan(read(rows(apple)), seed=1)[0].body["seed"] != seeds[0]
    assert plan(read(rows({"seed": 5, "subseed": 6})))[0].body == {"seed": 5, "subseed": 6}


def test_overrides_win_over_rows(rows: Callable[..., Path]) -> None:
    found = plan(
        read(rows({"prompt": "a", "steps": 3, "override_settings": {"eta_ddim": 0.1, "s_churn": 1}})),
        {"steps": 9, "override_settings": {"eta_ddim": 0.7}},
    )
    assert found[0].body["steps"] == 9
    assert found[0].body["override_settings"] == {"eta_ddim": 0.7, "s_churn": 1}


def test_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    assert parse_shard(None, None) == Shard(0, 1)
    assert parse_shard("2/3", None) == Shard(2, 3)
    assert sorted(n for index in range(3) for n in range(1, 11) if Shard(index, 3).has(n)) == list(
        range(1, 11)
    )
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    assert parse_shard(None, 4) == Shard(1, 4)
    assert parse_shard("0/2", 4) == Shard(0, 2)
    with pytest.raises(BatchError, match="--shards with the Job's completions"):
        parse_shard(None, None)
    with pytest.raises(BatchError, match="There is no shard 1 of 1"):
        parse_shard(None, 1)
    monkeypatch.delenv("JOB_COMPLETION_INDEX")
    for text in ("3/3", "1", "-1/2", "a/b"):
        with pytest.raises(BatchError, match="shard"):
            parse_shard(text, None)
    with pytest.raises(BatchError, match="which one this is"):
        parse_shard(None, 3)


def test_pictures_stay_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"a")
    (tmp_path / "secret.png").write_bytes(b"s")
    (tmp_path / "in/link.png").symlink_to(tmp_path / "secret.png")
    folder = PictureFolder(tmp_path / "in")
    body = {"init_images": ["a.png", "data:image/png;base64,eA=="], "mask": "../in/a.png", "prompt": "../x"}
    assert folder.inlined(body, 100) == {
        "init_images": ["YQ==", "data:image/png;base64,eA=="], "mask": "YQ==", "prompt": "../x",
    }  # fmt: skip
    for path in ("../secret.png", "link.png", str(tmp_path / "secret.png"), "/etc/hostname"):
        with pytest.raises(BadImage, match="leaves the folder"):
            folder.check({"mask": path})
    for path in ("b.png", "", "a" * 5000, "a\0b"):
        with pytest.raises(BadImage, match="there is no picture"):
            folder.check({"mask": path})
    with pytest.raises(BadImage, match="SD_MAX_BODY_MB"):
        folder.inlined({"mask": "a.png"}, 0)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"sampler_name": "Nope"}, "There is no sampler 'Nope'"),
        ({"steps": "many"}, "steps is 'many'"),
        ({"width": 63}, "width is 63"),
        ({"steps": 9999}, "steps is 9999"),
        ({"script_name": "loopback"}, "Script 'loopback' not found"),
        ({"init_images": ["../a.png"]}, "leaves the folder"),
        ({"init_images": ["a.png"], "cfg_scale": 999}, "cfg_scale is 999"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 99}}, "CLIP_stop_at_last_layers is 99"),
    ],
)
def test_rows_are_checked_before_anything_is_made(tmp_path: Path, row: dict[str, Any], sentence: str) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    found = problem(plan(read(path))[0], PictureFolder(tmp_path), Settings())
    assert found is not None
    assert sentence in found.detail
