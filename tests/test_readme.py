"""The pages say what the code does: the table of settings, links, commands."""

import re
from pathlib import Path

from bench.__main__ import benches
from bench.table import ROWS, table
from service.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SETTINGS = (ROOT / "docs" / "settings.md").read_text()


def test_the_configuration_table_is_that_of_the_settings_class() -> None:
    shown = re.search(r"<!-- settings -->\n(.*)\n<!-- /settings -->", SETTINGS, re.DOTALL)
    assert shown, "the table's marks are missing"
    assert shown[1].strip() == Settings.table().strip(), "run `make readme`"


def test_links_lead_somewhere() -> None:
    for page in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("*/README.md"),
        *ROOT.glob("*/*/README.md"),
    ]:
        for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", README)) | set(
        re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)
    )
    assert named <= targets


def test_table_of_benches_has_a_row_for_each_figure_there_is() -> None:
    written = table({"overhead": {"http_over_pipeline_ratio": 1.01}, "memory": {"peak_mib": 3}})
    assert written.splitlines()[2:] == [
        "| txt2img 512×512, 20 steps, over HTTP, against the bare diffusers pipeline | 1.01 | ≤ 1.03 |"
    ]
    assert {bench for bench, *_ in ROWS} <= benches().keys()
    assert "<!-- bench -->" in README
    assert "<!-- /bench -->" in README
