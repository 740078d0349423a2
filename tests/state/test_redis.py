"""What Redis alone can do to state: several fronts, a server that goes and comes back, refusals, foreign content."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from structlog.testing import capture_logs

from service.core.errors import BadRequest, StateUnavailable
from service.core.tasks import Phase
from service.state.redis import tasks as shared_tasks
from service.state.redis.link import PREFIX
from service.state.redis.store import RedisStore
from service.state.store import Command, Preview, TaskRecord
from tests.state.conftest import RedisServer, require_redis
from tests.state.test_store import record


class Front:
    """A store and what it was told to do."""

    def __init__(self, url: str) -> None:
        self.commands: list[Command] = []
        self.errors: Counter[str] = Counter()
        self.store = RedisStore(
            url, session_ttl=60, max_sessions=100, on_error=lambda kind: self.errors.update([kind])
        )

    async def __aenter__(self) -> "Front":
        await self.store.start(self.commands.append)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.store.close()


async def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Return when ``condition()``, awaited if need be, is true."""
    async with asyncio.timeout(seconds):
        while True:
            value = condition()
            if isinstance(value, Awaitable):
                value = await value
            if value:
                return
            await asyncio.sleep(0.01)


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await body()

    asyncio.run(main())


def test_fronts_answer_for_each_other(redis: RedisServer) -> None:
    async def body() -> None:
        async with Front(redis.url) as one, Front(redis.url) as two:
            await one.store.set_options("s", {"a": 1})
            await two.store.set_options("s", {"b": [2]})
            await two.store.set_options(None, {"c": None})
            assert await one.store.options("s") == ({"c": None}, {"a": 1, "b": [2]})

            await one.store.open(record(session="s"))
            with pytest.raises(BadRequest, match="already under way"):
                await two.store.open(record())
            running = record(session="s", phase=Phase.RUNNING, started=1001.0, step=5, steps=20, preview_id=1)
            one.store.tell(running, Preview("image/webp", b"line\nbreak"))

            async def seen() -> bool:
                found = await two.store.find("task(a)")
                return found is not None and found.step == 5

            await until(seen)
            (listed,) = await two.store.under_way()
            assert listed == await one.store.find("task(a)")
            assert listed.owner == one.store.owner
            assert await two.store.preview("task(a)") == ("image/webp", b"line\nbreak")

            assert await two.store.send(Command("interrupt", "task(a)"))
            await until(lambda: one.commands == [Command("interrupt", "task(a)")])
            assert two.commands == []

            one.store.finish(record(session="s", phase=Phase.DONE, outcome="ok"))

            async def ended() -> bool:
                found = await two.store.find("task(a)")
                return found is not None and found.phase is Phase.DONE

            await until(ended)
            assert await two.store.preview("task(a)") is None
            await two.store.open(record())  # the id is free again, for any front
            assert not await two.store.send(Command("skip", "nobody's"))

            one.store.see("sd15", {"checkpoints": ["x"]})
            await until(lambda: two.store.catalogue("sd15"))
            assert await two.store.catalogue("sd15") == {"checkpoints": ["x"]}

    run(body)


def test_tasks_of_a_front_that_died_go(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_tasks, "TASK_SECONDS", 1)

    async def body() -> None:
        async with Front(redis.url) as two:
            one = Front(redis.url)
            await one.store.start(one.commands.append)
            await one.store.open(record())
            await until(two.store.under_way)
            # It is gone without a word: nothing of its own is written or renewed any more.
            for task in one.store._work:
                task.cancel()

            async def nobody() -> bool:
                return await two.store.under_way() == ()

            await until(nobody)
            assert await two.store.find("task(a)") is None
            await two.store.open(record())
            await one.store._link.close()

    run(body)


