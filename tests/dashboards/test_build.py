"""The committed dashboards are what the sources say, and every panel can be read and acted on."""

import subprocess
import sys
from typing import Any

import pytest

from dashboards.output import GRAFANA, boards, render

BOARDS = boards()
PANELS = [
    pytest.param(panel, id=f"{name}-{panel['title']}")
    for name, board in BOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
]


def test_committed_files_are_what_the_sources_say() -> None:
    for path, text in render().items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is stale: run `python -m dashboards build`"
    assert {path.name for path in GRAFANA.iterdir()} == {f"{name}.json" for name in BOARDS}


def test_check_command_agrees() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dashboards", "check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "dashboards", "nonsense"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "build | check | sheet" in done.stderr


def test_four_dashboards_linked_with_variables_and_deploy_marks() -> None:
    assert set(BOARDS) == {"overview", "latency", "engine", "cost"}
    assert len({board["uid"] for board in BOARDS.values()}) == 4
    for name, board in BOARDS.items():
        names = [variable["name"] for variable in board["templating"]["list"]]
        assert names[:4] == ["datasource", "namespace", "service", "revision"]
        assert ("price" in names) == (name == "cost")
        (link,) = board["links"]
        assert link["type"] == "dashboards"
        assert set(link["tags"]) <= set(board["tags"])
        assert link["includeVars"]
        assert link["keepTime"]
        (deploys,) = board["annotations"]["list"]
        assert deploys["enable"]
        assert "sd_model_info" in deploys["expr"]
        assert deploys["titleFormat"] == "{{kn_revision_name}}"
        assert [panel["id"] for panel in board["panels"]] == list(range(1, len(board["panels"]) + 1))


@pytest.mark.parametrize("panel", PANELS)
def test_panel_has_help_unit_thresholds_and_a_source(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert len(panel["description"]) > 30
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"]
    steps = defaults["thresholds"]["steps"]
    assert steps[0]["value"] is None
    assert [s["value"] for s in steps[1:]] == sorted(s["value"] for s in steps[1:])
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]


@pytest.mark.parametrize("panel", PANELS)
def test_panel_is_readable_at_phone_width(panel: dict[str, Any]) -> None:
    """Grafana stacks panels over the phone's whole width: what counts is what stands inside."""
    assert len(panel["title"]) <= 26
    assert panel["gridPos"]["w"] >= (4 if panel["type"] == "stat" else 12)
    assert 4 <= panel["gridPos"]["h"] <= 9
    assert panel["options"].get("legend", {}).get("placement", "bottom") == "bottom"
    if panel["type"] == "table":
        assert len(panel["targets"]) <= 4
    if panel["type"] == "stat":
        assert panel["options"]["graphMode"] == "none"


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_panels_fill_the_grid_without_overlap_or_gap(board: dict[str, Any]) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        for x in range(place.get("x", 0), place.get("x", 0) + place["w"]):
            for y in range(place.get("y", 0), place.get("y", 0) + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                assert x < 24
                taken[x, y] = panel["title"]
    assert len(taken) == 24 * (1 + max(y for _, y in taken))
