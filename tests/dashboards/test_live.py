"""Every expression returns data from a real Prometheus that scrapes the real service under a short real load."""

import math
from typing import Any

import pytest
import yaml

from dashboards.draw import Drawn, contact_sheet
from dashboards.frame import DEPLOYS
from dashboards.output import boards, rule_files
from dashboards.query import fill, has_data
from tests.dashboards.conftest import World

PANELS = [
    pytest.param(panel, id=f"{name}-{panel['title']}")
    for name, board in boards().items()
    for panel in board["panels"]
    if panel["type"] != "row"
]
RECORDS = [
    rule["record"]
    for path in rule_files()
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
    if "record" in rule
]


def choices(world: World, service: str = "lean") -> dict[str, str]:
    """Values for every variable and macro, narrower than "All" so that labels are tested too."""
    chosen = {"namespace": "default", "service": service, "revision": ".+", "price": "1.00"}
    return {**chosen, **world.window.macros()}


def ask(world: World, target: dict[str, Any]) -> list[Any]:
    """What one query of a panel brings back."""
    expression = fill(target["expr"], choices(world, "card" if "sd_gpu_memory" in target["expr"] else "lean"))
    if target.get("instant"):
        return world.api.instant(expression, world.window.end)
    return world.api.over(expression, world.window)


def looked_up(world: World) -> bool:
    """Whether any cache look-up was counted."""
    counted = world.api.instant("sum(sd_cache_hits_total) + sum(sd_cache_misses_total)", world.window.end)
    return counted[0].last > 0


@pytest.mark.parametrize("panel", PANELS)
def test_every_query_of_a_panel_returns_data(world: World, panel: dict[str, Any]) -> None:
    if panel["title"] == "Cache hits" and not looked_up(world):
        pytest.skip("the service counts no cache look-ups yet, so there is no share of hits")
    for target in panel["targets"]:
        assert has_data(ask(world, target)), f"nothing for {target['refId']}: {target['expr']}"


def test_the_mark_of_a_deploy_appears_when_a_revision_is_first_seen(world: World) -> None:
    found = world.api.over(fill(DEPLOYS, choices(world)), world.window)
    assert has_data(found)
    assert {series.labels["kn_revision_name"] for series in found} == {"lean-00001"}
    assert {series.labels["model"] for series in found} == {"demo_model"}


@pytest.mark.parametrize("record", RECORDS)
def test_every_recording_rule_has_recorded(world: World, record: str) -> None:
    assert has_data(world.api.over(record, world.window))


def test_no_rule_fails_to_evaluate(world: World) -> None:
    rules = [rule for group in world.api.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} >= set(RECORDS)
    assert [rule["lastError"] for rule in rules if rule.get("lastError")] == []


def test_the_variables_find_their_values(world: World) -> None:
    for board in boards().values():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                query = fill(variable["query"]["query"], choices(world))
                series, label = query.removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
                found = world.api.get("series", **{"match[]": series})
                assert {labels[label] for labels in found} & {"default", "lean", "lean-00001"}, query


def test_what_the_panels_say_is_what_was_done(world: World) -> None:
    """A query that returns data may still return the wrong data: compare with the service's own exposition."""
    made = sum(
        float(line.split()[-1])
        for line in world.exposition.splitlines()
        if line.startswith("sd_images_total")
    )
    assert made > 0
    at = world.window.end
    (counted,) = world.api.instant('sum(sd_images_total{kn_service_name="lean"})', at)
    assert counted.last == made
    panels = {panel["title"]: panel for board in boards().values() for panel in board["panels"]}
    (model,) = ask(world, panels["Model"]["targets"][0])
    assert model.labels == {"model": "demo_model"}
    (success,) = ask(world, panels["Success"]["targets"][0])
    assert success.last == 1
    (ready,) = ask(world, panels["Pods ready"]["targets"][0])
    assert ready.last == 1
    (busy,) = ask(world, panels["GPU-s per image, busy"]["targets"][0])
    (held,) = ask(world, panels["GPU-s per image, held"]["targets"][0])
    assert 0 < busy.last <= held.last * 1.5  # `held` counts in steps of 15 s
    stages = {series.labels["stage"] for series in ask(world, panels["P95 by stage"]["targets"][0])}
    assert {"queue", "cold_start", "text_encoding", "denoising", "decode", "encoding"} <= stages
    (wanted,) = ask(world, panels["Pod scaling"]["targets"][0])
    assert {value for _, value in wanted.points} == {5.0}
    for series in ask(world, panels["Device busy"]["targets"][0]):
        assert all(value <= 1.05 for _, value in series.points if not math.isnan(value))


def test_the_sheet_is_drawn(world: World, tmp_path: Any) -> None:
    from PIL import Image

    sheet = {}
    for board in boards().values():
        drawn = [
            Drawn(panel, [ask(world, target) for target in panel.get("targets", [])])
            for panel in board["panels"]
        ]
        sheet[board["title"]] = drawn
    for phone in (False, True):
        contact_sheet(sheet, tmp_path / "sheet.png", phone=phone)
        with Image.open(tmp_path / "sheet.png") as image:
            assert image.width > 1000
            assert len(image.convert("RGB").getcolors(2**24) or ()) > 50
