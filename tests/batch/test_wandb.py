"""A batch as an offline run of Weights & Biases, read back."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from service.batch.errors import BatchError
from service.batch.tracking import wanted
from service.batch.wandb_tracking import overrides
from tests.batch.conftest import ROOT, SMALL, batch, command, environment, lines_of
from tests.batch.wandb_files import offline_runs
from tests.fakes import FakeEngine
from tests.live import LiveServer, serve


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """A service with the shipped model."""
    with serve(warmup_size=64, warmup_steps=1, cpu_threads=1) as live:
        yield live


def variables(folder: Path, **more: str) -> dict[str, str]:
    """W&B writes into ``folder`` and asks nobody."""
    folder.mkdir(exist_ok=True)
    return {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "WANDB_DATA_DIR": str(folder / "data"),
        "WANDB_PROJECT": "pictures",
        "WANDB_SILENT": "true",
        **more,
    }


def test_an_offline_run_has_everything(tmp_path: Path, rows: Callable[..., Path], server: LiveServer) -> None:
    path = rows(
        {"prompt": "a red apple", "cfg_scale": 5, **SMALL},
        {"prompt": "a red apple", "cfg_scale": 9, **SMALL, "n_iter": 2},
        {"prompt": "a cup", "sampler_name": "Nope", **SMALL},
    )
    out = tmp_path / "out"
    ended = batch(path, "--out", out, "--upstream", server.url, variables=variables(tmp_path / "w"))
    assert ended.returncode == 1, ended.stderr
    (run,) = offline_runs(tmp_path / "w")
    assert run.config["batch"]["input"] == str(path)
    assert run.config["batch"]["upstream"] is True
    assert run.exit_code == 0

    lines = [line for line in lines_of(out) if line["file"]]
    steps = [step for step in run.history if "row" in step]
    assert [step["row"] for step in steps] == [1, 2, 3]
    assert [step["failed"] for step in steps] == [0, 0, 1]
    assert [step["pictures"] for step in steps] == [1, 3, 3]
    assert all(step["pictures_per_minute"] > 0 and step["seconds"] >= 0 for step in steps)
    logged = [
        (name, caption)
        for step in steps
        if "picture" in step
        for name, caption in zip(step["picture"]["filenames"], step["picture"]["captions"], strict=True)
    ]
    assert len(logged) == 3
    for (name, caption), line in zip(logged, lines, strict=True):
        assert hashlib.sha256(run.file(name).read_bytes()).hexdigest() == line["sha256"]
        assert caption.startswith(f"#{line['row']} · a red apple")
        assert f"cfg_scale {line['request']['cfg_scale']}" in caption
        assert f"seed {line['seed']}" in caption

    # The table itself and its pictures travel as an artifact of their own.
    files = {entry.path: Path(entry.local_path) for entry in run.artifacts["run_table"].manifest.contents}
    table = json.loads(files["rows.table.json"].read_text())
    assert table["columns"][:3] == ["row", "prompt", "cfg_scale"]
    assert table["columns"][-4:] == ["seed", "picture", "seconds", "error"]
    assert len(table["data"]) == 4
    for values, line in zip(table["data"], lines_of(out), strict=True):
        told = dict(zip(table["columns"], values, strict=True))
        for name, value in (("row", line["row"]), ("seed", line["seed"]), ("error", line["error"])):
            assert told[name] == value
        assert told["prompt"] == line["request"]["prompt"]
        if line["file"]:
            assert hashlib.sha256(files[told["picture"]["path"]].read_bytes()).hexdigest() == line["sha256"]
            assert told["seconds"] > 0
    (sheet,) = [step["contact_sheet"] for step in run.history if "contact_sheet" in step]
    with Image.open(run.file(sheet["filenames"][0])) as shown, Image.open(out / "sheet.webp") as drawn:
        assert shown.size == drawn.size
    artifact = run.artifacts["batch-manifest"]
    assert {entry.path for entry in artifact.manifest.contents} == {"manifest.jsonl", "sheet.webp"}
    assert run.summary["rows_total"] == 3
    assert run.summary["rows_failed"] == 1
    assert run.summary["pictures_total"] == 3
    assert run.summary["mean_seconds"] > 0


def test_a_run_that_goes_on_has_the_table_of_all(tmp_path: Path, rows: Callable[..., Path]) -> None:
    path = rows(*({"prompt": str(number), **SMALL} for number in range(3)))
    with serve(FakeEngine()) as live:
        assert batch(path, "--out", tmp_path / "out", "--upstream", live.url, "--limit", 2).returncode == 0
        ended = batch(
            path, "--out", tmp_path / "out", "--upstream", live.url, variables=variables(tmp_path / "w")
        )
    assert ended.returncode == 0, ended.stderr
    (run,) = offline_runs(tmp_path / "w")
    assert [step["row"] for step in run.history if "row" in step] == [3]
    (logged,) = [step["rows"] for step in run.history if "rows" in step]
    assert logged["nrows"] == 3


def test_memory_and_preemption_are_told(tmp_path: Path, rows: Callable[..., Path]) -> None:
    """SIGTERM in the middle: the run says that it was preempted, and goes on under its id."""

    class Card(FakeEngine):
        def device_memory(self) -> dict[str, int]:
            return {"total": 8 << 30, "used": 3 << 30, "allocated": 2 << 30, "reserved": 2 << 30}

    path = rows(*({"prompt": str(number), "seed": number, **SMALL, "steps": 10} for number in range(3)))
    given = variables(tmp_path / "w", WANDB_RUN_ID="mine")
    with serve(engine := Card(step_time=0.3)) as live:
        arguments = (path, "--out", tmp_path / "out", "--upstream", live.url)
        running = subprocess.Popen(command(*arguments), cwd=ROOT, env=environment(**given))
        try:
            deadline = time.monotonic() + 60
            while not (manifest := tmp_path / "out/manifest.jsonl").exists() or not manifest.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            running.terminate()
            assert running.wait(60) == 143
        finally:
            running.kill()
            running.wait()
        engine.step_time = 0.0
        assert batch(*arguments, variables=given).returncode == 0
    first, second = offline_runs(tmp_path / "w")
    assert (first.preempting, first.exit_code, first.run_id) == (True, 143, "mine")
    assert (second.preempting, second.exit_code, second.run_id) == (False, 0, "mine")
    steps = [step for run in (first, second) for step in run.history if "row" in step]
    assert [step["row"] for step in steps] == [1, 2, 3]
    assert {(step["gpu_memory_used_gib"], step["gpu_memory_total_gib"]) for step in steps} == {(3.0, 8.0)}


def test_a_launched_job_reads_its_overrides(tmp_path: Path, rows: Callable[..., Path]) -> None:
    """An agent gives the config that somebody edited in ``WANDB_CONFIG``, and the run's id."""
    path = rows({"prompt": "a", "steps": 9, "width": 64, "height": 64})
    config = {
        "steps": 2,
        "override_settings.s_churn": 3,
        "input": str(path),
        "seed_from": 4,
        "learning_rate": 1,
    }
    launched = variables(
        tmp_path / "w", WANDB_CONFIG=json.dumps(config), WANDB_RUN_ID="abc", WANDB_LAUNCH="true"
    )
    with serve(FakeEngine()) as live:
        ended = batch("--out", tmp_path / "out", "--upstream", live.url, variables=launched)
        assert ended.returncode == 0, ended.stderr
        assert batch("--out", tmp_path / "out", "--upstream", live.url, variables=launched).returncode == 0
    (line,) = lines_of(tmp_path / "out" / "abc")
    assert line["request"]["steps"] == 2
    assert line["request"]["override_settings"] == {"s_churn": 3}
    run = offline_runs(tmp_path / "w")[0]
    assert run.run_id == "abc"
    assert run.config["steps"] == 2


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"limit": 0}, "limit 0"),
        ({"seed_from": "x"}, "seed_from 'x'"),
        ({"limit": True}, "limit True"),
    ],
)
def test_a_config_that_cannot_be(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BatchError, match=sentence):
        overrides(config, "id")


