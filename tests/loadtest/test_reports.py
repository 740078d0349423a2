"""Reports: hey's layout, JSON that comes back as it went, a page that needs nothing else, and comparisons."""

import random
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from loadtest.compare import compare_runs, differences
from loadtest.digest import build
from loadtest.exchange import Exchange, Session
from loadtest.findings import findings, floor
from loadtest.overhead import Overhead
from loadtest.plots import short_names
from loadtest.report_html import render as render_html
from loadtest.report_text import render as render_text
from loadtest.result import Plan, RunResult
from loadtest.statistics import bootstrap_ratio, percentile_of
from loadtest.tally import RECORDS, Tally

PLAN = Plan(
    url="http://127.0.0.1/sdapi/v1/txt2img", method="POST", arrivals="closed loop, 5 at a time", concurrency=5,
    requests=50, duration=None, timeout=180, stream=False, body='{"prompt": "pretty dog"}', bodies=1, sessions=0,
    think="", seed=0, honour_retry_after=False, keep_alive=True,
)  # fmt: skip
OVERHEAD = Overhead(0.0004, 0.00003, None, 0.002, 0.02)


def synthetic(
    count: int = 50,
    *,
    seconds: float = 10.0,
    cold: float = 30.0,
    pods: tuple[str, ...] = ("a", "b", "c", "d", "e"),
    failures: int = 0,
    seed: int = 0,
    plan: Plan = PLAN,
) -> RunResult:
    """A run as five users of five pods would see it: each pod's first request also waits for its start."""
    chance = random.Random(seed)
    tally = Tally()
    free = dict.fromkeys(pods, 0.0)
    sessions = [Session(number) for number in range(plan.sessions)]
    for number in range(count):
        pod = min(free, key=lambda name: free[name])
        sent = free[pod]
        first = sent == 0.0
        done = sent + seconds * chance.uniform(0.95, 1.25) + (cold if first else 0)
        free[pod] = done
        failed = number >= count - failures
        session = sessions[number % len(sessions)] if sessions else None
        tally.add(
            Exchange(
                number=number, intended=sent, sent=sent, done=done, status=500 if failed else 200,
                failure="HTTP 500" if failed else "", message="broken" if failed else "", size=100, pod=pod,
                cold=first and cold > 0, request_id=f"id-{number}", session=session.number if session else -1,
                connect=0.001, write=0.0001, wait=done - sent - 0.002, read=0.001,
            ),
            session,
        )  # fmt: skip
    result = build(plan, tally, OVERHEAD)
    return replace(result, notes=tuple(findings(result)))


def test_the_text_has_heys_layout() -> None:
    run = synthetic()
    lines = render_text(run).split("\n")
    assert lines[:7] == [
        "",
        "Summary:",
        f"  Total:\t{run.total:.4f} secs",
        f"  Slowest:\t{run.latency.slowest:.4f} secs",
        f"  Fastest:\t{run.latency.fastest:.4f} secs",
        f"  Average:\t{run.latency.mean:.4f} secs",
        f"  Requests/sec:\t{50 / run.total:.4f}",
    ]
    bars = [re.fullmatch(r"  (\d+\.\d{3}) \[(\d+)\]\t\|(■*)", line) for line in lines]
    found = [(float(one[1]), int(one[2]), len(one[3])) for one in bars if one]
    assert len(found) == 11
    assert sum(count for _, count, _ in found) == 50
    assert found[0][1] == 1
    assert max(length for _, _, length in found) == 40
    assert found[-1][0] == pytest.approx(run.latency.slowest, abs=0.001)
    order = ["Summary:", "Response time histogram:", "Latency distribution:",
             "Details (average, fastest, slowest):", "Status code distribution:"]  # fmt: skip
    assert [line for line in lines if line in order] == order
    assert "  [200]\t50 responses" in lines


def test_json_comes_back_as_it_went(tmp_path: Path) -> None:
    run = synthetic(60, failures=5, plan=replace(PLAN, sessions=4, stream=True))
    path = tmp_path / "run.json"
    path.write_bytes(run.to_json())
    assert RunResult.read(path) == run


