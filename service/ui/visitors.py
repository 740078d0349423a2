"""Who has the page open: one visitor a browser tab, with their connection, language, tasks and pictures.

State has one owner here, bounded in number and bytes. It goes when the tab is closed, and with it what the visitor
still has under way.
"""

import asyncio
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from service.ui.client import Api, Drawing, Kind, News, Problem

MOST_VISITORS: Final = 500
MOST_PICTURES: Final = 60
"""Of one visitor: the history of a session."""
MOST_BYTES: Final = 256_000_000
"""Of all pictures that are kept; the oldest leave first."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A file as the service made it. Whoever knows ``token`` may load it."""

    token: str
    content: bytes
    media_type: str
    infotext: str
    seed: int | None
    kind: str
    run: str = ""
    """The task that made it, and others with it."""
    made: float = field(default_factory=time.time)

    @property
    def name(self) -> str:
        """A file name for downloads."""
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self.made))
        seed = f"-{self.seed}" if self.seed is not None else ""
        return f"{self.kind}-{stamp}{seed}.{self.media_type.rpartition('/')[2].replace('jpeg', 'jpg')}"

    @property
    def address(self) -> str:
        """Where the page serves it, relative to the page."""
        return f"page/pictures/{self.token}/{self.name}"


class Album:
    """Pictures in memory, by token, within :data:`MOST_BYTES`."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._pictures: OrderedDict[str, Picture] = OrderedDict()
        self._bytes = 0
        self._most = most_bytes

    def put(self, picture: Picture) -> Picture:
        """Keep a file."""
        self._pictures[picture.token] = picture
        self._bytes += len(picture.content)
        while self._bytes > self._most and len(self._pictures) > 1:
            self._bytes -= len(self._pictures.popitem(last=False)[1].content)
        return picture

    def find(self, token: str) -> Picture | None:
        """The picture of ``token``, if it is still kept."""
        return self._pictures.get(token)

    def drop(self, token: str) -> None:
        """Keep it no longer."""
        if (picture := self._pictures.pop(token, None)) is not None:
            self._bytes -= len(picture.content)


@dataclass(eq=False, slots=True)
class Run:
    """A request under way."""

    task_id: str = ""
    """As the service calls it; "" before it says."""
    drawing: bool = False
    interrupted: bool = False
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def named(self, task_id: str) -> None:
        """The service has called it so."""
        self.task_id = task_id


@dataclass(eq=False)
class Visitor:
    """One open tab."""

    api: Api
    album: Album
    language: str = "en"
    options: dict[str, Any] = field(default_factory=dict)
    """What this visitor has chosen on the models tab; sent with each request."""
    runs: dict[str, Run] = field(default_factory=dict)
    """What is under way, by tab."""
    seeds: dict[str, int] = field(default_factory=dict)
    """The first seed of the last pictures, by tab."""
    history: deque[Picture] = field(default_factory=deque)
    problems: deque[tuple[float, str, str]] = field(default_factory=lambda: deque(maxlen=8))

    def remember(self, problem: Problem) -> None:
        """Note what went wrong, for the fleet tab."""
        self.problems.appendleft((time.time(), problem.code, problem.detail))

    async def draw(self, run: Run, kind: Kind, body: dict[str, Any]) -> AsyncIterator[News]:
        """The news of a request of this visitor; ends early, and cancels it, when ``run`` is stopped."""
        news = self.api.draw(kind, body, run.named)
        stopping = asyncio.ensure_future(run.stop.wait())
        try:
            while True:
                step = asyncio.ensure_future(anext(news, None))
                await asyncio.wait({step, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    step.cancel()
                    await asyncio.wait({step})
                    return
                said = step.result()
                if said is None:
                    return
                run.drawing = isinstance(said, Drawing)
                yield said
        finally:
            stopping.cancel()
            await news.aclose()  # type: ignore[attr-defined]

    async def interrupt(self, tab: str) -> None:
        """Stop what runs in ``tab``. What is drawn so far comes back; what waits is given up at once."""
        if (run := self.runs.get(tab)) is None:
            return
        run.interrupted = True
        if run.drawing and run.task_id:
            await self.api.interrupt(run.task_id)
        else:
            run.stop.set()

    async def skip(self, tab: str) -> None:
        """Go on with the next batch of what runs in ``tab``."""
        run = self.runs.get(tab)
        if run is not None and run.drawing and run.task_id:
            await self.api.skip(run.task_id)

    def keep(
        self, content: bytes, media_type: str, infotext: str, seed: int | None, kind: str, run: str
    ) -> Picture:
        """Add a picture to the history."""
        token = secrets.token_urlsafe(18)
        picture = self.album.put(Picture(token, content, media_type, infotext, seed, kind, run))
        self.history.appendleft(picture)
        while len(self.history) > MOST_PICTURES:
            self.album.drop(self.history.pop().token)
        return picture

    @property
    def kept(self) -> list[Picture]:
        """The history, newest first, without those that had to make room."""
        return [picture for picture in self.history if self.album.find(picture.token)]

    async def leave(self) -> None:
        """The tab was closed: cancel what runs and forget the pictures."""
        for run in self.runs.values():
            run.stop.set()
        for picture in self.history:
            self.album.drop(picture.token)
        self.history.clear()
        await asyncio.sleep(0.1)  # for the streams, to be closed by those who read them
        await self.api.close()


class Visitors:
    """All open tabs, by the session that Gradio gives each."""

    def __init__(self, url: str) -> None:
        self.album = Album()
        self._url = url
        self._visitors: OrderedDict[str, Visitor] = OrderedDict()
        self._leaving: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Visitor]:
        return iter(tuple(self._visitors.values()))

    def of(self, session: str, authorization: str | None) -> Visitor:
        """The visitor of ``session``, made at their first question."""
        visitor = self._visitors.get(session)
        if visitor is None:
            visitor = self._visitors[session] = Visitor(Api(self._url, authorization), self.album)
            while len(self._visitors) > MOST_VISITORS:
                self._dismiss(self._visitors.popitem(last=False)[1])
        self._visitors.move_to_end(session)
        return visitor

    def leave(self, session: str) -> None:
        """The tab of ``session`` is closed."""
        if (visitor := self._visitors.pop(session, None)) is not None:
            self._dismiss(visitor)

    def _dismiss(self, visitor: Visitor) -> None:
        task = asyncio.get_running_loop().create_task(visitor.leave())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """The page ends."""
        for session in tuple(self._visitors):
            self.leave(session)
        await asyncio.gather(*self._leaving)
