"""What outlives a request and is asked for by others: one protocol, kept in memory or in Redis.

Four kinds of things, each with one owner:

* **options**, process-wide and by session (the cookie ``sd``);
* **tasks** under way and the last ended ones, as plain records, with their last preview: what ``/progress`` tells;
* **commands** (interrupt, skip) to whoever runs a task;
* the **catalogue** of each upstream as it was last seen.

A front tells its own tasks with :meth:`Store.tell` and is told commands for them; every front sees the tasks of all.
With :class:`~service.state.memory.MemoryStore` "all" is this process. With :class:`~service.state.redis.RedisStore` it
is every front that names the same ``SD_STATE_URL``.

Nothing here is needed to make a picture: where the store cannot be reached, generations that run go on, reads answer
what was last known, and only what is not known raises :class:`~service.core.errors.StateUnavailable`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol, Self, TypeAlias

from service.core.tasks import Phase, Task

Action: TypeAlias = Literal["interrupt", "skip"]

ENDED_KEPT: Final = 256
"""Ended tasks that are still known, at most …"""
ENDED_SECONDS: Final = 600.0
"""… for this long."""
PREVIEW_BYTES: Final = 4_000_000
"""Largest preview that is kept; a larger one is left out, and the one before it stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """A task as others see it. Times are seconds of ``time.time()``: they are compared between machines."""

    id: str
    kind: str
    session: str | None = None
    owner: str = ""
    """The front that runs it, as in :attr:`Store.owner`; filled in by :meth:`Store.tell`."""
    phase: Phase = Phase.QUEUED
    arrived: float = 0.0
    started: float | None = None
    position: int = 0
    """How many stand before it where it waits, the one on the device included."""
    step: int = 0
    steps: int = 0
    job_no: int = 0
    job_count: int = 0
    batch_count: int = 1
    """Batches that were asked for (A1111's ``n_iter``)."""
    fraction: float = 0.0
    """0..1 over all passes."""
    stage: str = ""
    interrupted: bool = False
    skipped: bool = False
    preview_id: int = 0
    """Grows with each preview; 0 where there is none yet."""
    outcome: str = ""
    """How it ended (``ok``, or an error's code); empty while it is under way."""

    @classmethod
    def of(cls, task: Task) -> Self:
        """What others may see of ``task``."""
        step = task.progress
        started = None if task.started is None else task.arrived_wall + task.started - task.arrived
        return cls(
            id=task.id,
            kind=task.kind,
            session=task.session,
            phase=task.phase,
            arrived=task.arrived_wall,
            started=started,
            position=task.position,
            step=step.step if step else 0,
            steps=step.steps if step else task.request.steps if task.request else 0,
            job_no=step.job_no if step else 0,
            job_count=step.job_count if step else 0,
            batch_count=task.request.batch_count if task.request else 1,
            fraction=step.fraction if step else 0.0,
            stage=step.stage if step else "",
            interrupted=task.token.cancelled,
            skipped=task.token.skips > 0,
            preview_id=task.preview_id,
            outcome=task.outcome,
        )


class Preview(NamedTuple):
    """An encoded picture of a task under way."""

    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Command:
    """What somebody wants done to a task."""

    action: Action
    task_id: str


CommandHandler: TypeAlias = Callable[[Command], None]
"""Called in the event loop; must return soon. A command for a task that is no more is nobody's fault: ignore it."""


class Layers(NamedTuple):
    """Options in the order in which they hold: a session's over the process-wide ones."""

    everywhere: Mapping[str, Any]
    session: Mapping[str, Any]


