"""A batch's manifest as a recording: the service is asked for the same again, on the same routes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from loadtest.arrivals import trace
from loadtest.options import OptionError
from loadtest.result import RunResult
from tests.batch.conftest import SMALL, batch, lines_of, write_rows
from tests.fakes import FakeEngine
from tests.live import serve


def asked(engine: FakeEngine) -> list[tuple[object, ...]]:
    """What the engine was asked for, in an order of its own."""
    return sorted((one.prompt, one.seed, one.negative_prompt, one.image_count) for one in engine.served)


def test_a_manifest_is_replayed(tmp_path: Path, run_cli: Callable[..., Result]) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "in/start.png")
    path = write_rows(
        tmp_path / "in/rows.jsonl",
        [
            {"prompt": "a", **SMALL},
            {"negative_prompt": "b", "n_iter": 2, "seed": 5, **SMALL},
            {"prompt": "c", "sampler_name": "Nope", **SMALL},
            {"prompt": "d", "init_images": ["start.png"], "denoising_strength": 0.5, **SMALL},
        ],
    )
    engine = FakeEngine()
    with serve(engine) as live:
        assert batch(path, "--out", tmp_path / "out", "--upstream", live.url).returncode == 1
        asked_first, engine.served = asked(engine), []
        manifest = tmp_path / "out/manifest.jsonl"
        ended = run_cli(
            "run", live.url, "--trace", str(manifest), "--speed", "4", "--pictures", str(tmp_path / "in"), "--json",
            str(tmp_path / "r.json"), "--no-calibrate", "--quiet",
        )  # fmt: skip
        assert ended.exit_code == 0, ended.output
    result = RunResult.read(tmp_path / "r.json")
    assert (result.requests, result.succeeded) == (3, 3), "a row that failed made no load"
    # The rows began within milliseconds of one another: which of them the service takes first is the sockets' affair.
    assert asked(engine) == asked_first
    assert next(one for one in engine.served if one.prompt == "d").init is not None
    begun = [line["t"] for line in lines_of(tmp_path / "out") if not line["error"] and line["index"] == 0]
    assert [arrival.at for arrival in trace(manifest, pictures=tmp_path / "in")] == pytest.approx(
        [at - begun[0] for at in begun]
    )


def test_rows_of_shards_come_in_the_order_of_time(tmp_path: Path) -> None:
    lines = [
        {
            "format": 1,
            "row": row,
            "index": 0,
            "of": 1,
            "kind": "txt2img",
            "request": {"seed": row},
            "error": None,
            "t": t,
        }
        for row, t in ((1, 0.5), (2, 0.1), (3, 1.5), (4, 1.1))
    ]
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [arrival.body["seed"] for arrival in trace(path)] == [2, 1, 4, 3]


def test_pictures_that_cannot_be_found_are_told(tmp_path: Path) -> None:
    line = {
        "format": 1, "row": 1, "index": 0, "of": 1, "kind": "img2img", "request": {"init_images": ["x.png"]},
        "error": None, "t": 0,
    }  # fmt: skip
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps(line))
    with pytest.raises(
        OptionError, match=r"line 1 starts from a picture, x.png: say in which folder .* --pictures"
    ):
        list(trace(path))
    with pytest.raises(OptionError, match="can't be read"):
        list(trace(path, pictures=tmp_path))
