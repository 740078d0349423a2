"""Arrivals, bodies, notations and rules: what the command line means, and what it refuses."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.arrivals import Stage, parse_stage, staged, trace
from loadtest.options import OptionError, seconds, size, think_time
from loadtest.payloads import Payloads, read_body, read_prompts
from loadtest.run_options import Load, address_of, headers_of, loop_of
from loadtest.runner import ClosedLoop, OpenLoop
from loadtest.thresholds import parse


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90), ("250ms", 0.25), ("1.5m", 90), ("1h30m", 5400), ("2h", 7200), ("10s", 10)]
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "0", "-3", "5 minutes", "1d", "s", "1s 2s", "nan", "1e3"])
def test_wrong_durations_are_explained(text: str) -> None:
    with pytest.raises(OptionError, match="write seconds or units"):
        seconds(text)


def test_sizes_and_think_times() -> None:
    assert size("512x768") == (512, 768)
    chance = random.Random(0)
    assert think_time("2", chance)() == 2
    assert all(1 <= think_time("1-5", chance)() <= 5 for _ in range(100))
    mean = np.mean([think_time("exp:3", chance)() for _ in range(4000)])
    assert 2.7 < mean < 3.3
    for wrong in ("5-1", "soon", "exp:"):
        with pytest.raises(OptionError):
            think_time(wrong, chance)
    for wrong in ("512", "0x4", "ax3"):
        with pytest.raises(OptionError, match="512x768"):
            size(wrong)


def test_a_constant_rate_is_even() -> None:
    times = [one.at for one in itertools.islice(staged([Stage(4, 4)]), 9)]
    assert times == [index / 4 for index in range(9)]


def test_poisson_arrivals_have_the_rate_and_the_spread() -> None:
    times = np.array([one.at for one in itertools.islice(staged([Stage(5, 5)], random.Random(1)), 20_000)])
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(0.2, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
    counts, _ = np.histogram(times, bins=np.arange(0, times[-1] - 1, 1.0))
    assert counts.var() == pytest.approx(counts.mean(), rel=0.1)


@given(
    st.lists(
        st.tuples(st.floats(0, 5), st.floats(0, 5), st.floats(1, 50)).filter(
            lambda one: one[0] + one[1] > 0.1
        ),
        min_size=1,
        max_size=4,
    )
)
def test_ramps_bring_as_many_requests_as_their_area(stages: list[tuple[float, float, float]]) -> None:
    ramp = [Stage(*one) for one in stages]
    times = [one.at for one in staged(ramp)]
    area = sum(stage.requests for stage in ramp)
    assert abs(len(times) - area) <= 1 + 1e-6
    assert times == sorted(times)
    assert not times or times[-1] <= sum(stage.duration for stage in ramp) + 1e-6


def test_a_ramp_gets_denser_as_its_rate_rises() -> None:
    times = np.array([one.at for one in staged([parse_stage("0:2:100")])])
    counts, _ = np.histogram(times, bins=[0, 25, 50, 75, 100])
    assert counts == pytest.approx([6.25, 18.75, 31.25, 43.75], abs=1)


def test_a_pause_between_ramps_brings_nothing() -> None:
    times = np.array([one.at for one in staged([Stage(1, 1, 10), Stage(0, 0, 50), Stage(1, 1, 10)])])
    assert len(times) == 20
    assert not ((times > 10) & (times < 60)).any()


@pytest.mark.parametrize("text", ["1", "1:2", "a:b:c", "1:2:0", "-1:2:5s", "1:2:3:4", "nan:1:5", "inf:1:5"])
def test_wrong_ramps_are_explained(text: str) -> None:
    with pytest.raises(OptionError, match="ramp"):
        parse_stage(text)


def test_recordings_in_every_notation(tmp_path: Path) -> None:
    plain = tmp_path / "plain.txt"
    plain.write_text("# a comment\n10\n10.5\n\n12\n")
    table = tmp_path / "table.csv"
    table.write_text('prompt,t\n"a, b",100\nc,100.5\nd,102\n')
    stamps = tmp_path / "stamps.csv"
    stamps.write_text("2026-01-01T00:00:00+00:00\n2026-01-01T00:00:00.500+00:00\n2026-01-01T00:00:02+00:00\n")
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"t": 1, "prompt": "x", "width": 64, "height": 96}\n{"t": 1.5}\n{"t": 3}\n')
    for path in (plain, table, stamps, lines):
        assert [one.at for one in trace(path)] == [0, 0.5, 2]
        assert [one.at for one in trace(path, speed=2)] == [0, 0.25, 1]
    assert next(trace(lines)).body == {"prompt": "x", "width": 64, "height": 96}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1\nsoon\n", "line 2: 'soon' is no time"),
        ("2\n1\n", "line 2: time goes back"),
        ('{"t": 1}\n{"when": 2}\n', "line 2: None is no time"),
        ('{"t": 1\n', "neither JSON lines nor CSV"),
        ("nan\n", "no time"),
        ("inf\n", "no time"),
        ("t\n", "holds no arrivals"),
    ],
)
def test_wrong_recordings_name_the_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "trace.txt"
    path.write_text(text)
    with pytest.raises(OptionError, match=complaint):
        loop_of(load(trace=path), random.Random(0))


def test_binary_and_missing_recordings_are_explained(tmp_path: Path) -> None:
    binary = tmp_path / "trace.bin"
    binary.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(OptionError, match="neither"):
        list(trace(binary))
    with pytest.raises(OptionError, match="can't be read"):
        list(trace(tmp_path / "nowhere"))


def load(**given: object) -> Load:
    base: dict[str, object] = {
        "n": None, "c": None, "z": None, "think": None, "rate": None, "ramp": [], "poisson": False,
        "trace": None, "speed": 1.0, "max_in_flight": 10,
    }  # fmt: skip
    return Load(**(base | given))  # type: ignore[arg-type]


def test_the_loop_that_options_ask_for() -> None:
    chance = random.Random(0)
    loop, words = loop_of(load(), chance)
    assert isinstance(loop, ClosedLoop)
    assert (loop.requests, loop.concurrency) == (50, 5)
    assert words == "closed loop, 5 at a time"
    loop, _ = loop_of(load(n=3), chance)
    assert isinstance(loop, ClosedLoop)
    assert loop.concurrency == 3
    loop, _ = loop_of(load(z="30s"), chance)
    assert (loop.requests, loop.duration) == (None, 30)
    loop, words = loop_of(load(rate=2.0, poisson=True), chance)
    assert isinstance(loop, OpenLoop)
    assert loop.requests == 50
    assert words == "open loop, Poisson, 2 requests/s"
    loop, _ = loop_of(load(ramp=["0:2:10s"]), chance)
    assert loop.requests is None


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"rate": 1.0, "ramp": ["1:2:3"]}, "exclude each other"),
        ({"poisson": True}, "needs --rate"),
        ({"n": 2, "c": 3}, "can't share"),
        ({"rate": 1.0, "c": 3}, "closed loop"),
        ({"rate": 1.0, "think": "3"}, "closed loop"),
        ({"rate": 0.0}, "more than 0"),
        ({"rate": float("nan")}, "more than 0"),
        ({"ramp": ["0:0:5s"]}, "bring no request"),
    ],
)
def test_options_that_contradict_each_other(given: dict[str, object], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        loop_of(load(**given), random.Random(0))


def test_addresses() -> None:
    assert str(address_of("http://host:8080", False)) == "http://host:8080/sdapi/v1/txt2img"
    assert str(address_of("host", True)) == "http://host/v1/generate"
    assert str(address_of("https://host/any?x=1", False)) == "https://host/any?x=1"
    for wrong in ("", "ftp://host/", "http://", "http://host:port/", "http://" + "a" * 70 + ".example/"):
        with pytest.raises(OptionError, match="no URL"):
            address_of(wrong, False)
    with pytest.raises(OptionError, match="-a"):
        address_of("http://user:secret@host/", False)


def test_headers_given_by_hand_win() -> None:
    headers = dict(
        headers_of(["content-type: text/plain", "X-A:b"], "application/json", None, "u:p", "h", True)
    )
    assert headers["content-type"] == "text/plain"
    assert "Content-Type" not in headers
    assert headers["X-A"] == "b"
    assert headers["Host"] == "h"
    assert headers["Authorization"] == "Basic dTpw"
    for wrong in ("no colon", ": empty", "X-A: b\r\nX-B: c"):
        with pytest.raises(OptionError, match="Name: value"):
            headers_of([wrong], "application/json", None, None, None, True)


def test_every_prompt_meets_every_size() -> None:
    payloads = Payloads(b'{"steps": 3}', ["a", "b"], [(64, 64), (96, 64)])
    bodies = [json.loads(payloads.of(number, {}).body) for number in range(5)]
    assert payloads.distinct == 4
    assert {(one["prompt"], one["width"]) for one in bodies} == {("a", 64), ("a", 96), ("b", 64), ("b", 96)}
    assert bodies[4] == bodies[0]
    assert all(one["steps"] == 3 for one in bodies)
    assert payloads.of(1, {}).group == "96×64 · 1. a"
    recorded = payloads.of(0, {"width": 32, "height": 32})
    assert json.loads(recorded.body)["width"] == 32
    assert recorded.group == "32×32"


def test_a_body_alone_is_sent_as_it_is() -> None:
    assert Payloads(b"{broken").of(7, {}).body == b"{broken"
    assert Payloads(None).of(0, {}).body == b""


def test_bodies_that_cannot_be_changed_are_refused(tmp_path: Path) -> None:
    for body in (b"[1]", b"{broken"):
        with pytest.raises(OptionError, match="--prompt"):
            Payloads(body, ["a"])
    with pytest.raises(OptionError, match="not both"):
        read_body("x", tmp_path / "y")
    with pytest.raises(OptionError, match="can't be read"):
        read_body(None, tmp_path / "nowhere")
    empty = tmp_path / "prompts.txt"
    empty.write_text("# nothing\n\n")
    with pytest.raises(OptionError, match="holds no prompt"):
        read_prompts(empty)


@pytest.mark.parametrize(
    ("text", "limit"),
    [("p95>30", 30), (" p99.9 >= 1.5m ", 90), ("error_rate>1%", 0.01), ("errors>0", 0), ("rps<0.5", 0.5),
     ("total>110s", 110), ("progress_p50>500ms", 0.5), ("mean>2", 2)],
)  # fmt: skip
def test_rules(text: str, limit: float) -> None:
    assert parse(text).limit == pytest.approx(limit)


@pytest.mark.parametrize(
    "text", ["p95", "p95>", ">3", "p0>1", "p95>fast", "colour>3", "errors>1%", "p95>1%", "rps<5s"]
)
def test_wrong_rules_are_explained(text: str) -> None:
    with pytest.raises(OptionError, match="--fail-if"):
        parse(text)


def test_a_rule_that_the_sample_cannot_bear_is_refused_before_the_run() -> None:
    with pytest.raises(OptionError, match="needs at least 230 requests"):
        parse("p99>3").check_sample(50)
    parse("p95>3").check_sample(50)
    parse("p99>3").check_sample(None)
    parse("slowest>3").check_sample(1)
