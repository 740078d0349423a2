"""Arrivals, cancels, deadlines, failures and SIGTERM in any order, on the real backend.

Never two on the device, never a lost slot, every request answered exactly once.
"""

import asyncio
import threading
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.backends.local import LocalBackend
from service.core.cancel import CancelToken
from service.core.errors import ModelError, OutOfMemory, ServiceError
from service.core.events import ProgressSink
from service.core.generation import GenerationRequest, GenerationResult
from service.core.jobs import Generate
from service.core.lifecycle import Lifecycle, State
from service.core.tasks import TaskRegistry
from service.metrics import Metrics
from tests.fakes import FakeEngine

QUEUE = 3


class ScriptedEngine(FakeEngine):
    """Holds each generation until the machine decides how it ends; looks at its token meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.verdict: Exception | str | None = None
        self.decided = threading.Event()

    def generate(
        self, request: GenerationRequest, token: CancelToken, sink: ProgressSink
    ) -> GenerationResult:
        with self._lock:
            self.on_device += 1
            self.most_on_device = max(self.most_on_device, self.on_device)
        try:
            while not self.decided.wait(0.001):
                token.raise_if_cancelled()
            self.decided.clear()
            if isinstance(self.verdict, Exception):
                raise self.verdict
        finally:
            with self._lock:
                self.on_device -= 1
        return super().generate(request, token, sink)


class ServiceMachine(RuleBasedStateMachine):
    """Drives the backend from a real event loop that only moves when a rule lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.engine = ScriptedEngine()
        self.tasks: dict[int, tuple[Any, asyncio.Task[Any]]] = {}
        self.answers: dict[int, list[str]] = {}
        self.number = 0
        self.drained = False

    @initialize()
    def start(self) -> None:
        async def begin() -> None:
            self.lifecycle = Lifecycle()
            self.backend = LocalBackend(lambda: self.engine, self.lifecycle, Metrics(), QUEUE)
            self.registry = TaskRegistry()
            self.backend.start()
            while not self.lifecycle.accepts_work:
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(begin())

    def settle(self) -> None:
        """Let what was cancelled leave the device and the queue: rules must find a state that does not move."""

        async def wait() -> None:
            turns = self.backend._turns
            while any(turn._token.cancelled for turn in (*turns._inside, *turns.order())):
                await asyncio.sleep(0.001)
            for _ in range(10):
                await asyncio.sleep(0)

        self.loop.run_until_complete(asyncio.wait_for(wait(), 10))

    @rule()
    def arrive(self) -> None:
        self.number += 1
        number = self.number
        task = self.registry.open("txt2img")
        job = Generate(GenerationRequest(prompt="x", seed=number, steps=1, width=64, height=64))
        self.answers[number] = []

        async def ask() -> None:
            try:
                result = (await self.backend.run(job, task))[0]
                self.answers[number].append(f"ok {result.seeds[0]}")
            except ServiceError as error:
                self.answers[number].append(error.code)
            finally:
                self.registry.close(task)

        async def begin() -> asyncio.Task[None]:
            running = asyncio.create_task(ask())
            await asyncio.sleep(0)
            return running

        self.tasks[number] = (task, self.loop.run_until_complete(begin()))
        self.settle()

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), cause=st.sampled_from(["disconnect", "deadline", "interrupt", "shutdown"]))
    def cancel(self, data: st.DataObject, cause: Any) -> None:
        task, _ = self.tasks[data.draw(st.sampled_from(sorted(self.tasks)))]
        task.token.cancel(cause)
        self.settle()

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def kill_the_asyncio_task(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.tasks)))
        _, running = self.tasks[number]
        if running.cancel():
            self.answers[number].append("gone")
        self.settle()

    @precondition(lambda self: self.backend.running)
    @rule(verdict=st.sampled_from(["ok", "out of memory", "model"]))
    def finish_the_running_one(self, verdict: str) -> None:
        errors: dict[str, Exception | None] = {
            "ok": None, "out of memory": OutOfMemory("too large"), "model": ModelError("broken")
        }  # fmt: skip
        self.engine.verdict = errors[verdict]
        holder = set(self.backend._turns._inside)

        async def wait() -> None:
            self.engine.decided.set()
            while self.backend._turns._inside == holder:
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(asyncio.wait_for(wait(), 10))
        self.settle()

    @rule()
    def sigterm(self) -> None:
        self.lifecycle.drain()
        self.drained = True

    @invariant()
    def one_at_a_time(self) -> None:
        assert self.engine.most_on_device <= 1
        if hasattr(self, "backend"):
            assert self.backend.waiting <= QUEUE

    @invariant()
    def answered_at_most_once(self) -> None:
        for number, answers in self.answers.items():
            assert len(answers) <= 1, answers
            if answers and answers[0].startswith("ok"):
                assert answers == [f"ok {number}"], "somebody else's image"

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            self.loop.run_until_complete(self.backend.close())
            self.loop.close()

    def finish(self) -> None:
        async def end() -> None:
            for task, _ in self.tasks.values():
                task.token.cancel("shutdown")
            await asyncio.wait_for(self.backend.wait_idle(), 10)
            await asyncio.gather(*(running for _, running in self.tasks.values()), return_exceptions=True)

        self.loop.run_until_complete(end())
        assert not self.backend.running
        assert self.backend.waiting == 0
        assert self.engine.on_device == 0
        assert len(self.registry) == 0
        assert all(len(answers) == 1 for answers in self.answers.values()), self.answers
        assert self.lifecycle.state is (State.DRAINING if self.drained else State.READY)


TestService = ServiceMachine.TestCase
TestService.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
