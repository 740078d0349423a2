"""A W&B sweep from end to end: its local controller chooses, its agent starts batches, each run is read back.

``wandb.controller``, the grid search, ``wandb agent`` and the batches are real; the server between them is a stand-in.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.batch.conftest import ROOT, SMALL, environment, lines_of
from tests.batch.standins import Sweeps, running
from tests.batch.wandb_files import offline_runs
from tests.fakes import FakeEngine
from tests.live import serve

CONTROLLER = """
import sys, time, wandb
from sweeps.grid_search import grid_search_next_runs

controller = wandb.controller()
controller.configure({
    "method": "grid",
    "controller": {"type": "local"},
    "command": sys.argv[1:],
    "parameters": {"cfg_scale": {"values": [2, 5]}, "sampler_name": {"value": "DDIM"}},
})
# next_run imports the Bayesian search whatever the method, and that scikit-learn.
controller.configure_search(lambda config, runs: grid_search_next_runs(runs, {**config, "method": "grid"})[0])
print(controller.create(), flush=True)
while not controller.done():
    controller.step()
    time.sleep(0.2)
"""


def test_a_sweep_with_the_local_controller(tmp_path: Path, rows: Callable[..., Path]) -> None:
    path = rows({"prompt": "a", "seed": 1, **SMALL}, {"prompt": "b", "seed": 2, "cfg_scale": 9, **SMALL})
    folder = tmp_path / "w"
    folder.mkdir()
    out = tmp_path / "out"
    with serve(FakeEngine()) as live, running(standin := Sweeps()):
        variables = environment(
            WANDB_BASE_URL=standin.url, WANDB_API_KEY="a" * 40, WANDB_ENTITY="team", WANDB_PROJECT="pictures",
            WANDB_DIR=str(folder), WANDB_DATA_DIR=str(folder), WANDB_CONFIG_DIR=str(folder),
            WANDB_AGENT_REPORT_INTERVAL="0",
        )  # fmt: skip
        program = [sys.executable, "-m", "service", "batch", path, "--out", out, "--upstream", live.url]
        # Runs go to disk: what uploads them is not part of this.
        offline = ["/usr/bin/env", "WANDB_MODE=offline", f"PYTHONPATH={ROOT}", *map(str, program)]
        controller = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CONTROLLER, *offline],
            env=variables, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            assert controller.stdout is not None
            told = []
            for line in controller.stdout:
                told.append(line)
                if line.strip() == "sweep":
                    break
            else:
                raise AssertionError("".join(told))
            agent = subprocess.run(
                [sys.executable, "-m", "wandb", "agent", "team/pictures/sweep"],
                env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=180,
            )  # fmt: skip
            said = agent.stdout + agent.stderr
            assert agent.returncode == 0, said
            assert controller.wait(60) == 0
        finally:
            controller.kill()
            controller.wait()
            if controller.stdout is not None:
                controller.stdout.close()
    assert standin.unknown == []
    points = {
        (run["config"]["cfg_scale"]["value"], run["config"]["sampler_name"]["value"]): name
        for name, run in standin.runs.items()
    }
    assert set(points) == {(cfg, sampler) for cfg in (2, 5) for sampler in ("DDIM",)}
    logged = {run.run_id: run for run in offline_runs(folder)}
    for (cfg, sampler), name in points.items():
        lines = lines_of(out / name)
        assert [line["seed"] for line in lines] == [1, 2]
        assert {line["request"]["cfg_scale"] for line in lines} == {cfg}, "the sweep wins over the row"
        assert {line["request"]["sampler_name"] for line in lines} == {sampler}
        assert logged[name].sweep_id == "sweep"
        assert logged[name].config["cfg_scale"] == cfg
        assert logged[name].summary["pictures_total"] == 2
