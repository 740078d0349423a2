"""The slot: one at a time, first come first served, bounded, released exactly once."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from service.core.cancel import CancelToken
from service.core.errors import Cancelled, DeadlineExceeded, QueueFull
from service.core.slot import Slot


def run(test: Callable[[], Any]) -> None:
    asyncio.run(test())


def test_first_come_first_served() -> None:
    async def scenario() -> None:
        slot, order = Slot(5), list[int]()

        async def work(number: int) -> None:
            async with slot.enter(CancelToken()):
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(work(number) for number in range(6)))
        assert order == [0, 1, 2, 3, 4, 5]
        assert not slot.busy

    run(scenario)


def test_beyond_the_bound_it_refuses_at_once() -> None:
    async def scenario() -> None:
        slot = Slot(1)
        first = slot.enter(CancelToken())
        slot.enter(CancelToken())
        with pytest.raises(QueueFull, match="SD_QUEUE_SIZE") as refused:
            slot.enter(CancelToken())
        assert refused.value.retry_after == 5
        first.release()
        slot.enter(CancelToken())

    run(scenario)


@pytest.mark.parametrize(("cause", "error"), [("disconnect", Cancelled), ("deadline", DeadlineExceeded)])
def test_a_waiting_request_that_is_cancelled_leaves_at_once(cause: Any, error: type[Exception]) -> None:
    async def scenario() -> None:
        slot, token = Slot(5), CancelToken()
        holder = slot.enter(CancelToken())
        place = slot.enter(token)
        waiting = asyncio.create_task(place.__aenter__())
        await asyncio.sleep(0)
        # From another thread, as an engine or a signal would.
        await asyncio.get_running_loop().run_in_executor(None, token.cancel, cause)
        with pytest.raises(error):
            await waiting
        assert slot.waiting == 0
        assert slot.busy
        holder.release()
        assert not slot.busy

    run(scenario)


def test_releasing_twice_frees_nobody_else() -> None:
    async def scenario() -> None:
        slot = Slot(5)
        first, second, third = (slot.enter(CancelToken()) for _ in range(3))
        first.release()
        first.release()
        assert slot.waiting == 1
        second.release()
        assert slot.busy
        third.release()
        assert not slot.busy

    run(scenario)


def test_a_token_cancelled_between_grant_and_wake_up_gives_the_slot_back() -> None:
    async def scenario() -> None:
        slot, token = Slot(5), CancelToken()
        first = slot.enter(CancelToken())
        second = slot.enter(token)
        first.release()  # second holds the device now, but has not run
        token.cancel("disconnect")
        with pytest.raises(Cancelled):
            async with second:
                raise AssertionError("it must not run")
        assert not slot.busy

    run(scenario)


def test_positions_are_told() -> None:
    async def scenario() -> None:
        slot, seen = Slot(5), list[int]()
        first, second = slot.enter(CancelToken()), slot.enter(CancelToken())
        third = slot.enter(CancelToken(), seen.append)
        first.release()
        second.release()
        assert seen == [2, 1, 0]
        third.release()

    run(scenario)
