"""Every expression parses and names only series and labels that exist."""

import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from dashboards.frame import DEPLOYS
from dashboards.output import boards, rule_files
from dashboards.query import Window, fill
from dashboards.series import FAILURES, LABELS
from service.core.budget import Budget
from service.metrics import OUTCOMES, Metrics
from tests.dashboards.replay import DATA

VALUES = {
    "namespace": ".+",
    "service": ".+",
    "revision": ".+",
    "price": "1.5",
    **Window(0, 3600, 15, 15).macros(),
}
TARGET_LABELS = {"job", "instance", "pod", *LABELS}
"""Labels that scraping adds."""


def rules() -> list[dict[str, Any]]:
    """Every recording and alert rule."""
    return [
        rule
        for path in rule_files()
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


def expressions() -> Iterator[tuple[str, str]]:
    """(where it stands, the expression with its variables filled in)."""
    for name, board in boards().items():
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                yield f"{name}-{panel['title']}-{target['refId']}", fill(target["expr"], VALUES)
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                query = fill(variable["query"]["query"], VALUES)
                yield f"{name}-${variable['name']}", query.removeprefix("label_values(").rpartition(",")[0]
    yield "deploys", fill(DEPLOYS, VALUES)
    for rule in rules():
        yield rule.get("record") or rule["alert"], rule["expr"]


def existing() -> dict[str, set[str]]:
    """Names of series and their labels: ours from the class that makes them, Knative's from the captures."""
    metrics = Metrics()
    metrics.watch_device_memory(lambda: {"total": 1})
    metrics.watch_budget(Budget(1))
    metrics.set_state("ready")
    metrics.set_model("m", "h", "cpu", "float32")
    metrics.http_done("other", "GET", 200)
    metrics.request_done("txt2img", "error", 1)
    for series in (metrics.upstream_waiting, metrics.upstream_in_flight, metrics.upstream_oldest):
        series.labels("default")
    metrics.upstream_retries.labels("default", "connect")
    texts = [metrics.render().decode(), *(path.read_text() for path in sorted(DATA.glob("*.txt")))]
    found: dict[str, set[str]] = {"ALERTS": {"alertname", "alertstate"}, "up": set(TARGET_LABELS)}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set(TARGET_LABELS)).update(sample.labels)
    for rule in rules():
        if "record" in rule:
            found[rule["record"]] = set(LABELS)
    return found


def selectors(node: object) -> Iterator[Any]:
    """Every vector selector below ``node``, an expression of promql-parser."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
        return
    if isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector
        return
    for part in ("expr", "lhs", "rhs", "param"):
        if (child := getattr(node, part, None)) is not None:
            yield from selectors(child)
    for child in getattr(node, "args", None) or []:
        yield from selectors(child)


EXISTING = existing()
EXPRESSIONS = [pytest.param(expression, id=where) for where, expression in expressions()]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expression_parses_and_names_only_what_exists(expression: str) -> None:
    found = list(selectors(promql_parser.parse(expression)))
    assert found or expression == "vector(0)"
    for selector in found:
        assert selector.name in EXISTING, f"no such series: {selector.name}"
        matchers = selector.matchers.matchers
        named = {matcher.name for matcher in matchers}
        assert named <= EXISTING[selector.name], (
            f"{selector.name} has no label {named - EXISTING[selector.name]}"
        )


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_no_series_is_missed_by_the_walk(expression: str) -> None:
    """The walk above sees as many selectors as the text has names of series."""
    names = set(
        re.findall(
            r"\b(?:sd|kn|process|http)_\w+(?=\{|\[|\)| )",
            re.sub(r"by \([^)]*\)|on \([^)]*\)", "", expression),
        )
    )
    names -= {label for labels in EXISTING.values() for label in labels}
    assert names <= {selector.name for selector in selectors(promql_parser.parse(expression))}


def test_failures_are_outcomes_and_the_same_everywhere() -> None:
    assert set(FAILURES.split("|")) == set(OUTCOMES) - {"ok", "bad_request", "cancelled"}
    for rule in rules():
        for listed in re.findall(r'outcome=~"([^"]*)"', rule["expr"]):
            assert listed == FAILURES


def test_dashboards_use_every_series_of_ours() -> None:
    """What is measured is shown: a series that no panel and no rule reads is noise or forgotten."""
    used = {s.name for param in EXPRESSIONS for s in selectors(promql_parser.parse(str(param.values[0])))}
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in EXISTING if name.startswith("sd_")}
    assert ours - {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} == set()
