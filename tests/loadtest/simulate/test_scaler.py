"""Bounds and the way to zero: the expectations of knative/serving's scaler_test.go and kpa.go's table."""

from dataclasses import replace

import pytest

from loadtest.simulate.scaler import Activity, Decision, PodAutoscaler, Scaler, ScalerSettings, apply_bounds

NOW = 10_000.0
WINDOW, GRACE, DEADLINE = 5 * 60.0, 60.0, 121.0
ACTIVE, INACTIVE, ACTIVATING = Activity.ACTIVE, Activity.INACTIVE, Activity.ACTIVATING
SETTINGS = ScalerSettings(stable_window=WINDOW, grace_period=GRACE, progress_deadline=DEADLINE)


@pytest.mark.parametrize(
    ("activity", "held", "wanted", "changes", "proxied", "want"),
    [
        pytest.param(ACTIVE, WINDOW - 1, 0, {}, None, Decision(1, True, 1), id="just before the idle period"),
        pytest.param(
            ACTIVE, 19, 0, {"stable_window": 20.0}, None, Decision(1, True, 1), id="with its own window"
        ),
        pytest.param(ACTIVE, WINDOW, 0, {}, None, Decision(0, False), id="after the idle period"),
        pytest.param(ACTIVE, WINDOW, 0, {}, 5.0, Decision(0, False, 3.0), id="after it, in proxy mode"),
        pytest.param(INACTIVE, GRACE, 0, {}, None, Decision(0, True), id="after the grace period"),
        pytest.param(
            INACTIVE,
            GRACE,
            0,
            {"pod_retention": 2 * GRACE},
            None,
            Decision(0, False, GRACE),
            id="before the end of the retention",
        ),
        pytest.param(
            INACTIVE,
            GRACE,
            0,
            {"pod_retention": GRACE},
            None,
            Decision(0, True),
            id="after grace and retention",
        ),
        pytest.param(INACTIVE, GRACE - 1, 0, {}, 0.0, Decision(0, False, GRACE), id="just before the grace"),
        pytest.param(
            INACTIVE,
            GRACE - 1,
            0,
            {},
            GRACE - 1,
            Decision(0, False, 1.0),
            id="grace by the time in proxy mode",
        ),
        pytest.param(
            INACTIVE,
            GRACE - 1,
            0,
            {"pod_retention": 42.0},
            GRACE,
            Decision(0, True),
            id="long in proxy mode, retention over",
        ),
        pytest.param(INACTIVE, GRACE - 1, 0, {}, GRACE, Decision(0, True), id="long in proxy mode"),
        pytest.param(
            ACTIVATING,
            (DEADLINE + 30) / 2,
            0,
            {},
            None,
            Decision(-1, False, DEADLINE + 30),
            id="activating",
        ),
        pytest.param(ACTIVATING, DEADLINE + 31, 0, {}, None, Decision(0, True), id="activation failed"),
        pytest.param(
            INACTIVE, GRACE - 1, 0, {"min_scale": 2}, None, Decision(2, True), id="down to min-scale"
        ),
        pytest.param(INACTIVE, GRACE, 0, {"min_scale": 2}, None, Decision(2, True), id="and no further"),
        pytest.param(
            INACTIVE,
            GRACE,
            0,
            {"pod_retention": 10 * GRACE, "reachable": False},
            None,
            Decision(0, True),
            id="no retention where nothing routes to it",
        ),
        pytest.param(
            INACTIVE,
            GRACE - 1,
            0,
            {"pod_retention": 10 * GRACE, "reachable": False},
            0.0,
            Decision(0, False, GRACE),
            id="but the grace period",
        ),
        pytest.param(
            INACTIVE,
            GRACE,
            0,
            {"min_scale": 2, "reachable": False},
            None,
            Decision(0, True),
            id="no min-scale where nothing routes to it",
        ),
        pytest.param(ACTIVE, 0, 10, {}, None, Decision(10, True), id="up"),
        pytest.param(ACTIVE, 0, 10, {"max_scale": 8}, None, Decision(8, True), id="up to max-scale"),
        pytest.param(INACTIVE, GRACE / 2, 10, {}, None, Decision(10, True), id="up when inactive"),
        pytest.param(INACTIVE, 0, -1, {}, None, Decision(-1, False), id="no data at zero"),
        pytest.param(ACTIVE, 0, -1, {}, None, Decision(-1, False), id="no data above zero"),
        pytest.param(
            ACTIVATING, 0, 1, {"initial_scale": 2}, None, Decision(2, True), id="initial scale first"
        ),
        pytest.param(
            ACTIVE, 1e6, 0, {"enable_scale_to_zero": False}, None, Decision(1, True), id="never zero"
        ),
    ],
)
def test_scale(
    activity: Activity,
    held: float,
    wanted: int,
    changes: dict[str, object],
    proxied: float | None,
    want: Decision,
) -> None:
    pa = PodAutoscaler(activity, NOW - held, False, None if proxied is None else NOW - proxied)
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    assert Scaler(settings).scale(pa, wanted, NOW) == want


def test_initial_scale_no_longer_matters_once_reached() -> None:
    pa = PodAutoscaler(ACTIVE, NOW - 120, True, None)
    assert Scaler(replace(SETTINGS, initial_scale=2)).scale(pa, 0, NOW) == Decision(1, True, WINDOW - 120)


def test_no_zero_while_the_activator_does_not_answer() -> None:
    pa = PodAutoscaler(INACTIVE, NOW - GRACE, True, None)
    assert Scaler(SETTINGS).scale(pa, 0, NOW, activator_answers=False) == Decision(0, False, 1.0)
    always = Scaler(replace(SETTINGS, target_burst_capacity=-1))
    assert always.scale(pa, 0, NOW, activator_answers=False) == Decision(0, True)


@pytest.mark.parametrize(
    ("want", "ready", "least", "before", "after"),
    [
        (0, 5, 0, ACTIVE, INACTIVE),
        (0, 0, 2, ACTIVATING, INACTIVE),
        (3, 0, 0, INACTIVE, ACTIVATING),
        (3, 1, 2, ACTIVE, ACTIVATING),
        (3, 1, 0, ACTIVATING, ACTIVE),
        (-1, 0, 1, INACTIVE, INACTIVE),
        (-1, 0, 1, ACTIVATING, ACTIVATING),
        (-1, 0, 1, ACTIVE, ACTIVATING),
        (-1, 1, 1, INACTIVE, INACTIVE),
        (-1, 1, 1, ACTIVATING, ACTIVE),
        (-1, 1, 1, ACTIVE, ACTIVE),
    ],
)
def test_active_condition(want: int, ready: int, least: int, before: Activity, after: Activity) -> None:
    pa = PodAutoscaler(before, 1.0, True, None)
    Scaler(replace(SETTINGS, min_scale=least)).observe(pa, want, ready, NOW)
    assert pa.activity is after
    assert pa.since == (1.0 if before is after else NOW)


@pytest.mark.parametrize(
    ("least", "most", "wanted", "got"), [(0, 0, 7, 7), (2, 0, 1, 2), (0, 5, 7, 5), (2, 5, 3, 3)]
)
def test_apply_bounds(least: int, most: int, wanted: int, got: int) -> None:
    assert apply_bounds(least, most, wanted) == got
