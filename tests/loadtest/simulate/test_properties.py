"""What must hold in every simulation, whatever the traffic and the settings."""

from collections import Counter, defaultdict
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadtest.simulate.requests import OK
from loadtest.simulate.results import collect
from loadtest.simulate.scenario import Scenario, parse
from loadtest.simulate.simulation import Journal, Simulation

SECONDS = st.one_of(
    st.floats(0.1, 40).map(lambda v: round(v, 2)),
    st.tuples(st.floats(0.1, 10), st.floats(10, 40)).map(
        lambda v: {"kind": "uniform", "low": round(v[0], 2), "high": round(v[1], 2)}
    ),
    st.floats(1, 20).map(lambda v: {"kind": "lognormal", "median": round(v, 2), "sigma": 0.8}),
)


@st.composite
def traffic(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["closed", "poisson", "constant"]))
    if kind == "closed":
        workers = draw(st.integers(1, 12))
        each = draw(st.integers(1, 8))
        return {
            "kind": kind,
            "requests": workers * each,
            "concurrency": workers,
            "think": draw(st.floats(0, 20)),
        }
    return {"kind": kind, "rate": draw(st.floats(0.02, 2)), "duration": draw(st.floats(5, 120))}


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    quota = draw(st.integers(1, 8))
    least = draw(st.integers(0, quota))
    most = draw(st.sampled_from([0, quota, quota + 3]))
    return parse(
        {
            "seed": draw(st.integers(0, 2**31)),
            "tail": draw(st.sampled_from([0, 200])),
            "platform": draw(st.sampled_from(["knative", "knative", "ray"])),
            "traffic": draw(traffic()),
            "service": {
                "time": draw(SECONDS),
                "client-timeout": draw(st.sampled_from([0, 15, 60])),
                "cancel-latency": draw(st.sampled_from([0, 0.5, 5])),
            },
            "pods": {
                "start": draw(SECONDS),
                "initial": draw(st.integers(0, quota)),
                "deploying": draw(st.booleans()),
                "drain": draw(st.sampled_from([0, 30])),
            },
            "cluster": {
                "gpu-quota": quota,
                "gpus-per-node": draw(st.integers(1, 3)),
                "warm-nodes": draw(st.sampled_from([None, 0, 1])),
                "node-provisioning": draw(SECONDS),
                "node-idle": draw(st.sampled_from([5, 600])),
                "activators": draw(st.integers(1, 4)),
                "addressing": draw(st.sampled_from(["pods", "cluster-ip"])),
                "ingress-policy": draw(st.sampled_from(["round-robin", "least-request"])),
            },
            "autoscaling": {
                "container-concurrency": draw(st.sampled_from([1, 1, 1, 2, 5])),
                "timeout-seconds": draw(st.sampled_from([10, 60, 300, 600])),
                "metric": draw(st.sampled_from(["concurrency", "rps"])),
                "target": draw(st.sampled_from([None, 0.5, 2])),
                "target-utilization-percentage": draw(st.sampled_from([50, 70, 100])),
                "target-burst-capacity": draw(st.sampled_from([-1, 0, 1, 5, 211])),
                "window": draw(st.sampled_from([6, 30, 120])),
                "panic-threshold-percentage": draw(st.sampled_from([110, 200, 1000])),
                "min-scale": least,
                "max-scale": most,
                "initial-scale": draw(st.integers(0, 3)),
                "activation-scale": draw(st.sampled_from([0, 2, 4])),
                "scale-down-delay": draw(st.sampled_from([0, 30])),
                "scale-to-zero-pod-retention-period": draw(st.sampled_from([0, 40])),
                "scale-to-zero-grace-period": draw(st.sampled_from([5, 30])),
                "metric-aggregation-algorithm": draw(st.sampled_from(["linear", "weighted-exponential"])),
                "progress-deadline": draw(st.sampled_from([20, 600])),
            },
            "ray": {
                "min_replicas": least,
                "max_replicas": quota + draw(st.sampled_from([0, 3])),
                "max_ongoing_requests": draw(st.sampled_from([1, 1, 2])),
                "target_ongoing_requests": draw(st.sampled_from([0.5, 1, 2])),
                "look_back_period_s": draw(st.sampled_from([1, 5, 30])),
                "metrics_interval_s": draw(st.sampled_from([1, 10])),
                "upscale_delay_s": draw(st.sampled_from([0, 2, 30])),
                "downscale_delay_s": draw(st.sampled_from([0, 5, 600])),
                "downscale_to_zero_delay_s": draw(st.sampled_from([None, 1])),
                "aggregation_function": draw(st.sampled_from(["mean", "max", "min"])),
                "graceful_shutdown_timeout_s": draw(st.sampled_from([0, 10, 660])),
                "request_timeout_s": draw(st.sampled_from([10, 60, 600])),
            },
        }
    )


