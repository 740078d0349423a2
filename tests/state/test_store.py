"""The contract of a store of state, over every form of it."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.core.errors import BadRequest
from service.core.tasks import Phase
from service.settings import Settings, SettingsError
from service.state import store as stores
from service.state.memory import MemoryStore
from service.state.redis.store import RedisStore
from service.state.sessions import LARGEST
from service.state.store import Command, Preview, Store, TaskRecord
from tests.state.conftest import RedisServer

Form = Callable[[list[Command]], AbstractAsyncContextManager[Store]]
"""Opens a store whose commands go to a list, for three sessions at most."""


@asynccontextmanager
async def started(made: Store, commands: list[Command]) -> AsyncIterator[Store]:
    await made.start(commands.append)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture(params=["memory", "redis"])
def form(request: pytest.FixtureRequest) -> Form:
    if request.param == "memory":
        return lambda commands: started(MemoryStore(session_ttl=60, max_sessions=3), commands)
    server: RedisServer = request.getfixturevalue("redis")
    return lambda commands: started(RedisStore(server.url, session_ttl=60, max_sessions=3), commands)


def run(form: Form, body: Callable[[Store, list[Command]], Awaitable[None]]) -> None:
    async def main() -> None:
        commands: list[Command] = []
        async with asyncio.timeout(30), form(commands) as store:
            await body(store, commands)

    asyncio.run(main())


def record(task_id: str = "task(a)", **fields: Any) -> TaskRecord:
    return TaskRecord(id=task_id, kind="txt2img", arrived=fields.pop("arrived", 1000.0), **fields)


def test_options_have_two_layers(form: Form) -> None:
    async def body(store: Store, commands: list[Command]) -> None:
        assert await store.options(None) == ({}, {})
        await store.set_options(None, {"eta_ancestral": 0.5, "sd_vae": "None"})
        await store.set_options("one", {"sd_vae": "a.safetensors", "list": ["x", {"y": None}], "flag": True})
        await store.set_options("one", {"flag": False})
        everywhere, mine = await store.options("one")
        assert everywhere == {"eta_ancestral": 0.5, "sd_vae": "None"}
        assert mine == {"sd_vae": "a.safetensors", "list": ["x", {"y": None}], "flag": False}
        assert (await store.options("two")).session == {}
        assert (await store.options(None)).session == {}

    run(form, body)


def test_sessions_are_bounded_and_the_longest_unused_leaves(form: Form) -> None:
    async def body(store: Store, commands: list[Command]) -> None:
        for name in ("a", "b", "c"):
            await store.set_options(name, {"k": name})
            await asyncio.sleep(0.002)
        assert (await store.options("a")).session == {"k": "a"}  # used: the longest unused is now b
        await asyncio.sleep(0.002)
        await store.set_options("d", {"k": "d"})
        assert [(await store.options(name)).session for name in "abcd"] == [
            {"k": "a"}, {}, {"k": "c"}, {"k": "d"}
        ]  # fmt: skip

    run(form, body)


def test_one_session_cannot_take_much(form: Form) -> None:
    async def body(store: Store, commands: list[Command]) -> None:
        await store.set_options("s", {"a": "x" * (LARGEST // 2)})
        with pytest.raises(BadRequest, match="set fewer"):
            await store.set_options("s", {"b": "x" * (LARGEST // 2)})
        assert (await store.options("s")).session.keys() == {"a"}

    run(form, body)


def test_a_task_from_its_opening_to_its_end(form: Form) -> None:
    async def body(store: Store, commands: list[Command]) -> None:
        assert await store.find("task(a)") is None
        assert await store.under_way() == ()
        first = record(session="s", position=2)
        await store.open(first)
        assert await store.find("task(a)") == replace(first, owner=store.owner)
        running = replace(
            first, phase=Phase.RUNNING, started=1001.5, position=0, step=3, steps=20, fraction=0.15
        )
        store.tell(running)
        assert await store.find("task(a)") == replace(running, owner=store.owner)
        assert await store.preview("task(a)") is None
        store.tell(replace(running, preview_id=1), Preview("image/png", b"\x89PNG\x00\xff"))
        store.tell(replace(running, preview_id=1, step=4))
        found = await store.find("task(a)")
        assert found is not None
        assert (found.preview_id, found.step) == (1, 4)
        assert await store.preview("task(a)") == ("image/png", b"\x89PNG\x00\xff")
        ended = replace(running, phase=Phase.DONE, outcome="ok")
        store.finish(ended)
        assert await store.under_way() == ()
        assert await store.preview("task(a)") is None
        assert await store.find("task(a)") == replace(ended, owner=store.owner)
        await store.open(first)  # the id may come again
        assert (await store.under_way())[0].phase is Phase.QUEUED

    run(form, body)


def test_an_id_under_way_is_taken(form: Form) -> None:
    async def body(store: Store, commands: list[Command]) -> None:
        await store.open(record())
        with pytest.raises(BadRequest, match=r"'task\(a\)' is already under way"):
            await store.open(record())

    run(form, body)


def test_tasks_are_listed_by_arrival(form: Form) -> None:
    async def body(store: Store, commands: list[Command]) -> None:
        for name, arrived in (("late", 30.0), ("early", 10.0), ("between", 20.0)):
            await store.open(record(name, arrived=arrived, session=name))
        assert [task.id for task in await store.under_way()] == ["early", "between", "late"]
        store.tell(record("between", arrived=20.0, phase=Phase.RUNNING, started=21.0))
        tasks = await store.under_way()
        found = stores.running(tasks)
        assert found is not None
        assert found.id == "between"
        assert [task.id for task in stores.queued(tasks)] == ["early", "late"]
        mine = stores.own(tasks, "late")
        assert mine is not None
        assert mine.id == "late"
        assert stores.own(tasks, "nobody") is stores.own(tasks, None) is None

    run(form, body)


def test_ended_tasks_are_bounded(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(store: Store, commands: list[Command]) -> None:
        for number in range(stores.ENDED_KEPT + 3):
            await store.open(record(str(number)))
            store.finish(record(str(number), phase=Phase.DONE, outcome="ok"))
        while await store.find("0") is not None:  # soon, if not at once
            await asyncio.sleep(0.01)
        assert await store.find(str(stores.ENDED_KEPT + 2)) is not None

    run(form, body)


def test_a_preview_beyond_the_limit_is_left_out(form: Form) -> None:
    async def body(store: Store, commands: list[Command]) -> None:
        await store.open(record())
        store.tell(record(preview_id=1), Preview("image/png", b"small"))
        store.tell(record(preview_id=2), Preview("image/png", bytes(stores.PREVIEW_BYTES + 1)))
        assert await store.preview("task(a)") == ("image/png", b"small")

    run(form, body)


def test_commands_reach_the_owner(form: Form) -> None:
    async def body(store: Store, commands: list[Command]) -> None:
        assert not await store.send(Command("interrupt", "task(a)"))
        await store.open(record())
        assert await store.send(Command("skip", "task(a)"))
        assert await store.send(Command("interrupt", "task(a)"))
        while len(commands) < 2:
            await asyncio.sleep(0.005)
        assert commands == [Command("skip", "task(a)"), Command("interrupt", "task(a)")]
        store.finish(record(phase=Phase.DONE, outcome="ok"))
        assert not await store.send(Command("interrupt", "task(a)"))

    run(form, body)


def test_redis_is_imported_for_those_who_ask() -> None:
    program = (
        "import sys; from service.state.store import open_store; import service.app\n"
        "open_store(None, session_ttl=1, max_sessions=1); print('redis' in sys.modules)\n"
        "open_store('redis://127.0.0.1', session_ttl=1, max_sessions=1); print('redis' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert shown.stdout.splitlines() == ["False", "True"]


@pytest.mark.parametrize(
    "url", ["http://x", "redis://127.0.0.1:port/0", "redis", "", "redis://:secret@x:99999"]
)
def test_an_address_that_is_none_is_a_sentence(url: str) -> None:
    with pytest.raises(SettingsError, match="SD_STATE_URL: this is no address of a Redis server") as caught:
        Settings.read(state_url=url)
    assert "secret" not in str(caught.value)


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.settings.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'knative-diffusion\[front\]'"):
        Settings.read(state_url="redis://127.0.0.1")


def test_catalogues_are_kept_by_upstream(form: Form) -> None:
    async def body(store: Store, commands: list[Command]) -> None:
        assert await store.catalogue("sd15") is None
        store.see("sd15", {"checkpoints": [{"title": "a"}]})
        store.see("sdxl", {"checkpoints": []})
        store.see("sd15", {"checkpoints": [{"title": "b"}]})
        assert await store.catalogue("sd15") == {"checkpoints": [{"title": "b"}]}
        assert await store.catalogue("sdxl") == {"checkpoints": []}

    run(form, body)