def test_what_is_no_report_is_refused(tmp_path: Path, run_cli: Callable[..., Result]) -> None:
    good = tmp_path / "good.json"
    good.write_bytes(synthetic().to_json())
    for name, content in (
        ("empty", b""),
        ("other", b'{"a": 1}'),
        ("list", b"[]"),
        ("cut", good.read_bytes()[:900]),
    ):
        bad = tmp_path / f"{name}.json"
        bad.write_bytes(content)
        result = run_cli("compare", str(good), str(bad))
        assert result.exit_code == 2
        assert f"{name}.json is no report" in result.stderr
    assert run_cli("compare", str(good), str(tmp_path / "nowhere.json")).exit_code == 2
    newer = tmp_path / "newer.json"
    newer.write_bytes(good.read_bytes().replace(b'"format": 1', b'"format": 2'))
    assert "has format 2" in run_cli("compare", str(good), str(newer)).stderr


class Page(HTMLParser):
    """Collects what a page loads and whether its elements are closed."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith(("#", "data:")):
                self.loads.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(run: RunResult) -> Page:
    page = Page()
    page.feed(render_html(run))
    page.close()
    assert page.open == []
    return page


def test_the_page_needs_nothing_else() -> None:
    page = page_of(synthetic())
    assert page.loads == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.tags.count("svg") == 4
    text = " ".join(page.text)
    for word in (
        "Timeline",
        "Concurrency and pods",
        "Latency histogram",
        "cold start",
        "first answer of a cold pod",
    ):
        assert word in text
    assert "@import" not in text
    assert "url(http" not in render_html(synthetic())


def test_the_page_bears_every_kind_of_run() -> None:
    empty = build(PLAN, Tally(), OVERHEAD, interrupted=True, unfinished=3)
    assert page_of(empty).tags.count("svg") == 0
    assert page_of(synthetic(5, failures=5)).tags.count("svg") == 3, "nothing succeeded: no histogram"
    assert page_of(synthetic(1)).tags.count("svg") == 4
    assert page_of(synthetic(40, seconds=0.001, cold=50)).tags.count("svg") == 4
    many = synthetic(RECORDS + 500, pods=tuple(f"pod-{number}" for number in range(130)))
    assert many.sampled
    assert page_of(many).tags.count("svg") == 3, "too many for bars"
    assert len(render_html(many)) < 3_000_000
    assert page_of(synthetic(60, failures=6, plan=replace(PLAN, stream=True, sessions=3))).tags


def test_what_a_server_sends_is_escaped() -> None:
    evil = '<script>alert("$x_1$")</script>'
    run = synthetic(60, pods=(evil, "b"), failures=2)
    run = replace(run, failures=(replace(run.failures[0], example=evil, kind=evil),))
    page = page_of(run)
    assert "script" not in page.tags
    assert any(evil in text for text in page.text)


def test_pod_names_are_shortened_to_what_differs() -> None:
    names = [f"sd-00001-deployment-7d9c6b5f4-{end}" for end in ("x2kfp", "x9qqz", "bbbbb")]
    assert short_names(names) == ["x2kfp", "x9qqz", "bbbbb"]
    assert short_names(["alone-1"]) == ["alone-1"]
    assert short_names(["a\nb", "ü-x"]) == ["a?b", "?-x"]


def test_findings_name_the_floor_and_the_uneven_pod() -> None:
    run = synthetic(50, seconds=10, cold=30)
    least = floor(run)
    assert least is not None
    assert least == pytest.approx(10 * run.latency.fastest)
    assert any("The floor is" in note for note in run.notes)
    assert any("5 cold starts" in note for note in run.notes)
    assert not any("Uneven" in note for note in run.notes)
    tally = Tally()
    for number in range(50):
        pod = "busy" if number % 5 else "idle"
        tally.add(Exchange(number=number, intended=number, sent=number, done=number + 1, status=200, pod=pod))
    notes = findings(build(PLAN, tally, OVERHEAD))
    assert any("busy served 40 of 50 (80%; evenly 50%)" in note for note in notes)
    assert any("mesh-compatibility-mode" in note for note in notes)
    tally = Tally()
    for number in range(50):
        late = number + 1 if number == 0 else number + 5
        tally.add(Exchange(number=number, intended=number, sent=number, done=late, status=200, pod="one"))
    assert any("One pod answered everything" in note for note in findings(build(PLAN, tally, OVERHEAD)))
    assert findings(build(PLAN, Tally(), OVERHEAD)) == []


def test_a_client_that_sets_the_pace_says_so() -> None:
    busy = Overhead(0.001, 0.0001, 0.4, 0.9, 0.97)
    texts = busy.warnings(typical=1.0, start_delay=0.2)
    assert len(texts) == 3
    assert OVERHEAD.warnings(typical=10.0, start_delay=0.001) == []


def test_a_comparison_finds_what_changed_and_only_that() -> None:
    before = synthetic(400, seconds=10, seed=1)
    faster = synthetic(400, seconds=5, seed=2)
    rows = {row.measure: row for row in compare_runs(before, faster)}
    middle = rows["P50 latency, s"]
    assert middle.verdict == "better"
    assert middle.low is not None
    assert middle.high is not None
    assert middle.low < 0.5 < middle.high
    assert middle.ratio == pytest.approx(0.5, rel=0.1)
    assert {row.measure: row for row in compare_runs(faster, before)}["P50 latency, s"].verdict == "worse"
    same = {row.measure: row for row in compare_runs(before, synthetic(400, seconds=10, seed=3))}
    assert same["P50 latency, s"].verdict == "no difference shown"
    assert same["average latency, s"].verdict == "no difference shown"
    assert rows["total, s"].low is None, "one total a run: no interval"
    assert rows["failures"].verdict == ""


def test_more_failures_are_worse() -> None:
    rows = {row.measure: row for row in compare_runs(synthetic(400), synthetic(400, failures=60))}
    assert rows["failures"].verdict == "worse"
    few = {row.measure: row for row in compare_runs(synthetic(400), synthetic(400, failures=1))}
    assert few["failures"].verdict == "no difference shown"


def test_intervals_of_ratios_cover_as_often_as_they_say() -> None:
    """Two runs of the same service: 1 lies in the 95 % interval of the ratio of medians nearly always."""
    hits = 0
    for seed in range(30):
        one, other = (
            [record.latency for record in synthetic(200, cold=0, seed=2 * seed + side).records]
            for side in (0, 1)
        )
        _, low, high = bootstrap_ratio(one, other, percentile_of(50), concurrency=5)
        hits += low <= 1 <= high
    assert hits >= 24  # 28.5 expected of a 95 % interval; fewer than 24 has a probability under 0.005


def test_percentiles_that_one_run_cannot_bear_are_not_compared() -> None:
    measures = {row.measure for row in compare_runs(synthetic(400), synthetic(50))}
    assert "P95 latency, s" in measures
    assert "P99 latency, s" not in measures


def test_different_conditions_are_told() -> None:
    other = replace(PLAN, arrivals="open loop, 2 requests/s", sessions=5)
    assert differences(PLAN, PLAN) == []
    assert differences(PLAN, other) == [
        "arrivals: closed loop, 5 at a time and open loop, 2 requests/s",
        "sessions: none and 5",
    ]


def test_the_command_compares(tmp_path: Path, run_cli: Callable[..., Result]) -> None:
    a, b, empty = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "empty.json"
    a.write_bytes(synthetic(100, seconds=10).to_json())
    b.write_bytes(synthetic(100, seconds=20, plan=replace(PLAN, timeout=60)).to_json())
    empty.write_bytes(build(PLAN, Tally(), OVERHEAD).to_json())
    result = run_cli("compare", str(a), str(b))
    assert result.exit_code == 0
    assert "worse" in result.stdout
    assert "Not the same conditions: timeout: 180.0 and 60.0" in result.stdout
    assert run_cli("compare", str(a), str(b), "--fail-if-worse").exit_code == 1
    assert run_cli("compare", str(b), str(a), "--fail-if-worse").exit_code == 0
    refused = run_cli("compare", str(a), str(empty))
    assert refused.exit_code == 2
    assert "no successful request" in refused.stderr


def test_the_concurrency_of_the_timeline_is_that_of_the_run() -> None:
    run = synthetic(500, cold=0)
    widths = np.diff([*np.arange(len(run.timeline.concurrency)) * run.timeline.width, run.total])
    busy = float(np.dot(run.timeline.concurrency, np.full(len(widths), run.timeline.width)))
    assert busy == pytest.approx(sum(one.done - one.sent for one in run.records))
    assert max(run.timeline.concurrency) == pytest.approx(5)
