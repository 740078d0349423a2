"""Whatever is done to it, Redis answers as memory does."""

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from service.core.errors import BadRequest
from service.core.tasks import Phase
from service.state.memory import MemoryStore
from service.state.redis.store import RedisStore
from service.state.store import Command, Layers, Preview, Store, TaskRecord
from tests.state.conftest import RedisServer, require_redis

T = TypeVar("T")

SESSIONS = st.sampled_from([None, "one", "two"])
NAMES = st.sampled_from(["task(a)", "task(b)", "any text at all: 'x' {y}\n"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
CHANGES = st.dictionaries(st.sampled_from(["sd_vae", "eta", "ключ", "a b"]), VALUES, max_size=3)
PREVIEWS = st.none() | st.builds(
    Preview, st.sampled_from(["image/png", "image/webp"]), st.binary(max_size=50)
)


class Both(RuleBasedStateMachine):
    """The same done to memory and to Redis; a second front reads what the first one does."""

    port = 0

    def __init__(self) -> None:
        super().__init__()
        with Redis(port=self.port) as direct:
            direct.flushall()
        self.loop = asyncio.new_event_loop()
        url = f"redis://127.0.0.1:{self.port}/0"
        self.memory = MemoryStore(session_ttl=600, max_sessions=10)
        self.redis = RedisStore(url, session_ttl=600, max_sessions=10)
        self.other = RedisStore(url, session_ttl=600, max_sessions=10)
        self.heard: list[Command] = []
        self.wanted: list[Command] = []
        self.run(self.memory.start(self.wanted.append))
        self.run(self.redis.start(self.heard.append))
        self.run(self.other.start(lambda command: None))
        assert self.redis.reachable

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        for store in (self.redis, self.other):
            self.run(store.close())
        self.loop.close()

    def one(self, which: int) -> TaskRecord:
        """A task under way."""
        known = self.run(self.memory.under_way())
        return known[which % len(known)]

    @rule(session=SESSIONS, changes=CHANGES)
    def set_options(self, session: str | None, changes: dict[str, Any]) -> None:
        for store in (self.memory, self.redis):
            self.run(store.set_options(session, changes))

    @rule(name=NAMES, session=SESSIONS, arrived=st.integers(0, 10))
    def open(self, name: str, session: str | None, arrived: int) -> None:
        record = TaskRecord(id=name, kind="txt2img", session=session, arrived=float(arrived))
        taken = []
        for store in (self.memory, self.redis):
            try:
                self.run(store.open(record))
                taken.append(False)
            except BadRequest:
                taken.append(True)
        assert taken[0] == taken[1]

    @precondition(lambda self: self.run(self.memory.under_way()))
    @rule(which=st.integers(0, 9), step=st.integers(0, 20), preview=PREVIEWS)
    def tell(self, which: int, step: int, preview: Preview | None) -> None:
        record = replace(self.one(which), phase=Phase.RUNNING, started=5.0, step=step, steps=20)
        self.memory.tell(record, preview)
        self.redis.tell(record, preview)

    @precondition(lambda self: self.run(self.memory.under_way()))
    @rule(which=st.integers(0, 9), outcome=st.sampled_from(["ok", "cancelled"]))
    def finish(self, which: int, outcome: str) -> None:
        record = replace(self.one(which), phase=Phase.DONE, outcome=outcome)
        self.memory.finish(record)
        self.redis.finish(record)

    @rule(name=NAMES, action=st.sampled_from(["interrupt", "skip"]))
    def send(self, name: str, action: Any) -> None:
        command = Command(action, name)
        assert self.run(self.memory.send(command)) == self.run(self.redis.send(command))
        assert self.heard == self.wanted

    @rule(upstream=st.sampled_from(["sd15", "sdxl"]), catalogue=CHANGES)
    def see(self, upstream: str, catalogue: dict[str, Any]) -> None:
        for store in (self.memory, self.redis):
            store.see(upstream, catalogue)

    @rule()
    def the_other_front_sees_it_too(self) -> None:
        async def agree() -> None:
            async with asyncio.timeout(10):
                while await view(self.other) != await view(self.memory):
                    await asyncio.sleep(0.02)

        self.run(agree())

    @invariant()
    def they_answer_alike(self) -> None:
        for session in (None, "one", "two"):
            expected: Layers = self.run(self.memory.options(session))
            for store in (self.redis, self.other):
                assert self.run(store.options(session)) == expected
        for name in ("task(a)", "task(b)"):
            found = [self.run(store.find(name)) for store in (self.memory, self.redis)]
            assert nameless(found[0]) == nameless(found[1])
            assert self.run(self.memory.preview(name)) == self.run(self.redis.preview(name))
        for upstream in ("sd15", "sdxl"):
            assert self.run(self.memory.catalogue(upstream)) == self.run(self.redis.catalogue(upstream))


def nameless(record: TaskRecord | None) -> TaskRecord | None:
    return record and replace(record, owner="")


async def view(store: Store) -> Any:
    """All that can be seen of tasks; not the order of those that arrived together, nor who runs them."""
    under_way = {record.id: nameless(record) for record in await store.under_way()}
    names = ("task(a)", "task(b)")
    found = [nameless(await store.find(name)) for name in names]
    return under_way, found, [await store.preview(name) for name in names]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    require_redis()
    made = RedisServer(tmp_path, "--appendonly", "no", "--save", "")
    made.start()
    yield made
    made.stop()


def test_redis_answers_as_memory_does(server: RedisServer) -> None:
    class Here(Both):
        port = server.port

    health = (HealthCheck.too_slow, HealthCheck.filter_too_much)
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=15,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=health,
            derandomize=True,
        ),
    )
