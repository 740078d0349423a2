"""Ray Serve's autoscaler as simulated, against Ray's own code and against what can be worked out by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.simulate.results import Results, collect, run
from loadtest.simulate.scenario import RayServe, ScenarioError, parse
from loadtest.simulate.serve import Handle
from loadtest.simulate.serve_autoscaler import (
    Aggregation,
    HandleMetrics,
    ServeAutoscaler,
    ServeSpec,
    total_of,
)
from loadtest.simulate.simulation import Simulation

ray_policy = pytest.importorskip("ray.serve.autoscaling_policy")
ray_merge = pytest.importorskip("ray.serve._private.autoscaling_metrics_merge")
ray_config = pytest.importorskip("ray.serve.config")

AMOUNTS = st.one_of(st.just(0.0), st.floats(0.01, 12).map(lambda v: round(v, 2)))


def theirs(
    spec: ServeSpec, ticks: list[tuple[float, int, float]], monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """The targets that Ray's own policy sets at each (time, running replicas, requests)."""
    names = [name for name in ServeSpec.__dataclass_fields__ if name not in ("min_replicas", "max_replicas")]
    config = ray_config.AutoscalingConfig(
        min_replicas=spec.min_replicas,
        max_replicas=spec.max_replicas,
        **{name: getattr(spec, name) for name in names},
    )
    policy = ray_policy._apply_autoscaling_config(ray_policy._core_replica_queue_length_policy)
    targets, target = [], spec.min_replicas
    state: dict[str, Any] = {}
    for now, running, total in ticks:
        monkeypatch.setattr(ray_policy.time, "time", lambda now=now: now)
        context = ray_config.AutoscalingContext(
            deployment_id=None, deployment_name="", app_name=None, current_num_replicas=running,
            target_num_replicas=target, running_replicas=[], total_num_requests=total,
            total_queued_requests=None, aggregated_metrics=None, raw_metrics=None,
            capacity_adjusted_min_replicas=spec.min_replicas, capacity_adjusted_max_replicas=spec.max_replicas,
            policy_state=state, last_scale_up_time=None, last_scale_down_time=None, current_time=now,
            config=config,
        )  # fmt: skip
        wanted, state = policy(context)
        target = max(spec.min_replicas, min(spec.max_replicas, wanted))
        targets.append(target)
    return targets


@settings(max_examples=200, deadline=None)
@given(
    st.builds(
        ServeSpec,
        min_replicas=st.integers(0, 2),
        max_replicas=st.integers(2, 6),
        target_ongoing_requests=st.sampled_from([0.5, 1.0, 3.0]),
        upscaling_factor=st.sampled_from([0.4, 1.0, 2.5]),
        downscaling_factor=st.sampled_from([0.4, 1.0, 2.0]),
        upscale_delay_s=st.sampled_from([0.0, 3.0, 30.0]),
        downscale_delay_s=st.sampled_from([0.0, 7.0]),
        downscale_to_zero_delay_s=st.sampled_from([None, 0.0, 4.0]),
    ),
    st.lists(st.tuples(st.floats(0.1, 5), st.integers(0, 6), AMOUNTS), min_size=1, max_size=40),
)
def test_decisions_are_those_of_ray(spec: ServeSpec, steps: list[tuple[float, int, float]]) -> None:
    now, ticks = 1000.0, []
    for seconds, running, total in steps:
        now = round(now + seconds, 3)
        ticks.append((now, running, total))
    ours, target = [], spec.min_replicas
    autoscaler = ServeAutoscaler(spec)
    for tick in ticks:
        target = autoscaler.decide(tick[0], tick[1], target, tick[2])
        ours.append(target)
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert ours == theirs(spec, ticks, monkeypatch)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 40), st.integers(0, 5)), min_size=1, max_size=6, unique_by=lambda p: p[0]
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 20),
    st.sampled_from(["mean", "max", "min"]),
)
def test_the_total_is_that_of_ray(
    sources: list[list[tuple[int, int]]], later: int, aggregation: Aggregation
) -> None:
    series = [[(float(at), float(value)) for at, value in sorted(source)] for source in sources]
    now = float(max(source[-1][0] for source in series) + later)
    points = np.array([point for source in series for point in source])
    offsets = np.cumsum([0, *map(len, series)])
    expected = ray_merge.merge_and_aggregate_arrays(points[:, 0], points[:, 1], offsets, now, aggregation)
    metrics = HandleMetrics(1000, aggregation)
    metrics._report = dict(enumerate(series, start=-1))
    metrics._sum_up()
    assert metrics.total(now) == pytest.approx(expected)


def test_a_new_replica_cuts_the_look_back_short() -> None:
    """A series begins with the replica's first request; before that nothing is counted of any."""
    assert total_of([[(0, 4), (5, 0)], [(5, 1)]]) == ([(0, 4), (5, 1)], 5)
    assert total_of([[(0, 4), (2, 3)], [(5, 0)]]) == ([(0, 4), (2, 3)], 0)
    metrics = HandleMetrics(30)
    for at in range(0, 30, 6):
        metrics.record(at, 4, {1: 1})
    metrics.push(30, 0, {1: 1})
    assert metrics.total(30) == 5
    metrics.push(30, 0, {1: 1, 2: 1})
    assert metrics.total(31) == pytest.approx(6)  # the queue as it was sampled last, and both replicas