def test_redis_goes_and_comes_back(redis: RedisServer) -> None:
    async def body() -> None:
        async with Front(redis.url) as one, Front(redis.url) as two:
            await one.store.set_options("known", {"a": 1})
            await one.store.options("known")
            await one.store.open(record("before"))
            await until(two.store.under_way)
            one.store.see("sd15", {"checkpoints": ["x"]})
            redis.stop()
            with capture_logs() as logs:
                # What was read before is known; what was not is a sentence and 503.
                assert await one.store.options("known") == ({}, {"a": 1})
                for _ in range(3):
                    with pytest.raises(StateUnavailable, match="try again in a moment") as caught:
                        await one.store.options("unknown")
                assert caught.value.status == 503
                assert caught.value.retry_after
                with pytest.raises(StateUnavailable):
                    await one.store.set_options("known", {"a": 2})
                with pytest.raises(StateUnavailable):
                    await one.store.send(Command("interrupt", "another's"))
                assert await one.store.catalogue("sd15") == {"checkpoints": ["x"]}
                # A picture needs none of it.
                await one.store.open(record("during"))
                one.store.tell(record("during", phase=Phase.RUNNING, step=1), Preview("image/png", b"p"))
                assert [task.id for task in await one.store.under_way()] == ["before", "during"]
                assert await one.store.preview("during") == ("image/png", b"p")
                assert await one.store.send(Command("interrupt", "during"))
                one.store.finish(record("before", phase=Phase.DONE, outcome="ok"))
                assert not one.store.reachable
            told = [line for line in logs if line["event"] == "state is not reachable"]
            assert 1 <= len(told) <= 3, "said once for each cause, not at each request"
            assert one.errors["unreachable"] >= 1

            redis.start()
            await until(lambda: one.store.reachable and two.store.reachable)
            assert await one.store.options("known") == ({}, {"a": 1})

            async def caught_up() -> bool:
                before, during = await two.store.find("before"), await two.store.find("during")
                return (
                    before is not None
                    and before.phase is Phase.DONE
                    and during is not None
                    and during.step == 1
                    and await two.store.preview("during") is not None
                )

            await until(caught_up)
            # Commands find their way again too.
            await until(lambda: two.store.send(Command("skip", "during")))
            await until(lambda: one.commands[-1] == Command("skip", "during"))

    run(body)


def test_redis_that_comes_late(redis: RedisServer) -> None:
    redis.stop()

    async def body() -> None:
        async with Front(redis.url) as one:
            assert not one.store.reachable
            with pytest.raises(StateUnavailable):
                await one.store.options(None)
            await one.store.open(record())
            redis.start()
            await until(lambda: one.store.reachable)
            await one.store.set_options(None, {"a": 1})
            async with Front(redis.url) as two:
                await until(two.store.under_way)

    run(body)


