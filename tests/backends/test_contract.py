"""One contract for every backend: an engine of this process (fake; diffusers with the shipped model), a front, Ray."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from service.core.errors import BadRequest, Cancelled, DeadlineExceeded, Draining, UnknownName
from service.core.events import Progress, Queued, Started, TaskEvent
from service.core.generation import GenerationRequest, InitImage
from service.core.jobs import (
    Caption,
    Generate,
    LoadCheckpoint,
    Refresh,
    Series,
    Tiles,
    Unload,
    Upscale,
)
from service.core.tasks import Task
from service.core.tiling import Tiling
from tests.fakes import FakeEngine
from tests.front.conftest import fleet
from tests.live import LiveServer, serve_here
from tests.ray.contract import on_ray

REQUEST = GenerationRequest(
    "a dog", seed=5, steps=4, width=64, height=64, sampler="Euler a", guidance_scale=1.0
)
LONG = replace(REQUEST, steps=150)


@dataclass
class World:
    """A backend in its event loop, and what its tasks were told."""

    live: LiveServer
    events: dict[str, list[TaskEvent]] = field(default_factory=dict)

    @property
    def backend(self) -> Any:
        return self.live.context.backend

    def start(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Begin ``work`` in the loop; its future."""
        return asyncio.run_coroutine_threadsafe(work, self.live.loop)

    def open(self, on_event: Callable[[Task, TaskEvent], None] = lambda task, event: None) -> Task:
        """A task whose events are kept."""

        def make() -> Task:
            task = self.live.context.tasks.open("txt2img")
            task.client = task.id
            self.events[task.id] = []

            def listen(event: TaskEvent) -> None:
                self.events[task.id].append(event)
                on_event(task, event)

            task.listen(listen)
            return task

        made: Task = self.live.call(make)
        return made

    def run(self, job: Any, task: Task | None = None) -> Any:
        """The result of ``job``."""
        task = task or self.open()
        try:
            return self.start(self.backend.run(job, task)).result(60)
        finally:
            self.close(task)

    def close(self, task: Task) -> None:
        """Forget ``task``."""
        self.live.call(lambda: self.live.context.tasks.close(task))

    def idle(self) -> None:
        """Return when the backend says that nothing is left."""
        self.start(asyncio.wait_for(self.backend.wait_idle(), 30)).result(40)


