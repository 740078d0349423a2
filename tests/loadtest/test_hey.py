"""Debian's hey and ours against the same server: the same counts, the same percentiles, a layout that one
parser reads. And the scripts around hey do what they say.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from typer.testing import Result

SCRIPTS = Path(__file__).parents[2] / "loadtest" / "hey"
LEVELS = (0.05, 0.25, 1.0)
"""Seconds an answer takes: 6, 3 and 1 of ten. A factor of four and more apart, so that a busy machine doesn't
turn one into another."""


@pytest.fixture
def hey() -> str:
    """hey's path. Where it must be (CI) its absence fails; elsewhere it skips."""
    path = shutil.which("hey")
    if path is None:
        assert os.environ.get("CI") != "true", "hey is missing: apt-get install hey"
        pytest.skip("hey is not installed (apt-get install hey)")
    return path


def server() -> tuple[FastAPI, dict[str, list[dict[str, Any]]]]:
    """Answers in a fixed pattern, counted for each tool: /levels/TOOL takes time, /statuses/TOOL fails at
    times.
    """
    application = FastAPI()
    seen: dict[str, list[dict[str, Any]]] = {}

    async def note(tool: str, request: Request) -> int:
        calls = seen.setdefault(tool, [])
        calls.append({"method": request.method, "headers": dict(request.headers), "body": await request.body(),
                      "path": request.url.path})  # fmt: skip
        return len(calls) - 1

    @application.api_route("/levels/{tool}", methods=["GET", "POST"])
    async def levels(tool: str, request: Request) -> dict[str, str]:
        number = await note(tool, request) % 10
        await asyncio.sleep(LEVELS[0] if number < 6 else LEVELS[1] if number < 9 else LEVELS[2])
        return {"data": "x" * 100}

    @application.api_route("/statuses/{tool}", methods=["GET", "POST"])
    async def statuses(tool: str, request: Request) -> Response:
        return Response(status_code=(200, 200, 503, 200, 500)[await note(tool, request) % 5])

    @application.post("/sdapi/v1/txt2img")
    async def image(request: Request) -> dict[str, list[str]]:
        await note("txt2img", request)
        return {"images": ["x"]}

    return application, seen


def parsed(text: str) -> dict[str, Any]:
    """hey's summary, read by its layout."""

    def pairs(pattern: str) -> list[tuple[str, str]]:
        return re.findall(pattern, text, re.MULTILINE)

    return {
        "numbers": {
            name: float(value) for name, value in pairs(r"^  (\w[\w/]+):\t([\d.]+)(?: secs| bytes|)$")
        },
        "percentiles": {
            float(percent): float(value) for percent, value in pairs(r"^  ([\d.]+)% in ([\d.]+) secs")
        },
        "statuses": {int(code): int(count) for code, count in pairs(r"^  \[(\d{3})\]\t(\d+) responses")},
        "bars": [(float(edge), int(count)) for edge, count in pairs(r"^  ([\d.]+) \[(\d+)\]\t\|")],
    }


def level(seconds: float) -> float:
    """The level that an answer belongs to: the nearest by ratio."""
    return min(LEVELS, key=lambda one: max(one / seconds, seconds / one))


def test_hey_and_ours_find_the_same(
    hey: str, serve_app: Callable[[Any], str], run_cli: Callable[..., Result]
) -> None:
    application, seen = server()
    url = serve_app(application)
    options = [
        "-n",
        "60",
        "-c",
        "3",
        "-t",
        "30",
        "-m",
        "POST",
        "-T",
        "application/json",
        "-d",
        '{"prompt": "x"}',
    ]
    theirs = subprocess.run(
        [hey, *options, f"{url}/levels/hey"], capture_output=True, text=True, check=True
    ).stdout
    ours = run_cli("run", f"{url}/levels/ours", *options, "--quiet").stdout
    a, b = parsed(theirs), parsed(ours)

    assert len(seen["hey"]) == len(seen["ours"]) == 60
    assert a["statuses"] == b["statuses"] == {200: 60}
    assert sum(count for _, count in a["bars"]) == sum(count for _, count in b["bars"]) == 60
    assert len(a["bars"]) == len(b["bars"]) == 11
    assert a["numbers"].keys() <= b["numbers"].keys()

    # Both name the same order statistic: each percentile is an answer of the same level. What is left between
    # them is what two runs on a busy machine differ by, not what the tools do.
    assert a["percentiles"].keys() >= {10, 25, 50, 75, 90, 95}
    assert b["percentiles"].keys() == {10, 25, 50, 75, 90, 95}
    expected = {10: LEVELS[0], 25: LEVELS[0], 50: LEVELS[0], 75: LEVELS[1], 90: LEVELS[2], 95: LEVELS[2]}
    for percent, wanted in expected.items():
        assert level(a["percentiles"][percent]) == wanted
        assert level(b["percentiles"][percent]) == wanted

    sent = [{name: one[name] for name in ("method", "body")} for one in (seen["hey"][0], seen["ours"][0])]
    assert sent[0] == sent[1] == {"method": "POST", "body": b'{"prompt": "x"}'}
    assert {one["headers"]["content-type"] for one in seen["hey"] + seen["ours"]} == {"application/json"}


