"""A front before the simulated fleet: bounded, in turns, and what fails is sent again."""

from collections import Counter
from typing import Any

import pytest

from loadtest.simulate.scenario import Scenario
from loadtest.simulate.simulation import Journal, Simulation


def scenario(**changes: Any) -> Scenario:
    base: dict[str, Any] = {
        "traffic": {"kind": "closed", "requests": 50, "concurrency": 5},
        "service": {"time": 4.0, "network": 0.0},
        "pods": {"start": 20.0, "initial": 2},
        "cluster": {"gpu-quota": 5},
        "front": {"concurrency": 2, "queue-size": 100, "tries": 10},
    }
    return Scenario.model_validate({**base, **changes})


def run(made: Scenario, seed: int = 1) -> tuple[Simulation, Journal]:
    journal: Journal = []
    simulation = Simulation(made, seed=seed, journal=journal)
    simulation.run()
    return simulation, journal


def most_at_once(journal: Journal) -> int:
    inside = most = 0
    for event, _, _, _ in journal:
        inside += {"work": 1, "free": -1}.get(event, 0)
        most = max(most, inside)
    return most


def test_no_more_than_the_fronts_concurrency_is_asked_of_the_fleet() -> None:
    simulation, journal = run(scenario())
    assert simulation.tally.outcomes == Counter({"200": 50})
    assert most_at_once(journal) == 2
    assert max(pods for _, pods, *_ in simulation.series) <= 3, (
        "five clients, two jobs: the fleet stays small"
    )


def test_without_a_front_the_same_traffic_asks_for_more() -> None:
    simulation, journal = run(scenario(front=None))
    assert most_at_once(journal) > 2
    assert simulation.tally.outcomes == Counter({"200": 50})


@pytest.mark.parametrize("seed", range(20))
def test_every_request_ends_once_whatever_its_patience(seed: int) -> None:
    made = scenario(
        service={"time": {"kind": "exponential", "mean": 4.0}, "network": 0.0, "client-timeout": 12.0},
        front={"concurrency": 2, "queue-size": 1, "tries": 3},
    )
    simulation, journal = run(made, seed)
    ended = Counter(number for event, _, number, _ in journal if event not in ("arrive", "work", "free"))
    assert simulation.tally.ended == simulation.tally.issued == 50
    assert set(ended.values()) == {1}
    assert most_at_once(journal) <= 3, "a cancelled one frees its device a moment later"
    front = simulation._front
    assert front is not None
    assert (front.inside, front.waiting) == (0, 0)


def test_clients_take_turns() -> None:
    """One client with a long line and one with a short one: the short one is not behind all of the other."""
    made = scenario(
        traffic={"kind": "closed", "requests": 10, "concurrency": 10},
        front={"concurrency": 1, "queue-size": 100, "tries": 1},
        pods={"start": 1.0, "initial": 1},
        cluster={"gpu-quota": 1},
    )
    _, journal = run(made)
    started = [number for event, _, number, _ in journal if event == "work"]
    assert started == sorted(started), "of clients with one job each, the first comes first"


@pytest.mark.parametrize("fronted", [False, True])
def test_a_connection_that_breaks_is_the_fronts_to_mend(fronted: bool) -> None:
    made = scenario(**({} if fronted else {"front": None}))
    simulation = Simulation(made, seed=1)

    def break_all(_: Any) -> None:
        for pod in {request.pod for request in simulation._pending if request.pod is not None}:
            simulation._killed(pod)

    for moment in (5.0, 21.0, 37.0):
        simulation._later(moment, break_all)
    simulation.run()
    broken = simulation.tally.outcomes["502"]
    assert broken == 0 if fronted else broken > 0
    assert simulation.tally.ended == 50
