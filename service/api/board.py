"""What is under way, for everybody who asks: this process' tasks, and with a shared store those of all fronts.

A task of this process is told as it is now, its preview encoded when somebody asks. With a shared store it is also
told to the others, and what they tell is answered here.
"""

import asyncio
import base64
from dataclasses import replace
from typing import NamedTuple

from service.api.lanes import Lanes
from service.core.events import Progress, TaskEvent
from service.core.tasks import Phase, Task, TaskRegistry
from service.imaging.preview import PreviewFormat, make_preview
from service.state.store import Action, Command, Store, TaskRecord
from service.state.store import Preview as StoredPreview


class Shown(NamedTuple):
    """A preview as it is answered."""

    base64: str
    media_type: str


class Board:
    """Tasks by id, by session, and all of them. ``shared``: the store is one that other fronts read too."""

    def __init__(self, tasks: TaskRegistry, store: Store, lanes: Lanes, *, shared: bool) -> None:
        self._tasks = tasks
        self._store = store
        self._lanes = lanes
        self._shared = shared
        self._encoding: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Carry out what other fronts ask of our tasks from now on."""
        await self._store.start(self._obey)

    async def claim(self, task: Task, task_id: str = "") -> None:
        """Make ``task`` known, under the id that its client chose ("": our own). Raises :class:`BadRequest`."""
        self._tasks.claim(task, task_id)
        if self._shared:
            await self._store.open(TaskRecord.of(task))
            task.listen(lambda event: self._tell(task, event))

    def close(self, task: Task) -> None:
        """``task`` has ended, as its outcome says."""
        if self._shared and task.phase is not Phase.ARRIVED:
            self._store.finish(replace(TaskRecord.of(task), phase=Phase.DONE))
        self._tasks.close(task)

    def _tell(self, task: Task, event: TaskEvent) -> None:
        if not isinstance(event, Progress) or event.preview is None:
            self._store.tell(TaskRecord.of(task))
        elif task.id not in self._encoding:  # else that one goes on with it
            self._encoding[task.id] = asyncio.get_running_loop().create_task(self._tell_previews(task))

    async def _tell_previews(self, task: Task) -> None:
        """The preview that there is now, then the last of those that came meanwhile, until there is none."""
        told = 0
        try:
            while (now := task.progress) is not None and now.preview is not None and task.preview_id != told:
                told = task.preview_id
                made = await self._lanes.run(None, make_preview, now.preview)
                if task.phase is Phase.DONE:
                    return
                preview = StoredPreview(made.media_type, base64.b64decode(made.base64))
                self._store.tell(TaskRecord.of(task), preview)
        finally:
            del self._encoding[task.id]

    async def find(self, task_id: str) -> TaskRecord | None:
        """The task of that id: under way, or ended not long ago."""
        if (task := self._tasks.find(task_id)) is not None:
            return TaskRecord.of(task)
        return await self._store.find(task_id) if self._shared else None

    async def under_way(self) -> tuple[TaskRecord, ...]:
        """All that wait, run or are being encoded, by arrival."""
        here = {task.id: TaskRecord.of(task) for task in self._tasks if task.phase is not Phase.ARRIVED}
        if not self._shared:
            return tuple(here.values())
        everywhere = {record.id: record for record in await self._store.under_way()} | here
        return tuple(sorted(everywhere.values(), key=lambda record: record.arrived))

    async def preview(self, record: TaskRecord, kind: PreviewFormat) -> Shown | None:
        """The last preview, encoded once however many watch; one of another front is of the kind that it chose."""
        task = self._tasks.find(record.id)
        if task is None:
            kept = await self._store.preview(record.id) if self._shared else None
            return Shown(base64.b64encode(kept.data).decode(), kept.media_type) if kept else None
        pixels = task.progress.preview if task.progress is not None else None
        if pixels is None:
            return None
        number = task.preview_id
        if task.shown is None or task.shown[:2] != (number, f"image/{kind}"):
            made = await self._lanes.run(None, make_preview, pixels, kind)
            task.shown = (number, made.media_type, made.base64)
        return Shown(task.shown[2], task.shown[1])

    async def command(self, record: TaskRecord, action: Action) -> None:
        """Have ``action`` done to a task, here or at the front that runs it."""
        if self._tasks.find(record.id) is not None or not self._shared:
            self._obey(Command(action, record.id))
        else:
            await self._store.send(Command(action, record.id))

    def _obey(self, command: Command) -> None:
        task = self._tasks.find(command.task_id)
        if task is None:
            return
        if command.action == "interrupt":
            task.token.cancel("interrupt")
        elif task.phase is Phase.RUNNING:
            task.token.skip()