def _check(scenario: Scenario, journal: Journal, simulation: Simulation) -> None:
    limit = scenario.concurrency
    arrived: set[int] = set()
    ends: Counter[int] = Counter()
    worked: Counter[int] = Counter()
    answered: set[int] = set()
    busy: defaultdict[int, set[int]] = defaultdict(set)
    for event, _, request, pod in journal:
        if event == "arrive":
            assert request not in arrived
            arrived.add(request)
        elif event == "work":
            worked[request] += 1
            assert request in arrived
            assert ends[request] == 0, "work began for a request that had ended"
            busy[pod].add(request)
            assert len(busy[pod]) <= limit, "more at once than containerConcurrency"
        elif event == "free":
            busy[pod].remove(request)
        else:
            ends[request] += 1
            if event == OK:
                answered.add(request)
    assert set(ends) == arrived, "a request was lost"
    assert set(ends.values()) <= {1}, "a request ended twice"
    assert set(worked.values()) <= {1}, "a request was worked on twice"
    assert answered <= set(worked), "a request was answered without work"
    assert simulation.tally.issued == len(arrived)
    assert simulation.tally.ended == len(arrived)
    assert simulation.tally.outcomes[OK] == len(simulation.tally.latencies) == len(answered)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenarios())
def test_nothing_is_lost_or_doubled_and_no_limit_is_broken(scenario: Scenario) -> None:
    journal: Journal = []
    simulation = Simulation(scenario, journal=journal)
    simulation.run()
    _check(scenario, journal, simulation)
    results = collect(simulation)
    assert results.peak_gpus <= scenario.cluster.gpu_quota
    nodes = simulation.fleet.nodes
    assert nodes.held == sum(node.used for node in nodes.nodes)
    assert all(0 <= node.used <= node.size for node in nodes.nodes)
    for _, pods, ready, pending, _leaving in simulation.series:
        assert 0 <= ready + pending <= pods
        # GPUs are held by pods that are scheduled; terminating ones hold theirs too.
        assert pods - pending <= scenario.cluster.gpu_quota
    ray, knative = scenario.ray.max_replicas, scenario.autoscaling.max_scale
    most = knative if scenario.platform == "knative" else ray
    if most and not scenario.pods.deploying:
        assert results.peak_pods <= max(most, scenario.pods.initial)
    # The breakers' books are balanced once everything has ended.
    for throttler in simulation._throttlers:
        assert throttler.breaker.inside == throttler.breaker.running == throttler.waiting == 0
        assert all(place.in_flight == 0 for place in throttler.places)
    for reporter in simulation._reporters:
        assert reporter._stats is None or reporter._stats.concurrency == 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenarios())
def test_equal_seeds_give_equal_runs(scenario: Scenario) -> None:
    journals: list[Journal] = [[], []]
    for journal in journals:
        Simulation(scenario, journal=journal).run()
    assert journals[0] == journals[1]


def test_another_seed_gives_another_run() -> None:
    scenario = parse(
        {
            "traffic": {"kind": "poisson", "rate": 1, "duration": 30},
            "service": {"time": 2},
            "pods": {"start": 5},
            "cluster": {"gpu-quota": 4},
        }
    )
    journals: list[Journal] = [[], []]
    for seed, journal in enumerate(journals):
        Simulation(scenario, seed=seed, journal=journal).run()
    assert journals[0] != journals[1]
