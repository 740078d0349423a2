"""The alert for the activator's ClusterIP fallback, run by promtool over what a real cluster showed."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

RULE = Path(__file__).parents[2] / "knative" / "cluster" / "clusterip-fallback.yaml"
PROMTOOL = shutil.which("promtool")
REVISION = 'k8s_namespace_name="diffusion", kn_revision_name="r1"'


def series(active: str, queued: str, in_flight: dict[str, str]) -> list[dict[str, str]]:
    found = [
        {"series": f"kn_revision_request_active{{{REVISION}}}", "values": active},
        {"series": f"kn_revision_request_queued{{{REVISION}}}", "values": queued},
    ]
    return found + [
        {"series": f'sd_in_flight{{{REVISION}, pod="{pod}"}}', "values": values}
        for pod, values in in_flight.items()
    ]


CASES: dict[str, tuple[list[dict[str, str]], bool]] = {
    # Five handed over: one pod has nearly all of them, another one now and then, three none.
    "fallback": (
        series(
            "5x60",
            "0x60",
            {"a": "1x60", "b": "0 1 0 0 0 0" + " 0" * 54, "c": "0x60", "d": "0x60", "e": "0x60"},
        ),
        True,
    ),
    # Five pods, five on devices, three more wait in the activator: as it should be.
    "busy": (series("5x60", "3x60", dict.fromkeys("abcde", "1x60")), False),
    # Few requests, packed onto the first pods; the others are on their way out.
    "quiet": (series("2x60", "0x60", {"a": "1x60", "b": "1x60", "c": "0x60", "d": "0x60"}), False),
    "one request at a time": (series("1 0 1 0 1 0" + " 1" * 54, "0x60", {"a": "1x60", "b": "0x60"}), False),
    # A fifth of the time a request's picture is encoded, outside of the device.
    "encoding": (series("5x60", "0x60", dict.fromkeys("abcde", "1 1 1 1 0 " * 12) | {"f": "0x60"}), False),
    "idle": (series("0x60", "0x60", {"a": "0x60", "b": "0x60"}), False),
}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian: prometheus) is not installed")
@pytest.mark.parametrize("case", CASES)
def test_alert(case: str, tmp_path: Path) -> None:
    input_series, fires = CASES[case]
    rule = yaml.safe_load(RULE.read_text())["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule))
    name = rule["groups"][0]["rules"][0]["alert"]
    query = f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) or vector(0)'
    expected: dict[str, Any] = {"expr": query, "eval_time": "30m"}
    expected["exp_samples"] = [{"labels": "{}", "value": 1 if fires else 0}]
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "30s",
        "tests": [{"interval": "30s", "input_series": input_series, "promql_expr_test": [expected]}],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    assert PROMTOOL
    shown = subprocess.run(
        [PROMTOOL, "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_alert_is_told_in_words() -> None:
    rule = yaml.safe_load(RULE.read_text())
    (alert,) = rule["spec"]["groups"][0]["rules"]
    assert rule["kind"] == "PrometheusRule"
    assert {"summary", "runbook"} <= alert["annotations"].keys()
