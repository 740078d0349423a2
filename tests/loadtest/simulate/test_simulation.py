"""Whole runs of small scenarios whose outcome can be worked out by hand."""

from pathlib import Path
from typing import Any

import pytest

from loadtest.simulate.control import Control
from loadtest.simulate.results import collect
from loadtest.simulate.scaler import Decision
from loadtest.simulate.scenario import parse
from loadtest.simulate.simulation import Journal, Simulation

ALWAYS = {"target-burst-capacity": -1, "target-utilization-percentage": 100}


def _run(tmp_path: Path, times: list[float], **sections: dict[str, Any]) -> tuple[Simulation, Journal]:
    """Runs a trace of arrivals; 2 s images, pods that need 3 s, no network."""
    trace = tmp_path / "trace.txt"
    trace.write_text("\n".join(map(str, times)), encoding="utf-8")
    data: dict[str, Any] = {
        "traffic": {"kind": "trace", "file": str(trace)},
        "service": {"time": 2, "network": 0},
        "pods": {"start": 3, "overhead": 0, "readiness-period": 0, "stop": 0},
        "cluster": {"gpu-quota": 4, "kube-proxy-lag": 0, "programming": 0},
        "autoscaling": ALWAYS,
    }
    for name, changes in sections.items():
        section = data.setdefault(name, {})
        if isinstance(section, dict):
            data[name] = {**section, **changes}
    journal: Journal = []
    simulation = Simulation(parse(data), journal=journal)
    simulation.run()
    return simulation, journal


def _answers(journal: Journal, outcome: str = "200") -> dict[int, float]:
    return {request: at for event, at, request, _ in journal if event == outcome}


def test_a_lone_request_waits_for_its_pod(tmp_path: Path) -> None:
    simulation, journal = _run(tmp_path, [10.0])
    assert _answers(journal)[1] == pytest.approx(10 + 3 + 2, abs=0.5)
    assert collect(simulation).pod_starts == 1
    assert collect(simulation).cold_requests == 1


def test_at_seventy_percent_a_lone_request_takes_two_gpus(tmp_path: Path) -> None:
    simulation, _ = _run(tmp_path, [10.0], autoscaling={"target-utilization-percentage": 70})
    assert collect(simulation).peak_gpus == 2


@pytest.mark.parametrize(("retention", "wait"), [(0, 0), (300, 300)])
def test_the_way_to_zero(tmp_path: Path, retention: float, wait: float) -> None:
    """Always behind the activator: a window after the last answer, three seconds, the retention; then the drain."""
    settings = {**ALWAYS, "scale-to-zero-pod-retention-period": retention}
    trace = tmp_path / "trace.txt"
    trace.write_text("0", encoding="utf-8")
    data = {
        "traffic": {"kind": "trace", "file": str(trace)},
        "service": {"time": 2, "network": 0},
        "pods": {"start": 3, "overhead": 0, "readiness-period": 0, "stop": 0},
        "cluster": {"gpu-quota": 1},
        "autoscaling": settings,
        "tail": 600,
    }
    simulation = Simulation(parse(data))
    simulation.run()
    ended = simulation.tally.last_end
    removed = next(t for t, pods, *_ in simulation.series if pods == 0 and t > ended)
    assert removed - ended == pytest.approx(60 + max(wait, 3), abs=6)
    free = next(t for t, pods, _, _, leaving in simulation.series if t > removed and pods == leaving == 0)
    assert free - removed == pytest.approx(30, abs=0.01)
    assert simulation.fleet.nodes.zero_seconds == pytest.approx(simulation.env.now - free, abs=1)


def test_pods_beyond_the_quota_stay_pending(tmp_path: Path) -> None:
    simulation, journal = _run(tmp_path, [0.0] * 6, cluster={"gpu-quota": 2}, service={"time": 20})
    results = collect(simulation)
    assert results.peak_pods > results.peak_gpus == 2
    assert results.pod_starts == 2
    ends = sorted(_answers(journal).values())
    assert ends == pytest.approx([23, 23, 43, 43, 63, 63], abs=4)


def test_a_node_is_added_when_its_turn_comes_and_billed_until_it_goes(tmp_path: Path) -> None:
    cluster = {"warm-nodes": 0, "node-provisioning": 50, "gpus-per-node": 2, "node-idle": 100}
    simulation, journal = _run(
        tmp_path,
        [0.0, 400.0],
        cluster=cluster,
        pods={"image-pull": 7},
        cost={"billing": "nodes", "per-gpu-hour": 3600},
    )
    first, second = _answers(journal)[1], _answers(journal)[2]
    assert first == pytest.approx(50 + 7 + 3 + 2, abs=0.5)
    assert second - 400 == pytest.approx(first, abs=0.5)  # the first node and its image are gone
    # From 50 s: two GPUs until 62 + 63 (zero) + 30 (drain) + 100 (idle); then again, to the end.
    assert collect(simulation).cost == pytest.approx(2 * (62 + 63 + 30 + 100 - 50) + 2 * 12, abs=20)


