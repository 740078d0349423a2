"""Scenario files: what is accepted, and what a bad one is told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from loadtest.simulate.arrivals import arrivals
from loadtest.simulate.distributions import Distribution
from loadtest.simulate.scenario import (
    SHIPPED,
    Daily,
    Open,
    Scenario,
    ScenarioError,
    Trace,
    load,
    parse,
    parse_duration,
)

GOOD: dict[str, Any] = {
    "traffic": {"kind": "closed", "requests": 10, "concurrency": 2},
    "service": {"time": 5},
    "pods": {"start": 10},
    "cluster": {"gpu-quota": 3},
}


def _with(path: str, value: object) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(GOOD))
    section = data
    *steps, last = path.split(".")
    for step in steps:
        section = section.setdefault(step, {})
    section[last] = value
    return data


def _without(path: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(GOOD))
    section = data
    *steps, last = path.split(".")
    for step in steps:
        section = section[step]
    del section[last]
    return data


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_scenarios_are_good(path: Path) -> None:
    assert load(path).name


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1m30s", 90), ("500ms", 0.5), ("1.5h", 5400), ("2 m", None)],
)
def test_durations(text: str, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(ValueError, match="is no duration"):
            parse_duration(text)
    else:
        assert parse_duration(text) == seconds
    assert parse_duration(7) == 7


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_without("cluster.gpu-quota"), ["cluster.gpu-quota", "missing", "add it"]),
        (_without("service"), ["service", "missing"]),
        (_with("autoscaling.min-scal", 1), ["autoscaling.min-scal", "did you mean min-scale?"]),
        (_with("autoscalling.min-scale", 1), ["autoscalling", "did you mean autoscaling?"]),
        (_with("pods.colour", 1), ["pods.colour", "known here are", "readiness-period"]),
        (_with("autoscaling.window", "3s"), ["autoscaling.window", "'3s'", "greater than or equal to 6"]),
        (_with("autoscaling.window", "soon"), ["autoscaling.window", "write seconds or units"]),
        (_with("autoscaling.container-concurrency", 0), ["0 means no limit", "set 1"]),
        (_with("autoscaling.target-burst-capacity", -0.5), ["neither -1", "nor 0 or more"]),
        (_with("autoscaling.activation-scale", 1), ["set 2 or more"]),
        (_with("autoscaling.timeout-seconds", 900), ["timeout-seconds", "900", "less than or equal to 600"]),
        (_with("autoscaling.min-scale", 5), ["min-scale (5)", "gpu-quota (3)", "lower min-scale"]),
        (_with("autoscaling", {"min-scale": 2, "max-scale": 1}), ["min-scale (2) is above max-scale (1)"]),
        (_with("pods.initial", 4), ["pods.initial (4)", "gpu-quota (3)", "lower it"]),
        (_with("service.time", {"low": 1}), ["service.time", "kind: constant, uniform"]),
        (_with("service.time", {"kind": "uniform", "low": 5, "high": 1}), ["below low", "swap them"]),
        (_with("service.time", -1), ["service.time", "greater than or equal to 0"]),
        (_with("traffic.kind", "bursty"), ["traffic", "closed"]),
        (_with("traffic.requests", 1), ["1 requests cannot keep 2 workers busy"]),
        (
            _with("traffic", {"kind": "daily", "images-per-day": 5, "curve": [1, 2]}),
            ["curve has 2", "give 24"],
        ),
        ([1, 2], ["a scenario is a mapping"]),
    ],
)
def test_bad_scenarios_are_told_what_to_change(data: object, words: list[str]) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(data, source="mine.yaml")
    text = str(caught.value)
    assert text.startswith("mine.yaml: ")
    for word in words:
        assert word in text


def test_every_fault_is_named() -> None:
    data = _with("autoscaling.window", "3s") | {"pods": {}}
    with pytest.raises(ScenarioError) as caught:
        parse(data)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.yaml", None, ["cannot be read", "guide"]),
        ("text.yaml", b"just text", ["a scenario is a mapping"]),
        ("bad.yaml", b"a: [1", ["neither YAML nor JSON"]),
        ("bad.json", b"{", ["neither YAML nor JSON"]),
        ("binary.yaml", b"\xff\xfe\x00", ["cannot be read"]),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes | None, words: list[str]) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ScenarioError) as caught:
        load(path)
    for word in words:
        assert word in str(caught.value)


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({**GOOD, "name": "x"}), encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps({**GOOD, "name": "x"}), encoding="utf-8")
    assert load(tmp_path / "a.yaml") == load(tmp_path / "a.json")


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["traffic", "pods", "kind", "x"]), inner)
        ),
    )
)
def test_any_data_is_a_scenario_or_a_sentence(data: object) -> None:
    try:
        parsed: object = parse(data)
    except ScenarioError as e:
        parsed = e
    assert isinstance(parsed, Scenario) or str(parsed)


# --- arrivals


def test_constant_and_poisson_rates() -> None:
    rng = np.random.default_rng(1)
    even = [t for t, _ in arrivals(Open(kind="constant", rate=2, duration=5), rng)]
    assert even == [i / 2 for i in range(10)]
    random = [t for t, _ in arrivals(Open(kind="poisson", rate=3, duration=10_000), rng)]
    assert random == sorted(random)
    assert len(random) == pytest.approx(30_000, rel=0.03)


def test_a_day_has_its_images_where_its_curve_says() -> None:
    curve = [0.0] * 24
    curve[12] = 1.0
    daily = Daily.model_validate({"kind": "daily", "images-per-day": 5000, "curve": curve, "days": 2})
    times = [t for t, _ in arrivals(daily, np.random.default_rng(1))]
    assert len(times) == 10_000
    assert times == sorted(times)
    assert all(11.5 * 3600 <= t % 86_400 <= 13.5 * 3600 for t in times)


def test_traces(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_text("# seconds, service\n0.5\n\n2,7.5\n", encoding="utf-8")
    rng = np.random.default_rng(1)
    assert list(arrivals(Trace(kind="trace", file=path), rng)) == [(0.5, None), (2.0, 7.5)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\nx\n", "line 2: 'x' should be seconds"),
        ("1,2,3\n", "should be seconds"),
        ("nan\n", "should be seconds"),
        ("5\n4\n", "line 2: arrivals go back in time"),
        ("# nothing\n", "holds no arrival"),
    ],
)
def test_bad_traces(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "trace.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError, match=words):
        arrivals(Trace(kind="trace", file=path), np.random.default_rng(1))


# --- distributions


@pytest.mark.parametrize(
    ("data", "mean", "low", "high"),
    [
        (4, 4, 4, 4),
        ({"kind": "uniform", "low": 2, "high": 6}, 4, 2, 6),
        ({"kind": "normal", "mean": 10, "sd": 2, "low": 1}, 10, 1, 25),
        ({"kind": "lognormal", "median": 10, "sigma": 0.5, "low": 5}, 5 + 5 * np.exp(0.125), 5, 500),
        ({"kind": "exponential", "mean": 12, "low": 8}, 12, 8, 200),
        ({"kind": "empirical", "samples": [1, 2, 3]}, 2, 1, 3),
        ({"kind": "mixture", "parts": [{"weight": 3, "of": 1}, {"weight": 1, "of": 9}]}, 3, 1, 9),
    ],
)
def test_distributions(data: object, mean: float, low: float, high: float) -> None:
    distribution: Distribution = TypeAdapter[Distribution](Distribution).validate_python(data)
    assert distribution.mean() == pytest.approx(mean, rel=0.02)
    sample = distribution.sampler(np.random.default_rng(3))
    drawn = [sample() for _ in range(3000)]
    assert min(drawn) >= low
    assert max(drawn) <= high