def test_redis_that_hangs_holds_nobody_for_long(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.state.redis.link.TIMEOUT", 0.2)

    async def body() -> None:
        async with Front(redis.url) as one:
            await one.store.options("s")
            with Redis(port=redis.port) as direct:
                direct.execute_command("CLIENT", "PAUSE", "3000", "ALL")
                assert await one.store.options("s") == ({}, {})
                assert not one.store.reachable
                for _ in range(50):  # from now on nobody waits for it
                    assert await one.store.options("s") == ({}, {})
            await until(lambda: one.store.reachable)

    run(body)


@pytest.fixture
def guarded(tmp_path: Path) -> Any:
    require_redis()
    server = RedisServer(tmp_path, "--requirepass", "right")
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("credentials", ["", ":wrong@", "nobody:wrong@"])
def test_wrong_password_is_a_sentence(guarded: RedisServer, credentials: str) -> None:
    async def body() -> None:
        url = guarded.url.replace("redis://", f"redis://{credentials}")
        with capture_logs() as logs:
            async with Front(url) as one:
                assert not one.store.reachable
                with pytest.raises(StateUnavailable):
                    await one.store.options(None)
                await one.store.open(record())
                assert one.errors["refused"] >= 1
                assert one.errors["unreachable"] == 0
        (line,) = logs
        assert "check user and password in SD_STATE_URL" in line["reason"]
        assert "wrong" not in str(line["store"])

    run(body)


def test_right_password(guarded: RedisServer) -> None:
    async def body() -> None:
        async with Front(guarded.url.replace("redis://", "redis://:right@")) as one:
            assert one.store.reachable
            await one.store.set_options(None, {"a": 1})

    run(body)


@pytest.mark.parametrize(
    ("key", "plant"),
    [
        ("options", ("SET", "text")),
        ("session:s", ("RPUSH", "a list")),
        ("options", ("HSET", "a", "no json{")),
        ("task:x", ("SET", b"\x80\xff")),
        ("task:x", ("SET", json.dumps({"id": "x"}))),
        ("task:x", ("SET", json.dumps({"id": "x", "kind": "t", "phase": "melted", "arrived": "soon"}))),
        ("task:x", ("SET", json.dumps([1]))),
        ("task:x", ("HSET", "a", "b")),
        ("tasks", ("SET", "text")),
        ("catalogue:sd15", ("SET", "[1, 2]")),
        ("catalogue:sd15", ("SET", "{")),
        ("preview:x", ("HSET", "a", "b")),
        ("ended", ("SET", "text")),
    ],
)
def test_foreign_content_is_passed_over_and_left(
    redis: RedisServer, key: str, plant: tuple[str | bytes, ...]
) -> None:
    async def body() -> None:
        with Redis(port=redis.port) as direct:
            direct.execute_command(plant[0], PREFIX + key, *plant[1:])
            if key == "task:x":
                direct.zadd(PREFIX + "tasks", {"x": 5.0})
            before = direct.dump(PREFIX + key)
            async with Front(redis.url) as one:
                layers = await one.store.options("s")
                assert layers == ({}, {})
                assert await one.store.under_way() == ()
                assert await one.store.find("x") is None
                assert await one.store.catalogue("sd15") is None
                await one.store.preview("x")
                # Work goes on beside it.
                await one.store.open(record("y"))
                one.store.finish(record("y", phase=Phase.DONE, outcome="ok"))
                await asyncio.sleep(0.3)
                assert one.store.reachable
                found = await one.store.find("y")
                assert found is not None
            assert direct.dump(PREFIX + key) == before

    run(body)


def test_changing_foreign_content_is_a_sentence(redis: RedisServer) -> None:
    async def body() -> None:
        with Redis(port=redis.port) as direct:
            direct.set(PREFIX + "options", "text")
            async with Front(redis.url) as one:
                with pytest.raises(StateUnavailable, match="delete that key"):
                    await one.store.set_options(None, {"a": 1})
                direct.delete(PREFIX + "options")
                await one.store.set_options(None, {"a": 1})

    run(body)


def test_full_redis_is_a_sentence(redis: RedisServer) -> None:
    async def body() -> None:
        with Redis(port=redis.port) as direct:
            direct.config_set("maxmemory-policy", "noeviction")
            direct.config_set("maxmemory", "1")
            async with Front(redis.url) as one:
                with pytest.raises(StateUnavailable, match="raise its maxmemory"):
                    await one.store.set_options("s", {"a": 1})
                assert await one.store.options("s") == ({}, {})
                await one.store.open(record())
                assert one.store.reachable
                direct.config_set("maxmemory", "0")
                await one.store.set_options("s", {"a": 1})

    run(body)


def test_many_pollers_are_few_questions(redis: RedisServer) -> None:
    async def body() -> None:
        async with Front(redis.url) as one, Front(redis.url) as two:
            for number in range(20):
                await one.store.open(record(f"t{number}", arrived=float(number)))

            async def all_there() -> bool:
                return len(await two.store.under_way()) == 20

            await until(all_there)
            with Redis(port=redis.port) as direct:
                asked = int(direct.info("commandstats").get("cmdstat_zrange", {}).get("calls", 0))
                listed = await asyncio.gather(*(two.store.under_way() for _ in range(500)))
                after = int(direct.info("commandstats")["cmdstat_zrange"]["calls"])
            assert {len(tasks) for tasks in listed} == {20}
            assert after - asked <= 1

    run(body)


def test_everything_has_a_lifetime_but_what_was_set_for_all(redis: RedisServer) -> None:
    async def body() -> None:
        async with Front(redis.url) as one:
            await one.store.set_options("s", {"a": 1})
            await one.store.set_options(None, {"a": 1})
            await one.store.open(record("x"))
            one.store.tell(record("x", preview_id=1), Preview("image/png", b"p"))
            await one.store.open(record("y"))
            one.store.finish(record("y", phase=Phase.DONE, outcome="ok"))
            one.store.see("sd15", {})
            await asyncio.sleep(0.5)
            with Redis(port=redis.port, decode_responses=True) as direct:
                kept = {name.removeprefix(PREFIX): direct.ttl(name) for name in direct.keys(PREFIX + "*")}
        for_ever = {name for name, ttl in kept.items() if ttl < 0}
        assert for_ever == {"options", "sessions", "tasks", "ended", "catalogue:sd15"}
        assert kept.keys() - for_ever == {"session:s", "task:x", "preview:x", "ended:y"}

    run(body)


def test_a_url_that_is_none() -> None:
    with pytest.raises(ValueError, match="scheme"):
        RedisStore("http://127.0.0.1", session_ttl=1, max_sessions=1)


def test_records_of_a_newer_version_with_more_fields_are_read() -> None:
    content = {"id": "x", "kind": "txt2img", "phase": "running", "arrived": 1.0, "colour": "blue"}
    found = shared_tasks._RECORDS.validate_json(json.dumps(content))
    assert found == TaskRecord(id="x", kind="txt2img", phase=Phase.RUNNING, arrived=1.0)