def test_waiting_counts_against_the_timeout(tmp_path: Path) -> None:
    settings = {**ALWAYS, "max-scale": 1, "timeout-seconds": 10}
    _, journal = _run(tmp_path, [0.0] * 6, autoscaling=settings)
    assert sorted(_answers(journal).values()) == pytest.approx([5, 7, 9], abs=0.5)
    assert set(_answers(journal, "504").values()) == {10.0}


def test_a_cancelled_image_keeps_its_gpu_a_while_though_its_slot_is_free(tmp_path: Path) -> None:
    settings = {**ALWAYS, "max-scale": 1, "timeout-seconds": 10}
    _, journal = _run(
        tmp_path,
        [0.0, 3.0, 12.9],
        autoscaling=settings,
        service={"time": 8, "cancel-latency": 1.5},
        pods={"initial": 1},
        cluster={"gpu-quota": 1},
    )
    assert _answers(journal)[1] == 8
    cut = _answers(journal, "504")[2]
    assert cut == 13
    begun = next(at for event, at, request, _ in journal if event == "work" and request == 3)
    assert begun == cut + 1.5


def test_past_the_activator_a_pod_queues_ten_and_refuses_the_twelfth(tmp_path: Path) -> None:
    settings = {"target-burst-capacity": 0, "min-scale": 1, "max-scale": 1}
    simulation, journal = _run(
        tmp_path,
        [5.0, *[200.0] * 12],
        autoscaling=settings,
        pods={"initial": 1},
        cluster={"gpu-quota": 1},
    )
    assert len(_answers(journal)) == 12
    assert list(_answers(journal, "503").values()) == [200.0]
    assert simulation.control.direct


def test_two_activators_over_one_pod_each_believe_in_it(tmp_path: Path) -> None:
    """Both send at once; queue-proxy keeps the second waiting, so never two on the GPU."""
    settings = {**ALWAYS, "min-scale": 1, "max-scale": 1}
    _, journal = _run(
        tmp_path,
        [5.0, 5.0],
        autoscaling=settings,
        pods={"initial": 1},
        cluster={"gpu-quota": 1, "activators": 2},
    )
    assert sorted(_answers(journal).values()) == [7, 9]


def test_a_client_pinned_to_a_pod_that_goes_keeps_it_until_its_grace_is_over() -> None:
    """Its connection still works, so each request puts the drain off; at the end of the grace it breaks, once."""
    data = {
        "traffic": {"kind": "closed", "requests": 120, "concurrency": 2, "think": 0.1},
        "service": {"time": 2, "network": 0},
        "pods": {"start": 5, "initial": 4, "drain": 30, "stop": 1},
        "cluster": {"gpu-quota": 4, "addressing": "cluster-ip"},
        "autoscaling": {"timeout-seconds": 60, "target-utilization-percentage": 100, "window": "6s"},
    }
    stays: dict[int, float] = {}
    for seed in range(12):
        simulation = Simulation(parse(data), seed=seed)
        simulation.run()
        left = next(t for t, *_, leaving in simulation.series if leaving == 2)
        last_gone = next(t for t, *_, leaving in simulation.series if t > left and leaving == 0)
        broken = simulation.tally.outcomes["502"]
        assert simulation.tally.outcomes["200"] == 120 - broken
        stays.setdefault(broken, last_gone - left)
    assert stays.pop(0) == pytest.approx(31)  # nobody was pinned to the two that went
    assert stays.keys() == {1, 2}
    assert list(stays.values()) == [pytest.approx(61)] * 2


def test_a_new_revision_starts_its_initial_scale() -> None:
    data = {
        "traffic": {"kind": "constant", "rate": 0.1, "duration": 20},
        "service": {"time": 1},
        "pods": {"start": 3, "deploying": True},
        "cluster": {"gpu-quota": 5},
        "autoscaling": {**ALWAYS, "initial-scale": 3},
    }
    simulation = Simulation(parse(data))
    simulation.run()
    assert max(ready for _, _, ready, _, _ in simulation.series) == 3


def test_min_scale_holds_its_pods() -> None:
    data = {
        "traffic": {"kind": "constant", "rate": 0.01, "duration": 1000},
        "service": {"time": 1},
        "pods": {"start": 3},
        "cluster": {"gpu-quota": 5},
        "autoscaling": {**ALWAYS, "min-scale": 2},
        "tail": 500,
    }
    simulation = Simulation(parse(data))
    simulation.run()
    assert {pods for t, pods, *_ in simulation.series if t > 1} == {2}


def test_time_goes_on_however_little_is_left_of_a_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation, _ = _run(tmp_path, [10.0])
    control, env = simulation.control, simulation.env
    assert isinstance(control, Control)
    monkeypatch.setattr(control.scaler, "scale", lambda *_: Decision(1, False, 1e-17))
    control._reconcile_in(0.1)
    env.run(until=env.now + 0.1)
    began = env.now
    for _ in range(20):
        env.step()
    assert env.now > began
