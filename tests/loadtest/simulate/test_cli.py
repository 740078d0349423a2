"""``simulate`` as people call it."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from loadtest.simulate import bench, search
from loadtest.simulate.cli import simulate
from loadtest.simulate.results import percentile, run
from loadtest.simulate.scenario import load
from loadtest.simulate.sweep import frontier

APP = typer.Typer()
APP.command()(simulate)

SMALL = """
traffic: {kind: poisson, rate: 0.5, duration: 60}
service: {time: 2}
pods: {start: 5}
cluster: {gpu-quota: 3}
autoscaling: {target-utilization-percentage: 100, target-burst-capacity: -1}
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return str(path)


def test_a_table(small: str) -> None:
    result = CliRunner().invoke(APP, [small])
    assert result.exit_code == 0
    assert "P90 / P95 / P99" in result.output
    assert "per 1,000 images" in result.output


def test_json_repeats_itself_with_the_seed(small: str, tmp_path: Path) -> None:
    outputs = [CliRunner().invoke(APP, [small, "--json", "--seed", seed]).output for seed in ("1", "1", "2")]
    assert outputs[0] == outputs[1] != outputs[2]
    document = json.loads(outputs[0])
    assert document["issued"] == sum(document["outcomes"].values())
    CliRunner().invoke(APP, [small, "--seed", "1", "--output", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == document


def test_settings_can_be_overridden(small: str) -> None:
    warm = ["pods.initial=3", "pods.start=50", "autoscaling.min-scale=3"]
    result = CliRunner().invoke(APP, [small, "--json", *(x for s in warm for x in ("--set", s))])
    document = json.loads(result.output)
    assert document["cold_requests"] == 0
    assert document["pod_starts"] == 0


def test_several_seeds_show_the_spread(small: str) -> None:
    result = CliRunner().invoke(APP, [small, "--runs", "4"])
    assert result.exit_code == 0
    assert "median" in result.output


def test_a_sweep_draws_its_plot(small: str, tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    result = CliRunner().invoke(
        APP,
        [
            small,
            "--sweep",
            "autoscaling.min-scale=0,1,2",
            "--sweep",
            "autoscaling.window=10s,60s",
            "--plot",
            str(plot),
        ],
    )
    assert result.exit_code == 0, result.output
    assert result.output.count("min-scale=") == 6
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "autoscaling.window"], "write section.key=value"),
        (["--set", "autoscaling.window=1s"], "autoscaling.window"),
        (["--set", "service.time=[1"], "the value is no YAML"),
        (["--set", "service.time.kind=uniform"], "time is no section"),
        (["--sweep", "autoscaling.window"], "write section.key=value,value"),
        (["--sweep", "autoscaling.window=60s,1s"], "autoscaling.window"),
        (["--sweep", "seed=" + ",".join(map(str, range(600)))], "asks for 600 runs"),
        (["--plot", "x.png"], "add --sweep"),
        (["--runs", "2", "--sweep", "seed=1,2"], "exclude each other"),
        (["--sweep", "seed=1,2", "--plot", "x.nothing"], "cannot be written"),
        (["--output", "/nonexistent/x.json"], "cannot be written"),
    ],
)
def test_bad_arguments_get_a_sentence(small: str, arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(APP, [small, *arguments])
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output


def test_an_unknown_scenario_names_the_shipped_ones() -> None:
    result = CliRunner().invoke(APP, ["nothing-of-the-kind"])
    assert result.exit_code == 2
    assert "measured-seed-auto" in result.output


def test_no_answers_is_no_division_by_zero(small: str) -> None:
    result = CliRunner().invoke(
        APP, [small, "--set", "pods.start=500", "--set", "autoscaling.timeout-seconds=5", "--json"]
    )
    document = json.loads(result.output)
    assert document["outcomes"].keys() == {"504"}
    assert document["cost_per_1000"] is None
    shown = CliRunner().invoke(
        APP, [small, "--set", "pods.start=500", "--set", "autoscaling.timeout-seconds=5"]
    )
    assert shown.exit_code == 0


def test_percentiles_are_those_of_hey() -> None:
    ordered = [float(i) for i in range(50)]
    assert [percentile(ordered, p) for p in (10, 50, 90, 95, 99)] == [5, 25, 45, 48, 49]
    assert percentile([3.0], 10) == 3.0


def test_the_frontier_holds_what_nothing_beats() -> None:
    results = run(load(Path("measured-lean-disabled")))
    points = [("a", results), ("b", results)]
    assert [label for label, _ in frontier(points)] == ["a"]


def test_the_shipped_explanation_fits_the_seeds_report() -> None:
    results = run(load(Path("guide")))
    assert search.misfit(results) <= 1
    got = search.observed(results)
    assert got["total"] == pytest.approx(search.GUIDE_RUN["total"], rel=0.10)
    for key in ("fastest", "average", "p50", "p90", "p95", "slowest"):
        assert got[key] == pytest.approx(search.GUIDE_RUN[key], rel=0.20), key
    assert results.peak_pods == 5


def test_balanced_pods_with_equal_images_do_not_explain_it() -> None:
    by_name = {h.name: h for h in search.HYPOTHESES}
    finding = search.examine(by_name["one activator, equal images"], 40, 1)
    assert finding.counted == []
    assert finding.best.total_seconds < 0.9 * search.GUIDE_RUN["total"]


def test_the_search_reports() -> None:
    app = typer.Typer()
    app.command()(search.main)
    result = CliRunner().invoke(app, ["--draws", "2", "--json"])
    assert result.exit_code == 0
    assert len(json.loads(result.output)) == len(search.HYPOTHESES)
    assert CliRunner().invoke(app, ["--draws", "2"]).exit_code == 0


def test_the_bench_reports(small: str) -> None:
    app = typer.Typer()
    app.command()(bench.main)
    result = CliRunner().invoke(app, [small])
    assert result.exit_code == 0
    assert json.loads(result.output.splitlines()[-1])["images"] > 0
