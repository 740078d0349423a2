"""What a board tells a store that other fronts read."""

import asyncio
import base64
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from service.api.board import Board
from service.api.lanes import Lanes
from service.core.events import Progress, Queued, Started
from service.core.tasks import TaskRegistry
from service.imaging.preview import make_preview
from service.state.memory import MemoryStore


class GatedLanes(Lanes):
    """Lanes whose work waits until the gate is open; each step of it is told."""

    def __init__(self) -> None:
        super().__init__(threads=1)
        self.begun = asyncio.Event()
        self.gate = threading.Event()

    async def run(self, task: Any, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        def gated() -> Any:
            self.gate.wait(timeout=60)
            return function(*arguments, **keywords)

        self.begun.set()
        return await super().run(task, gated)


def step(number: int, colour: int) -> Progress:
    return Progress(number, 4, 0, 0, 1, "denoising", 0.0, np.full((8, 8, 3), colour, np.uint8))


def test_the_last_preview_reaches_other_fronts_though_it_came_while_another_was_encoded() -> None:
    asyncio.run(three_previews())


async def three_previews() -> None:
    tasks, store, lanes = TaskRegistry(), MemoryStore(session_ttl=60, max_sessions=3), GatedLanes()
    board = Board(tasks, store, lanes, shared=True)
    task = tasks.open("txt2img")
    await board.claim(task)
    task.publish(Queued(0))
    task.publish(Started())

    task.publish(step(1, 10))
    await asyncio.wait_for(lanes.begun.wait(), timeout=60)
    task.publish(step(2, 120))
    task.publish(step(3, 240))
    lanes.gate.set()
    while board._encoding:
        await asyncio.wait(board._encoding.values(), timeout=60)

    record = await store.find(task.id)
    assert record is not None
    assert record.step == 3
    kept = await store.preview(task.id)
    last = step(3, 240).preview
    assert last is not None
    assert kept is not None
    assert kept.data == base64.b64decode(make_preview(last).base64)
    lanes.close()