def test_hey_and_ours_count_the_same_statuses(
    hey: str, serve_app: Callable[[Any], str], run_cli: Callable[..., Result]
) -> None:
    application, _ = server()
    url = serve_app(application)
    theirs = subprocess.run(
        [hey, "-n", "100", "-c", "4", f"{url}/statuses/hey"], capture_output=True, text=True, check=True
    )
    ours = run_cli("run", f"{url}/statuses/ours", "-n", "100", "-c", "4", "--quiet")
    assert parsed(theirs.stdout)["statuses"] == parsed(ours.stdout)["statuses"] == {200: 60, 500: 20, 503: 20}


def test_our_percentiles_of_heys_latencies_are_heys(hey: str, serve_app: Callable[[Any], str]) -> None:
    """The raw latencies that hey writes, through our log: what a summary in hey's words would say."""
    from loadtest.latencies import Latencies

    application, _ = server()
    url = f"{serve_app(application)}/levels/csv"
    rows = subprocess.run(
        [hey, "-n", "60", "-c", "6", "-o", "csv", url], capture_output=True, text=True, check=True
    ).stdout
    values = [float(line.split(",")[0]) for line in rows.strip().split("\n")[1:]]
    assert len(values) == 60
    log = Latencies()
    for value in values:
        log.add(value)
    for percent in (10, 25, 50, 75, 90, 95):
        # hey's own loop: the first value whose index, in percent of the count, reaches the percentile.
        expected = next(value for index, value in enumerate(sorted(values)) if index * 100 // 60 >= percent)
        assert log.percentile(percent) == expected


def test_the_seed_script_sends_the_seeds_run(hey: str, serve_app: Callable[[Any], str]) -> None:
    application, seen = server()
    url = serve_app(application)
    text = subprocess.run(
        ["sh", str(SCRIPTS / "seed.sh"), f"{url}/"], capture_output=True, text=True, check=True,
        env={**os.environ, "HOST_HEADER": "sd.default.example.com"},
    ).stdout  # fmt: skip
    assert parsed(text)["statuses"] == {200: 50}
    assert len(seen["txt2img"]) == 50
    for one in seen["txt2img"]:
        assert json.loads(one["body"]) == {"prompt": "pretty dog"}
        assert one["headers"]["content-type"] == "application/json"
        assert one["headers"]["host"] == "sd.default.example.com"
    assert "hey -n 50 -c 5 -t 180 -m POST -T application/json" in (SCRIPTS / "seed.sh").read_text()


def test_the_ladder_writes_each_step(hey: str, serve_app: Callable[[Any], str], tmp_path: Path) -> None:
    application, seen = server()
    text = subprocess.run(
        ["sh", str(SCRIPTS / "ladder.sh"), serve_app(application), str(tmp_path / "out")], capture_output=True,
        text=True, check=True, env={**os.environ, "LADDER": "1 2"},
    ).stdout  # fmt: skip
    assert len(seen["txt2img"]) == 30
    reports = [parsed((tmp_path / "out" / f"ladder-{users}.txt").read_text()) for users in (1, 2)]
    assert [one["statuses"] for one in reports] == [{200: 10}, {200: 20}]
    assert [line.split(":")[0] for line in text.strip().split("\n")] == ["1 at a time", "2 at a time"]
    assert "[200] 20 responses" in text


@pytest.mark.parametrize("script", ["seed.sh", "ladder.sh"])
def test_scripts_explain_themselves(script: str, tmp_path: Path) -> None:
    usage = subprocess.run(["/bin/sh", str(SCRIPTS / script)], capture_output=True, text=True, check=False)
    assert usage.returncode == 2
    assert "usage:" in usage.stderr
    (tmp_path / "mkdir").symlink_to(shutil.which("mkdir") or "/bin/mkdir")
    missing = subprocess.run(
        ["/bin/sh", str(SCRIPTS / script), "http://127.0.0.1:1"], capture_output=True, text=True, check=False,
        env={"PATH": str(tmp_path)}, cwd=tmp_path,
    )  # fmt: skip
    assert missing.returncode == 2
    assert "apt-get install hey" in missing.stderr
