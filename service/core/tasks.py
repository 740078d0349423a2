"""One task per request for work, from its arrival to its end, and the registry in which others find it.

A task ties a request to its cancel token, its latest progress and its listeners. The registry serves the global
and per-task progress, interrupts, and the count of what is pending. Both belong to the event loop's thread.
"""

import asyncio
import hmac
import secrets
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from service.core.budget import Claim, unlimited
from service.core.cancel import CancelCause, CancelToken
from service.core.errors import BadRequest
from service.core.events import Progress, Queued, Started, TaskEvent, Timings
from service.core.generation import GenerationRequest

REMEMBERED: Final = 256
"""Ended tasks that progress by id still knows."""


class Phase(Enum):
    """Where a task is."""

    ARRIVED = "arrived"
    QUEUED = "queued"
    RUNNING = "running"
    ENCODING = "encoding"
    DONE = "done"


@dataclass(eq=False, slots=True)
class Task:
    """A request for work, from its arrival to the last byte of its answer.

    ``kind`` is one of :data:`service.metrics.ENDPOINTS`; times are ``time.monotonic``.
    """

    id: str
    kind: str
    request: GenerationRequest | None = None
    """What is to be made; None for other work on the device (upscaling, loading a checkpoint)."""
    token: CancelToken = field(default_factory=CancelToken)
    session: str | None = None
    client: str = ""
    """Whose turn it takes where jobs wait: its session, or its address; "" where neither is known."""
    arrived: float = field(default_factory=time.monotonic)
    arrived_wall: float = field(default_factory=time.time)
    started: float | None = None
    key: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """Whoever knows it may stop the task; nobody can guess it."""
    phase: Phase = Phase.ARRIVED
    position: int = 0
    progress: Progress | None = None
    preview_id: int = 0
    shown: tuple[int, str, str] | None = None
    """The last preview that was encoded for somebody who watches: its preview_id, media type and base64."""
    cold_start: bool = False
    """True for the first image that the serving process made."""
    served_by: str = ""
    """The pod that ran it, where that is not this process."""
    timings: Timings = field(default_factory=Timings)
    claim: Claim = field(default_factory=unlimited)
    """The main memory that the request holds."""
    outcome: str = ""
    failure: BaseException | None = None
    """Why it was refused or failed."""
    _listeners: list[Callable[[TaskEvent], None]] = field(default_factory=list)

    def listen(self, listener: Callable[[TaskEvent], None]) -> None:
        """Tell ``listener`` every event from now on (in the event loop's thread)."""
        self._listeners.append(listener)

    def publish(self, event: TaskEvent) -> None:
        """Record an event and pass it on."""
        match event:
            case Queued():
                self.phase, self.position = Phase.QUEUED, event.position
            case Started():
                self.phase, self.position, self.started = Phase.RUNNING, 0, time.monotonic()
            case Progress():
                if event.preview is None and self.progress is not None:
                    kept = self.progress.preview
                else:
                    kept = event.preview
                    self.preview_id += 1 if event.preview is not None else 0
                self.progress = Progress(
                    event.step, event.steps, event.image_index, event.job_no, event.job_count, event.stage,
                    event.elapsed, kept,
                )  # fmt: skip
        for listener in self._listeners:
            listener(event)


class TaskRegistry:
    """All tasks of this process: those under way, in order of arrival, and the last ended ones."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._ended: OrderedDict[str, Task] = OrderedDict()
        self._empty = asyncio.Event()
        self._empty.set()
        self.last_steps = 0
        """Sampler steps of the last task: A1111 goes on telling them when nothing runs."""

    def __iter__(self) -> Iterator[Task]:
        return iter(tuple(self._tasks.values()))

    def __len__(self) -> int:
        return len(self._tasks)

    def open(self, kind: str, session: str | None = None) -> Task:
        """A task for a request that has just arrived, under an id of ours until it :meth:`claim` its own."""
        task = Task(f"task({kind}-{uuid.uuid4().hex[:15]})", kind, session=session)
        self._tasks[task.id] = task
        self._empty.clear()
        return task

    def claim(self, task: Task, task_id: str) -> None:
        """Give ``task`` the id that its client chose; "" leaves its own. Raises :class:`BadRequest` if it is taken."""
        if not task_id or task_id == task.id:
            return
        if task_id in self._tasks:
            raise BadRequest(
                f"A task with id {task_id!r} is already under way: choose another force_task_id."
            )
        self._ended.pop(task_id, None)
        self._tasks = OrderedDict(
            (task_id if key == task.id else key, one) for key, one in self._tasks.items()
        )
        task.id = task_id

    def close(self, task: Task) -> None:
        """The task has ended, one way or another. Of work, its id and outcome are remembered and nothing else."""
        worked = task.phase is not Phase.ARRIVED
        task.phase = Phase.DONE
        self._tasks.pop(task.id, None)
        if task.progress is not None:
            self.last_steps = task.progress.steps
        if worked:
            ended = Task(task.id, task.kind, session=task.session, phase=Phase.DONE, outcome=task.outcome)
            if task.token.cause is not None:
                ended.token.cancel(task.token.cause)
            self._ended[task.id] = ended
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
        if not self._tasks:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Return when no request for work is under way."""
        await self._empty.wait()

    def running(self) -> Task | None:
        """The task on the device, if any: the last that was started, as one before it may still be on its way out."""
        running = [task for task in self._tasks.values() if task.phase is Phase.RUNNING]
        return max(running, key=lambda task: task.started or 0.0, default=None)

    def queued(self) -> list[Task]:
        """Those that wait for the device, in order."""
        return [task for task in self._tasks.values() if task.phase is Phase.QUEUED]

    def find(self, task_id: str) -> Task | None:
        """The task of that id: under way, or ended not long ago."""
        return self._tasks.get(task_id) or self._ended.get(task_id)

    def keyed(self, key: str) -> Task | None:
        """The task under way with that key."""
        return next((task for task in self if hmac.compare_digest(task.key.encode(), key.encode())), None)

    def cancel_all(self, cause: CancelCause) -> None:
        """Cancel everything under way."""
        for task in self:
            task.token.cancel(cause)