def test_only_what_changes_the_pictures_gets_a_folder_of_its_own() -> None:
    assert overrides({"batch": {"seed": 0}, "note": "x"}, "id").folder == ""
    assert overrides({"cfg_scale": 5}, "id").folder == "id"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"WANDB_PROJECT": "p"}, True),
        ({"WANDB_MODE": "offline"}, True),
        ({"WANDB_MODE": "disabled", "WANDB_PROJECT": "p"}, False),
        ({"WANDB_DISABLED": "true", "WANDB_PROJECT": "p"}, False),
        ({"WANDB_PROJECT": ""}, False),
    ],
)
def test_when_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: bool
) -> None:
    for name in (
        "WANDB_MODE",
        "WANDB_DISABLED",
        "WANDB_PROJECT",
        "WANDB_API_KEY",
        "WANDB_DIR",
        "WANDB_SILENT",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wanted() is expected


def test_without_it_nothing_of_it_is_imported(tmp_path: Path, rows: Callable[..., Path]) -> None:
    """A batch to its end, and the list of modules that it had."""
    path = rows({"prompt": "a", **SMALL})
    program = (
        "import sys\nfrom service.cli import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as end:\n    code = end.code\n"
        "print(code, [name for name in sys.modules if name.split('.')[0] in ('wandb', 'yaml', 'torch')])"
    )
    with serve(FakeEngine()) as live:
        ended = subprocess.run(
            [sys.executable, "-c", program, "batch", path, "--out", tmp_path / "out", "--upstream", live.url],
            cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert ended.stdout == "0 []\n", ended.stderr


def test_where_it_is_not_installed_a_sentence_says_so(tmp_path: Path, rows: Callable[..., Path]) -> None:
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow/wandb.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'wandb'\", name='wandb')"
    )
    ended = batch(
        rows({"prompt": "a"}),
        "--out",
        tmp_path / "out",
        variables={"WANDB_PROJECT": "p", "PYTHONPATH": str(tmp_path / "shadow")},
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("WANDB_… variables are set, but wandb is not installed")
    assert not (tmp_path / "out").exists()