@pytest.fixture(
    params=["fake", "diffusers", "remote", pytest.param("ray", marks=pytest.mark.slow)], scope="module"
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with ExitStack() as stack:
        if request.param == "remote":
            live = stack.enter_context(fleet([FakeEngine(step_time=0.01)])).front
        elif request.param == "ray":
            live = stack.enter_context(on_ray())
        else:
            engine = FakeEngine(step_time=0.01) if request.param == "fake" else None
            live = stack.enter_context(serve_here(engine))
        yield World(live)


def after_steps(number: int, act: Callable[[Task], object]) -> Callable[[Task, TaskEvent], None]:
    """Do ``act`` once a task has done ``number`` steps."""

    def listen(task: Task, event: TaskEvent) -> None:
        if isinstance(event, Progress) and event.step == number:
            act(task)

    return listen


def test_a_generation_is_told_from_the_queue_to_its_last_step(world: World) -> None:
    task = world.open()
    (made,) = world.run(Generate(REQUEST), task)
    assert [image.shape for image in made.images] == [(64, 64, 3)]
    assert made.seeds == (5,)
    assert made.model_name
    events = world.events[task.id]
    kinds = [type(event) for event in events]
    assert kinds[0] is Queued
    assert kinds.count(Started) == 1
    assert kinds.index(Started) < kinds.index(Progress)
    steps = [event.step for event in events if isinstance(event, Progress) and event.stage == "denoising"]
    assert steps == sorted(steps)
    assert steps[-1] == 4


def test_the_same_request_makes_the_same_picture(world: World) -> None:
    first, second = (world.run(Generate(REQUEST))[0].images[0] for _ in range(2))
    assert np.array_equal(first, second)
    other = world.run(Generate(replace(REQUEST, seed=6)))[0].images[0]
    assert not np.array_equal(first, other)


def test_an_interrupt_keeps_what_there_is(world: World) -> None:
    task = world.open(after_steps(3, lambda task: task.token.cancel("interrupt")))
    (made,) = world.run(Generate(LONG), task)
    assert made.interrupted
    assert [image.shape for image in made.images] == [(64, 64, 3)]
    steps = [
        one.step for one in world.events[task.id] if isinstance(one, Progress) and one.stage == "denoising"
    ]
    assert max(steps) < 150
    world.idle()


@pytest.mark.parametrize(
    ("cause", "error"), [("disconnect", Cancelled), ("deadline", DeadlineExceeded), ("shutdown", Cancelled)]
)
def test_any_other_cause_ends_it_and_the_next_picture_is_right(
    world: World, cause: Any, error: type[Exception]
) -> None:
    before = world.run(Generate(REQUEST))[0].images[0]
    task = world.open(after_steps(2, lambda task: task.token.cancel(cause)))
    with pytest.raises(error):
        world.run(Generate(LONG), task)
    world.idle()
    assert np.array_equal(world.run(Generate(REQUEST))[0].images[0], before)


def test_a_skip_leaves_the_running_batch(world: World) -> None:
    task = world.open(after_steps(2, lambda task: task.token.skip()))
    world.run(Generate(replace(REQUEST, steps=30, batch_count=2)), task)
    assert task.token.skips >= 1
    world.idle()


def test_who_waits_is_told_its_place_and_leaves_at_once(world: World) -> None:
    first, second = world.open(), world.open()
    running = world.start(world.backend.run(Generate(LONG), first))
    world.live.wait_until(
        lambda: any(isinstance(one, Progress) and one.step > 0 for one in world.events[first.id])
    )
    waiting = world.start(world.backend.run(Generate(REQUEST), second))
    world.live.wait_until(lambda: world.backend.waiting == 1)
    assert [event.position for event in world.events[second.id] if isinstance(event, Queued)] == [1]
    second.token.cancel("interrupt")
    with pytest.raises(Cancelled) as told:
        waiting.result(10)
    assert told.value.cause == "interrupt"
    assert world.backend.waiting == 0
    first.token.cancel("interrupt")
    running.result(30)
    for task in (first, second):
        world.close(task)
    world.idle()


def test_a_caller_that_is_killed_frees_the_device(world: World) -> None:
    task = world.open()
    running = world.start(world.backend.run(Generate(LONG), task))
    world.live.wait_until(lambda: any(isinstance(one, Started) for one in world.events[task.id]))
    running.cancel()
    world.idle()
    world.close(task)
    assert world.run(Generate(REQUEST))[0].images


def test_a_series_is_one_turn_in_order(world: World) -> None:
    made = world.run(Series(tuple(replace(REQUEST, seed=seed) for seed in (1, 2, 3))))
    assert [one.seeds for one in made] == [(1,), (2,), (3,)]


def test_tiles_are_made_of_an_enlarged_picture(world: World) -> None:
    picture = np.full((64, 64, 3), 90, np.uint8)
    request = replace(REQUEST, init=InitImage((picture,), denoising_strength=0.5))
    made = world.run(Series(tiles=Tiles(request, "Lanczos", Tiling(96, 64, 64, 64, 16))))
    assert [one.images[0].shape for one in made] == [(64, 64, 3)] * 2


def test_pictures_are_enlarged_to_just_their_size(world: World) -> None:
    picture = np.zeros((10, 20, 3), np.uint8)
    made = world.run(Upscale((picture, picture), ((40, 20), (21, 11)), "Lanczos", "Nearest", 0.5))
    assert [image.shape for image in made.images] == [(20, 40, 3), (11, 21, 3)]


def test_a_caption_without_a_captioner_is_refused(world: World) -> None:
    with pytest.raises(BadRequest, match="SD_CAPTIONER"):
        world.run(Caption(np.zeros((8, 8, 3), np.uint8)))


def test_the_catalogue_answers_at_once_and_knows_the_default(world: World) -> None:
    catalogue = world.live.call(lambda: world.backend.catalogue)
    assert catalogue.find(catalogue.default.title) == catalogue.default
    assert world.run(LoadCheckpoint(catalogue.default.title)).name == catalogue.default.name
    with pytest.raises(UnknownName):
        catalogue.find("nothing-of-that-name")
    assert world.run(Refresh()) is None
    assert world.run(Unload()) is None
    assert world.run(Generate(REQUEST))[0].images, "what was unloaded comes back"
    assert isinstance(world.live.call(world.backend.memory), dict)


def test_a_backend_that_drains_refuses(world: World) -> None:
    """The last test: it ends what the others share."""
    world.live.call(world.backend.raise_if_refusing)
    world.live.call(world.live.context.lifecycle.drain)
    assert not world.live.call(world.backend.readiness).ok
    with pytest.raises(Draining):
        world.live.call(world.backend.raise_if_refusing)
    with pytest.raises(Draining):
        world.run(Generate(REQUEST))
