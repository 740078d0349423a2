"""Turns under any schedule: nothing is lost, never more than the places, and nobody waits for all of another's jobs."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.cancel import CancelToken
from service.core.errors import Cancelled, DeadlineExceeded, QueueFull, ServiceError
from service.core.turns import Turn, Turns

EXAMPLES = int(os.environ.get("SD_TEST_SCHEDULES", "500"))

events = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.sampled_from(["a", "b", "c", "d"])),
        st.tuples(st.just("leave"), st.integers(0, 30)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("kill"), st.integers(0, 30)),
    ),
    max_size=60,
)


class World:
    """Jobs that hold their place until they are told to leave it."""

    def __init__(self, places: int, queue_size: int) -> None:
        self.turns = Turns(places, queue_size)
        self.places = places
        self.inside: list[int] = []
        self.granted: list[tuple[int, str]] = []
        self.ended: dict[int, list[str]] = {}
        self.exits: dict[int, asyncio.Event] = {}
        self.tokens: dict[int, CancelToken] = {}
        self.clients: dict[int, str] = {}
        self.jobs: dict[int, asyncio.Task[None]] = {}
        self.overtaken: dict[int, dict[str, int]] = {}
        self.most = 0

    async def job(self, number: int, client: str) -> None:
        token = self.tokens[number]
        try:
            turn: Turn = self.turns.enter(client, token, lambda position: None)
            self.overtaken[number] = {}
            async with turn:
                self.granted.append((number, client))
                for other, counts in self.overtaken.items():
                    if other != number and other not in self.ended and other not in self.inside:
                        counts[client] = counts.get(client, 0) + 1
                self.inside.append(number)
                self.most = max(self.most, len(self.inside))
                await self.exits[number].wait()
            self.ended.setdefault(number, []).append("done")
        except QueueFull:
            self.ended.setdefault(number, []).append("full")
        except ServiceError:
            self.ended.setdefault(number, []).append("cancelled")
        except asyncio.CancelledError:
            self.ended.setdefault(number, []).append("killed")
        finally:
            if number in self.inside:
                self.inside.remove(number)

    async def play(self, script: Sequence[tuple[str, object]]) -> None:
        for number, (what, value) in enumerate(script):
            if what == "arrive":
                self.exits[number], self.tokens[number] = asyncio.Event(), CancelToken()
                self.clients[number] = str(value)
                self.jobs[number] = asyncio.create_task(self.job(number, str(value)))
            elif self.jobs:
                known = sorted(self.jobs)
                chosen = known[int(str(value)) % len(known)]
                if what == "leave" and self.inside:
                    self.exits[self.inside[int(str(value)) % len(self.inside)]].set()
                elif what == "cancel":
                    self.tokens[chosen].cancel("disconnect")
                elif what == "kill":
                    self.jobs[chosen].cancel()
            for _ in range(4):
                await asyncio.sleep(0)
            assert len(self.inside) <= self.places
            assert self.turns.waiting + self.turns.in_flight <= len(self.jobs)
        while any(not job.done() for job in self.jobs.values()):
            for gate in self.exits.values():
                gate.set()
            await asyncio.sleep(0)


@settings(max_examples=EXAMPLES, deadline=None)
@given(places=st.integers(1, 3), queue_size=st.integers(0, 12), script=events)
def test_any_schedule(places: int, queue_size: int, script: Sequence[tuple[str, object]]) -> None:
    async def run() -> None:
        world = World(places, queue_size)
        await world.play(script)
        assert world.most <= places
        assert all(len(ends) == 1 for ends in world.ended.values()), "answered once each"
        assert set(world.ended) == set(world.jobs), "and all of them"
        assert (world.turns.waiting, world.turns.in_flight) == (0, 0)
        await asyncio.wait_for(world.turns.wait_idle(), 1)

    asyncio.run(run())


def test_one_client_with_many_jobs_does_not_make_another_wait_for_all() -> None:
    async def run() -> None:
        world = World(1, 1000)
        script = [("arrive", "greedy")] * 200 + [("arrive", "modest")] * 3
        await world.play(script)
        places = [position for position, (_, client) in enumerate(world.granted) if client == "modest"]
        # The modest client came when the greedy one's 200 jobs waited, and takes every other turn.
        assert places[0] <= 2
        assert places[2] <= 6
        assert len(world.granted) == 203

    asyncio.run(run())


@settings(max_examples=EXAMPLES, deadline=None)
@given(arrivals=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=40), places=st.integers(1, 3))
def test_while_a_job_waits_each_other_client_overtakes_it_at_most_once_a_round(
    arrivals: list[str], places: int
) -> None:
    """Between two turns of a client that waits, every other client has at most one."""

    async def run() -> None:
        world = World(places, 1000)
        await world.play([("arrive", client) for client in arrivals])
        order = [client for _, client in world.granted][places:]  # those that had to wait
        left = {client: order.count(client) for client in set(order)}
        since: dict[str, list[str]] = {client: [] for client in left}
        for client in order:
            for other, seen in since.items():
                if other != client and left[other]:
                    assert seen.count(client) < 2, (order, other, client)
                    seen.append(client)
            since[client], left[client] = [], left[client] - 1

    asyncio.run(run())


def test_a_full_queue_says_so() -> None:
    async def run() -> None:
        turns = Turns(1, 1, name="sdxl")
        for _ in range(2):
            turns.enter("a", CancelToken(), lambda position: None)
        with pytest.raises(QueueFull, match="sdxl"):
            turns.enter("b", CancelToken(), lambda position: None)

    asyncio.run(run())


def test_positions_are_told_as_they_change() -> None:
    async def run() -> None:
        turns, told = Turns(1, 10), {"first": [], "second": []}  # type: ignore[var-annotated]
        holder = turns.enter("a", CancelToken(), lambda position: None)
        turns.enter("a", CancelToken(), told["first"].append)
        waiting = CancelToken()
        turns.enter("b", waiting, told["second"].append)
        assert told == {"first": [1], "second": [2]}
        async with holder:
            pass
        assert told == {"first": [1], "second": [2, 1]}

    asyncio.run(run())


def test_one_line_is_first_come_first_served() -> None:
    async def scenario() -> None:
        device, order = Turns(1, 5), list[int]()

        async def work(number: int) -> None:
            async with device.enter("", CancelToken()):
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(work(number) for number in range(6)))
        assert order == [0, 1, 2, 3, 4, 5]
        assert not device.in_flight

    asyncio.run(scenario())


def test_beyond_the_bound_it_refuses_at_once() -> None:
    async def scenario() -> None:
        device = Turns(1, 1)
        first = device.enter("", CancelToken())
        device.enter("", CancelToken())
        with pytest.raises(QueueFull, match="SD_QUEUE_SIZE") as refused:
            device.enter("", CancelToken())
        assert refused.value.retry_after == 5
        first.release()
        device.enter("", CancelToken())

    asyncio.run(scenario())


@pytest.mark.parametrize(("cause", "error"), [("disconnect", Cancelled), ("deadline", DeadlineExceeded)])
def test_a_waiting_request_that_is_cancelled_leaves_at_once(cause: Any, error: type[Exception]) -> None:
    async def scenario() -> None:
        device, token = Turns(1, 5), CancelToken()
        holder = device.enter("", CancelToken())
        place = device.enter("", token)
        waiting = asyncio.create_task(place.__aenter__())
        await asyncio.sleep(0)
        # From another thread, as an engine or a signal would.
        await asyncio.get_running_loop().run_in_executor(None, token.cancel, cause)
        with pytest.raises(error):
            await waiting
        assert device.waiting == 0
        assert device.in_flight
        holder.release()
        assert not device.in_flight

    asyncio.run(scenario())


def test_releasing_twice_frees_nobody_else() -> None:
    async def scenario() -> None:
        device = Turns(1, 5)
        first, second, third = (device.enter("", CancelToken()) for _ in range(3))
        first.release()
        first.release()
        assert device.waiting == 1
        second.release()
        assert device.in_flight
        third.release()
        assert not device.in_flight

    asyncio.run(scenario())


def test_a_token_cancelled_between_grant_and_wake_up_gives_its_place_back() -> None:
    async def scenario() -> None:
        device, token = Turns(1, 5), CancelToken()
        first = device.enter("", CancelToken())
        second = device.enter("", token)
        first.release()  # second holds the device now, but has not run
        token.cancel("disconnect")
        with pytest.raises(Cancelled):
            async with second:
                raise AssertionError("it must not run")
        assert not device.in_flight

    asyncio.run(scenario())
