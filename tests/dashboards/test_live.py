"""Every expression returns data from a real Prometheus that scrapes the real service under a short real load."""

import math
from typing import Any

import pytest
import yaml

from dashboards.draw import contact_sheet
from dashboards.frame import DEPLOYS
from dashboards.output import boards, rule_files
from dashboards.query import Series, fill, has_data
from dashboards.series import FRONT
from dashboards.sheet import collect
from tests.dashboards.conftest import World

PANELS = [
    pytest.param(panel, id=f"{name}-{panel['title']}")
    for name, board in boards().items()
    for panel in board["panels"]
    if panel["type"] != "row"
]
CHOICES = {"namespace": "default", "service": "lean", "revision": ".+", "price": "1.00"}
RECORDS = [
    rule["record"]
    for path in rule_files()
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
    if "record" in rule
]


def ask(world: World, panel: dict[str, Any]) -> list[list[Series]]:
    """What the queries of a panel bring back, asked more narrowly than "All" so that labels are tested too."""
    asked = panel["targets"][0]["expr"]
    service = "card" if "sd_gpu_memory" in asked else "front|lean" if FRONT in asked else "lean"
    service = "knative-diffusion-ray" if "ray_serve_" in asked else service
    return world.api.panel(panel, world.window, {**CHOICES, "service": service})


@pytest.mark.parametrize("panel", PANELS)
def test_every_query_of_a_panel_returns_data(world: World, panel: dict[str, Any]) -> None:
    for target, answer in zip(panel["targets"], ask(world, panel), strict=True):
        assert has_data(answer), f"nothing for {target['refId']}: {target['expr']}"


def test_the_mark_of_a_deploy_appears_when_a_revision_is_first_seen(world: World) -> None:
    found = world.api.over(fill(DEPLOYS, CHOICES), world.window)
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
                query = fill(variable["query"]["query"], CHOICES)
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
    ((model,),) = ask(world, panels["Model"])
    assert model.labels == {"model": "demo_model"}
    ((success,),) = ask(world, panels["Success"])
    assert success.last == 1
    ((ready,),) = ask(world, panels["Pods ready"])
    assert ready.last == 1
    ((busy,),) = ask(world, panels["GPU-s per image, busy"])
    ((held,),) = ask(world, panels["GPU-s per image, held"])
    assert 0 < busy.last <= held.last * 1.5  # `held` counts in steps of 15 s
    stages = {series.labels["stage"] for series in ask(world, panels["P95 by stage"])[0]}
    assert {"queue", "cold_start", "text_encoding", "denoising", "decode", "encoding"} <= stages
    (wanted,) = ask(world, panels["Pod scaling"])[0]
    assert {value for _, value in wanted.points} == {5.0}
    started = ask(world, panels["Cold starts over time"])[0]
    assert sum(value for series in started for _, value in series.points) == 1
    # Extrapolation at the edges may exceed the truth a little; a counter that jumps would exceed it manyfold.
    for series in ask(world, panels["Device busy"])[0]:
        assert all(value < 1.5 for _, value in series.points if not math.isnan(value))


def test_the_sheet_is_drawn(world: World, tmp_path: Any) -> None:
    from PIL import Image

    sheet = collect(world.api, world.window)
    assert sum(len(drawn) for drawn in sheet.values()) > 80
    for phone in (False, True):
        contact_sheet(sheet, world.window, tmp_path / "sheet.png", phone=phone)
        with Image.open(tmp_path / "sheet.png") as image:
            assert image.width > 1000
            assert len(image.convert("RGB").getcolors(2**24) or ()) > 50


def test_series_of_ray_s_replicas_have_the_names_and_labels_of_knative_s_pods(world: World) -> None:
    ready = world.api.instant(
        'sd_lifecycle_state{kn_service_name="knative-diffusion-ray", state=~"ready|busy"} == 1',
        world.window.end,
    )
    assert len(ready) == 3, "an ingress and two GPU replicas"
    assert len({series.labels["pod"] for series in ready}) == 3
    assert {series.labels["kn_revision_name"] for series in ready} == {"diffusion-abcde"}
    assert {series.labels["deployment"] for series in ready} == {"Gpu", "Ingress"}
    kept = world.api.get("series", **{"match[]": '{kn_service_name="knative-diffusion-ray"}'})
    assert not [labels for labels in kept if labels["__name__"] == "ray_tasks"]