def test_a_replica_that_stops_counts_no_more() -> None:
    metrics = HandleMetrics(30)
    metrics.record(0, 0, {1: 1, 2: 1})
    metrics.push(0, 0, {1: 1, 2: 1})
    assert metrics.total(5) == 2
    metrics.keep({1})
    assert metrics.total(5) == 1


def _scenario(**sections: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = {
        "platform": "ray",
        "traffic": {"kind": "closed", "requests": 40, "concurrency": 4},
        "service": {"time": 5, "network": 0},
        "pods": {"start": 10, "overhead": 0, "initial": 1, "stop": 0},
        "cluster": {"gpu-quota": 4},
        "ray": {"min_replicas": 1, "max_replicas": 4, "upscale_delay_s": 10, "downscale_delay_s": 60},
        "tail": 200,
    }
    for name, changes in sections.items():
        data[name] = {**data[name], **changes} if isinstance(data.get(name), dict) else changes
    return data


def _run(**sections: dict[str, Any]) -> tuple[Simulation, Results]:
    simulation = Simulation(parse(_scenario(**sections)))
    simulation.run()
    return simulation, collect(simulation)


def test_load_adds_replicas_after_the_delay_and_they_go_again() -> None:
    _, results = _run()
    assert results.outcomes == {"200": 40}
    more = [at for at, pods, *_ in results.pods if pods == 4]
    # Ten seconds of wanting more, once a report (one comes every ten seconds) has told of it.
    assert 10 <= more[0] <= 10 + 10 + 1
    fewer = [at for at, pods, *_ in results.pods if pods == 1 and at > more[0]]
    assert results.total_seconds + 60 <= fewer[0] <= results.total_seconds + 60 + 60
    assert results.pods[-1][1:] == (1, 1, 0, 0)


def test_from_zero_the_first_request_is_enough() -> None:
    _, results = _run(
        pods={"initial": 0},
        traffic={"requests": 1, "concurrency": 1},
        ray={"min_replicas": 0, "downscale_delay_s": 60, "downscale_to_zero_delay_s": 20},
    )
    # Cold start and image. The request is reported at once, but as the last sample of the queue, which is up to a
    # fifth of the look-back old, knew it: not at all.
    assert 10 + 5 <= results.total_seconds <= 10 + 5 + 6 + 0.5
    assert results.cold_requests == 1
    assert results.peak_pods == 1
    assert results.pods[-1][1] == 0
    assert results.zero_seconds > 0


def test_a_stopping_replica_finishes_what_it_draws() -> None:
    simulation, results = _run(
        traffic={"requests": 60},
        ray={"downscale_delay_s": 0, "upscale_delay_s": 0, "aggregation_function": "min"},
    )
    assert results.outcomes == {"200": 60}
    assert simulation.fleet.leaving == []


def test_whoever_is_not_idle_when_the_patience_ends_breaks_off() -> None:
    """Ours runs such a request again elsewhere; the simulator shows what Serve itself would do."""
    _, results = _run(
        service={"time": 50},
        ray={"graceful_shutdown_timeout_s": 1, "downscale_delay_s": 0, "aggregation_function": "min"},
    )
    assert sum(results.outcomes.values()) == 40


def test_both_platforms_see_the_same_traffic() -> None:
    one = run(parse(_scenario()))
    other = run(parse({**_scenario(), "platform": "knative"}))
    assert one.issued == other.issued == 40
    assert one.outcomes == other.outcomes


@pytest.mark.parametrize(
    ("waiting", "free", "replicas"), [(0, 1, 1), (0, 4, 4), (0, 1, 4), (9, 1, 4), (3, 2, 200)]
)
def test_the_router_finds_a_free_replica_in_time(waiting: int, free: int, replicas: int) -> None:
    settings = RayServe(initial_backoff_s=0.025, max_backoff_s=0.05)
    handle = Handle(settings, np.random.default_rng(1))
    delays = [handle.delay(waiting, free, replicas) for _ in range(500)]
    assert min(delays) >= 0
    if waiting == 0 and free == replicas:
        assert max(delays) == 0
    if replicas <= 4:
        assert np.mean(delays) < 2 * settings.max_backoff_s


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"min_replicas": 5}, ["min_replicas (5) is above max_replicas (4)"]),
        (
            {"max_replicas": 9, "min_replicas": 5},
            ["ray.min_replicas (5)", "gpu-quota (4)", "lower min_replicas"],
        ),
        ({"upscale_delay": 3}, ["ray.upscale_delay", "did you mean upscale_delay_s?"]),
        ({"target_ongoing_requests": 0}, ["ray.target_ongoing_requests (it is 0)"]),
    ],
)
def test_what_does_not_fit_is_said(changes: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ScenarioError) as failure:
        parse(_scenario(ray=changes))
    for part in said:
        assert part in str(failure.value)