class Store(Protocol):
    """State of one front or of several. To be used from one event loop.

    Methods that read or change raise :class:`~service.core.errors.StateUnavailable` (503) where the store cannot be
    reached and the answer is not known; :meth:`tell`, :meth:`finish` and :meth:`see` never raise.
    """

    @property
    def owner(self) -> str:
        """The name of this front among all: unique, and another one after a restart."""
        ...

    @property
    def reachable(self) -> bool:
        """False while the store behind this cannot be reached."""
        ...

    async def start(self, on_command: CommandHandler) -> None:
        """Begin; commands for tasks of this front go to ``on_command``. An unreachable store is no error: it is
        looked for until it comes.
        """
        ...

    async def close(self) -> None:
        """Write what is not yet written, if it can be, and let go."""
        ...

    # --- options -------------------------------------------------------------------------------------

    async def options(self, session: str | None) -> Layers:
        """What holds for a request of ``session`` (None: a client without cookie). Keeps the session alive."""
        ...

    async def set_options(self, session: str | None, changes: Mapping[str, Any]) -> None:
        """Set options of a session, or process-wide with None. Values are JSON. Other options stay as they are.
        Raises :class:`~service.core.errors.BadRequest` where a session's would take too much.
        """
        ...

    # --- tasks ---------------------------------------------------------------------------------------

    async def open(self, record: TaskRecord) -> None:
        """Make a new task of this front known. Raises :class:`~service.core.errors.BadRequest` if a task of that id
        is under way anywhere; an ended one is forgotten for it. Does not raise for an unreachable store: a picture
        does not need it.
        """
        ...

    def tell(self, record: TaskRecord, preview: Preview | None = None) -> None:
        """The latest of a task of this front. Returns at once: the last word within some tenths of a second reaches
        the others. None keeps the preview that there is.
        """
        ...

    def finish(self, record: TaskRecord) -> None:
        """A task of this front has ended, as ``record.outcome`` says. Its preview is forgotten. Returns at once."""
        ...

    async def find(self, task_id: str) -> TaskRecord | None:
        """The task of that id: under way, or ended not long ago."""
        ...

    async def under_way(self) -> tuple[TaskRecord, ...]:
        """All tasks that have not ended, of all fronts, by arrival. Those of a front that is gone are left out."""
        ...

    async def preview(self, task_id: str) -> Preview | None:
        """The last preview of a task under way."""
        ...

    async def send(self, command: Command) -> bool:
        """Have a command carried out by the front that runs the task; False where there is no such task or front."""
        ...

    # --- the catalogue -------------------------------------------------------------------------------

    async def catalogue(self, upstream: str) -> Mapping[str, Any] | None:
        """What ``upstream`` last said it has; None before there ever was an answer."""
        ...

    def see(self, upstream: str, catalogue: Mapping[str, Any]) -> None:
        """Remember what ``upstream`` has. Returns at once. It is kept until there is something newer."""
        ...


def open_store(
    url: str | None,
    *,
    session_ttl: float,
    max_sessions: int,
    on_sessions: Callable[[int], object] = lambda count: None,
    on_error: Callable[[str], object] = lambda kind: None,
) -> Store:
    """The store at ``url`` (``redis://…``, ``rediss://…`` or ``unix://…``), in memory with None.

    ``on_sessions`` is told how many sessions are kept; ``on_error`` of each failure of the store, which is
    ``unreachable``, ``refused`` or ``garbage``. Raises :class:`ValueError` for a URL that is none.
    """
    # Imported here: a pod has no Redis, and does not pay for its client.
    if url is None:
        from service.state.memory import MemoryStore

        return MemoryStore(session_ttl=session_ttl, max_sessions=max_sessions, on_sessions=on_sessions)
    from service.state.redis.store import RedisStore

    return RedisStore(
        url, session_ttl=session_ttl, max_sessions=max_sessions, on_sessions=on_sessions, on_error=on_error
    )


def running(tasks: tuple[TaskRecord, ...]) -> TaskRecord | None:
    """The one on a device that was started last, if any: what A1111, which has one device, would show."""
    return max((t for t in tasks if t.phase is Phase.RUNNING), key=lambda t: t.started or 0.0, default=None)


def queued(tasks: tuple[TaskRecord, ...]) -> tuple[TaskRecord, ...]:
    """Those that wait, by arrival."""
    return tuple(task for task in tasks if task.phase is Phase.QUEUED)


def own(tasks: tuple[TaskRecord, ...], session: str | None) -> TaskRecord | None:
    """The task of ``session``: the running one that was started last, else the oldest that waits."""
    mine = tuple(task for task in tasks if session and task.session == session)
    return running(mine) or next(iter(queued(mine)), None)
