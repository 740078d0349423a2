"""Rules, configurations and the exposition pass promtool; every alert has cases that fire and that do not."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.output import RULES, rule_files
from service.core.budget import Budget
from service.metrics import Metrics
from tests.dashboards.cluster import DASHBOARDS, from_config, pods
from tests.dashboards.conftest import World, need

CASES = sorted((RULES / "tests").glob("*.yaml"))
CHECKS = [
    (test["name"], check)
    for path in CASES
    for test in yaml.safe_load(path.read_text())["tests"]
    for check in test["promql_expr_test"]
]
ALERTS = {
    rule["alert"]: rule
    for path in rule_files()
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


def promtool(*arguments: str | Path, text: str | None = None) -> str:
    """Run promtool; its output, after asserting that it is content."""
    done = subprocess.run(
        [need("promtool"), *map(str, arguments)], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def cases(alert: str) -> list[dict[str, Any]]:
    """The checks of firing ``alert`` in the rule tests."""
    return [check for name, check in CHECKS if name.startswith(f"{alert} ") and "ALERTS" in check["expr"]]


def test_rules_are_clean() -> None:
    output = promtool("check", "rules", "--lint=all", "--lint-fatal", *rule_files())
    assert output.count("SUCCESS") == len(rule_files())


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_rule_tests_pass(path: Path) -> None:
    promtool("test", "rules", path)


def test_cases_depend_on_the_rules(tmp_path: Path) -> None:
    """With rules that always or never hold, promtool finds every alert's quiet or firing cases wrong."""
    need("promtool")
    (tmp_path / "tests").mkdir()
    for path in CASES:
        (tmp_path / "tests" / path.name).write_text(path.read_text())
    for constant, quiet in (("vector(1)", True), ("vector(0) > 1", False)):
        for path in rule_files():
            rules = yaml.safe_load(path.read_text())
            for rule in (rule for group in rules["groups"] for rule in group["rules"]):
                rule.update({"expr": constant, "for": "0s"} if "alert" in rule else {"expr": "vector(1)"})
            (tmp_path / path.name).write_text(yaml.safe_dump(rules))
        said = "".join(
            subprocess.run(
                ["promtool", "test", "rules", path], capture_output=True, text=True, check=False
            ).stderr
            for path in (tmp_path / "tests").iterdir()
        )
        for alert in ALERTS:
            wrong = [check for check in cases(alert) if bool(check["exp_samples"]) != quiet]
            assert wrong
            for check in wrong:
                assert f"expr: {json.dumps(check['expr'])}" in said, f"{check['expr']} holds with {constant}"


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_has_cases_that_fire_and_that_do_not(alert: str) -> None:
    firing = [check for check in cases(alert) if check["exp_samples"]]
    assert firing, f"no case in which {alert} fires"
    assert [check for check in cases(alert) if not check["exp_samples"]], (
        f"no case in which {alert} stays quiet"
    )
    shown = set(re.findall(r"\$labels\.(\w+)", ALERTS[alert]["annotations"]["summary"]))
    for check in firing:
        assert "firing" in check["expr"]
        for sample in check["exp_samples"]:
            if f'alertname="{alert}"' in sample["labels"]:
                given = set(re.findall(r"(\w+)=", sample["labels"]))
                assert shown <= given, f"the summary of {alert} shows labels that it does not have"


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_says_what_is_wrong_and_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"].endswith(".")
    assert len(rule["annotations"]["runbook"]) > 100


def test_alerts_cover_what_was_asked() -> None:
    assert set(ALERTS) >= {
        "SDErrorBudgetBurnFast",
        "SDErrorBudgetBurnSlow",
        "SDLatencyP95OverTarget",
        "SDGenerationStuck",
        "SDReadinessFlapping",
        "SDColdStartOverDeadline",
        "SDOutOfMemory",
        "SDScaleToZeroNotReached",
        "SDQueueFull",
        "SDScrapeMissing",
    }


def test_local_configuration_is_clean() -> None:
    assert "SUCCESS" in promtool("check", "config", DASHBOARDS / "local.yml")


def test_cluster_configuration_is_clean(tmp_path: Path) -> None:
    """Kubernetes discovery itself is checked by hand here: Debian builds promtool without it."""
    config = yaml.safe_load((DASHBOARDS / "prometheus.yml").read_text())
    for job in config["scrape_configs"]:
        for discovery in job["kubernetes_sd_configs"]:
            assert discovery == {"role": "pod"} or discovery == {
                "role": "pod",
                "namespaces": {"names": ["knative-serving"]},
            }
    config["scrape_configs"] = from_config(pods(1, 2, 3, 4, 5))
    config["rule_files"] = [str(DASHBOARDS / pattern) for pattern in config["rule_files"]]
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    output = promtool("check", "config", path)
    assert f"{len(rule_files())} rule files found" in output


def test_exposition_of_the_class_is_clean() -> None:
    metrics = Metrics()
    metrics.watch_device_memory(lambda: {"total": 1, "used": 1})
    metrics.watch_budget(Budget(1))
    metrics.set_state("ready")
    metrics.set_model("m", "h", "cpu", "float32")
    metrics.http_done("txt2img", "POST", 200)
    assert promtool("check", "metrics", text=metrics.render().decode()) == ""


def test_exposition_of_the_service_is_clean(world: World) -> None:
    assert promtool("check", "metrics", text=world.exposition) == ""
