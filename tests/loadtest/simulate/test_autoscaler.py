"""The decision: the expectations of knative/serving's autoscaler_test.go and target_test.go."""

import math
from dataclasses import replace

import pytest

from loadtest.simulate.autoscaler import (
    INVALID,
    Autoscaler,
    DeciderSpec,
    activators_needed,
    resolve_target,
)

UTILIZATION = 0.75


def _spec(target: float, burst: float, **changes: object) -> DeciderSpec:
    spec = DeciderSpec(
        target_value=target,
        total_value=target / UTILIZATION,
        target_burst_capacity=burst,
        panic_threshold=2,
        max_scale_up_rate=10,
        max_scale_down_rate=10,
        stable_window=60,
        activator_capacity=150,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def _excess(target: float, burst: float, concurrency: float, pods: int) -> int:
    return math.floor(target / UTILIZATION * pods - burst - concurrency)


def _expect(
    a: Autoscaler, now: float, ready: int, measured: tuple[float, float], pods: int, ebc: int | None
) -> None:
    result = a.scale(now, ready, measured)
    assert result.valid
    assert result.desired == pods
    if ebc is not None:
        assert abs(result.excess_burst_capacity - ebc) <= 1  # upstream allows for rounding


@pytest.mark.parametrize(
    ("target", "burst", "changes", "ready", "measured", "pods", "ebc"),
    [
        pytest.param(10, 100, {}, 1, (0, 0), 0, _excess(10, 100, 0, 1), id="no traffic"),
        pytest.param(181, -1, {}, 1, (21, 26), 1, -1, id="unlimited burst capacity"),
        pytest.param(10, 0, {}, 1, (50, 49), 5, 0, id="no burst capacity"),
        pytest.param(10, 100, {}, 1, (50, 50), 5, _excess(10, 100, 50, 1), id="five pods' worth"),
        pytest.param(10, 100, {}, 5, (50, 50), 5, _excess(10, 100, 50, 5), id="already scaled"),
        pytest.param(
            1, 1982, {"max_scale_up_rate": 1.1}, 2, (3, 3.1), 3, _excess(1, 1982, 3.1, 2), id="slow up"
        ),
        pytest.param(
            10, 1982, {"max_scale_down_rate": 1.1}, 100, (1, 1), 90, _excess(10, 1982, 1, 100), id="slow down"
        ),
        pytest.param(
            10,
            1982,
            {"max_scale_down_rate": 1.1, "reachable": False},
            100,
            (1, 1),
            1,
            _excess(10, 1982, 1, 100),
            id="unreachable goes down at once",
        ),
        pytest.param(10, 84, {}, 1, (50, 100), 10, _excess(10, 84, 100, 1), id="panic beats stable"),
        pytest.param(10, 101, {}, 1, (50, 10), 5, _excess(10, 101, 10, 1), id="stable increase"),
        pytest.param(10, 101, {}, 1, (100, 10), 10, _excess(10, 101, 10, 1), id="larger stable increase"),
        pytest.param(10, 101, {}, 1, (100, 99), 10, _excess(10, 101, 99, 1), id="both, in panic"),
        pytest.param(10, 75, {}, 1, (1, 0), 1, _excess(10, 75, 0, 1), id="almost idle"),
        pytest.param(
            10, 75, {"activation_scale": 2}, 1, (0, 0), 0, _excess(10, 75, 0, 1), id="activation, idle"
        ),
        pytest.param(
            10, 75, {"activation_scale": 2}, 1, (1, 0), 2, _excess(10, 75, 0, 1), id="activation scale"
        ),
        pytest.param(
            10, 81, {}, 0, (1000, 888), 10, _excess(10, 81, 888, 0), id="no pods count as one for the rate"
        ),
    ],
)
def test_one_decision(
    target: float,
    burst: float,
    changes: dict[str, object],
    ready: int,
    measured: tuple[float, float],
    pods: int,
    ebc: int,
) -> None:
    _expect(Autoscaler(_spec(target, burst, **changes)), 1000.0, ready, measured, pods, ebc)


@pytest.mark.parametrize(("measured", "pods"), [((50, 30), 50), ((20, 30), 30)])
def test_in_panic_the_larger_of_both_wins(measured: tuple[float, float], pods: int) -> None:
    a = Autoscaler(_spec(1, 100))
    a.panic_since, a.max_panic_pods = 995.0, 5
    _expect(a, 1000.0, 5, measured, pods, _excess(1, 100, 30, 5))


def test_no_data_no_decision() -> None:
    assert Autoscaler(_spec(10, 100)).scale(0.0, 1, None) == INVALID


def test_exponential_growth_then_stable() -> None:
    a = Autoscaler(_spec(1, 101))
    _expect(a, 1000, 1, (6, 6), 6, _excess(1, 101, 6, 1))
    _expect(a, 1000, 6, (36, 36), 36, _excess(1, 101, 36, 6))
    assert a.panic_since == 1000
    _expect(a, 1001, 36, (216, 216), 216, _excess(1, 101, 216, 36))
    assert a.panic_since == 1001
    _expect(a, 1001, 216, (1296, 1296), 1296, _excess(1, 101, 1296, 216))
    _expect(a, 1002, 1296, (1296, 1296), 1296, _excess(1, 101, 1296, 1296))
    assert a.panic_since == 1001


def test_panic_ends_after_a_slow_increase() -> None:
    a = Autoscaler(_spec(1, 98))
    _expect(a, 1000, 10, (11, 25), 25, _excess(1, 98, 25, 10))
    assert a.panic_since == 1000
    _expect(a, 1030, 40, (30, 41), 41, _excess(1, 98, 41, 40))
    assert a.panic_since == 1000
    _expect(a, 1062, 55, (50, 56), 50, _excess(1, 98, 56, 55))
    assert a.panic_since is None


def test_panic_is_extended_by_another_surge() -> None:
    a = Autoscaler(_spec(1, 98))
    _expect(a, 1000, 10, (11, 25), 25, _excess(1, 98, 25, 10))
    _expect(a, 1030, 40, (30, 80), 80, _excess(1, 98, 80, 40))
    assert a.panic_since == 1030


def test_stable_decrease() -> None:
    a = Autoscaler(_spec(10, 98))
    _expect(a, 1000, 8, (100, 100), 10, _excess(10, 98, 100, 8))
    _expect(a, 1000, 8, (50, 50), 5, _excess(10, 98, 50, 8))


def test_scale_stays_through_panic_and_falls_after_it() -> None:
    a = Autoscaler(_spec(10, 93))
    _expect(a, 1000, 1, (100, 100), 10, _excess(10, 93, 100, 1))
    _expect(a, 1000, 10, (100, 1000), 100, _excess(10, 93, 1000, 10))
    _expect(a, 1030, 10, (1, 1), 100, _excess(10, 93, 1, 10))
    _expect(a, 1061, 10, (1, 1), 1, _excess(10, 93, 1, 10))


@pytest.mark.parametrize(
    ("measured", "steps"), [((1000, 1001), [(1, 10), (10, 100)]), ((1, 1), [(100, 10), (10, 1)])]
)
def test_rates_bound_each_step(measured: tuple[float, float], steps: list[tuple[int, int]]) -> None:
    a = Autoscaler(_spec(10, 61))
    for ready, pods in steps:
        _expect(a, 1000, ready, measured, pods, _excess(10, 61, measured[1], ready))


def test_a_new_target_takes_effect() -> None:
    a = Autoscaler(_spec(10, 77))
    _expect(a, 1000, 1, (100, 101), 10, _excess(10, 77, 101, 1))
    a.spec = _spec(1, 71)
    _expect(a, 1000, 10, (100, 101), 100, _excess(1, 71, 101, 10))


@pytest.mark.parametrize(("ready", "panicking"), [(0, False), (1, False), (2, True)])
def test_a_new_autoscaler_over_running_pods_holds_them(ready: int, panicking: bool) -> None:
    a = Autoscaler(_spec(100, 11), ready=ready, now=5.0)
    assert (a.panic_since is not None) is panicking
    assert a.max_panic_pods == ready


def _delayed() -> Autoscaler:
    return Autoscaler(
        DeciderSpec(
            target_value=10,
            total_value=0,
            target_burst_capacity=0,
            panic_threshold=100,
            max_scale_up_rate=10,
            max_scale_down_rate=10,
            stable_window=0,
            scale_down_delay=300,
        )
    )


def test_scale_down_delay() -> None:
    a = _delayed()
    for now, load, pods in [(2, 40, 4), (300, 0, 4), (302, 0, 0)]:
        _expect(a, now, 0, (load, load), pods, None)


def test_scale_down_delay_in_steps() -> None:
    a = _delayed()
    for minute, load, pods in [(9, 40, 4), (10, 30, 4), (11, 0, 4), (14, 0, 3), (15, 0, 0)]:
        _expect(a, minute * 60, 0, (load, load), pods, None)


def test_scale_down_delay_ends_with_reachability() -> None:
    a = _delayed()
    _expect(a, 2, 0, (40, 40), 4, None)
    _expect(a, 60, 0, (0, 0), 4, None)
    a.spec = replace(a.spec, reachable=False)
    _expect(a, 62, 0, (0, 0), 0, None)


def test_no_delay_falls_at_once() -> None:
    a = Autoscaler(replace(_delayed().spec, scale_down_delay=0, reachable=False))
    _expect(a, 0, 0, (40, 40), 4, None)
    _expect(a, 0.5, 0, (20, 20), 2, None)


@pytest.mark.parametrize(
    ("concurrency", "metric", "target", "utilization", "want"),
    [
        (0, "concurrency", None, 1.0, (100, 100)),
        (0, "concurrency", None, 0.8, (80, 100)),
        (12, "concurrency", None, 0.75, (9, 12)),
        (10, "concurrency", None, 0.8, (8, 10)),
        (1, "concurrency", None, 0.8, (0.8, 1)),
        (1, "concurrency", None, 1.0, (1, 1)),
        (0, "concurrency", 1, 1.0, (1, 1)),
        (0, "concurrency", 1, 0.001, (0.01, 1)),
        (0, "concurrency", 1, 0.75, (0.75, 1)),
        (0, "concurrency", 10, 0.75, (7.5, 10)),
        (10, "concurrency", 1, 1.0, (1, 1)),
        (0, "concurrency", 500, 1.0, (500, 500)),
        (1, "concurrency", 10, 1.0, (1, 1)),
        (1, "rps", None, 0.7, (140, 200)),
        (0, "rps", 1, 0.7, (0.7, 1)),
        (0, "rps", None, 0.75, (150, 200)),
        (0, "rps", 300, 0.7, (210, 300)),
    ],
)
def test_resolve_target(
    concurrency: int, metric: str, target: float | None, utilization: float, want: tuple[float, float]
) -> None:
    got = resolve_target(concurrency, metric=metric, target=target, utilization=utilization)
    assert got == pytest.approx(want)


@pytest.mark.parametrize(
    ("ready", "burst", "want"), [(0, 0, 2), (100, 0, 2), (1, -1, 2), (500, -1, 5), (1, 211, 3), (0, 211, 3)]
)
def test_activators_needed(ready: int, burst: float, want: int) -> None:
    spec = DeciderSpec(target_value=1, total_value=1, target_burst_capacity=burst, activator_capacity=100)
    assert activators_needed(ready, spec) == want
