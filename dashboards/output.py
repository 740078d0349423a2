"""The files that are generated: one JSON a dashboard, and the rules as the Prometheus operator wants them."""

import json
from pathlib import Path
from typing import Any, Final

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import cost, engine, latency, overview

HERE: Final = Path(__file__).parent
GRAFANA: Final = HERE / "kustomize" / "grafana"
RULES: Final = HERE / "rules"
BOARDS: Final = {"overview": overview, "latency": latency, "engine": engine, "cost": cost}


def boards() -> dict[str, dict[str, Any]]:
    """Every dashboard as the JSON object that Grafana reads, by its short name."""
    built = {}
    for name, module in BOARDS.items():
        board = json.loads(json.dumps(module.build().build(), cls=JSONEncoder))
        for number, panel in enumerate(board["panels"], start=1):
            panel["id"] = number
        built[name] = board
    return built


def rule_files() -> list[Path]:
    """The files with recording and alert rules."""
    return sorted(RULES.glob("*.yaml"))


def _prometheus_rule() -> str:
    groups = [group for path in rule_files() for group in yaml.safe_load(path.read_text())["groups"]]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "knative-diffusion", "labels": {"app.kubernetes.io/name": "knative-diffusion"}},
        "spec": {"groups": groups},
    }
    head = "# Generated from ../rules by `python -m dashboards build`; edit those.\n"
    return head + yaml.safe_dump(rule, sort_keys=False, width=110, allow_unicode=True)


def render() -> dict[Path, str]:
    """The text of every generated file."""
    files = {
        GRAFANA / f"{name}.json": json.dumps(board, indent=1, ensure_ascii=False) + "\n"
        for name, board in boards().items()
    }
    files[HERE / "kustomize" / "prometheusrule.yaml"] = _prometheus_rule()
    return files
