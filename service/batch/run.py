"""Carries out a batch: rows that are not yet done go to a maker, a few at a time; what comes back is kept."""

import asyncio
import contextlib
import hashlib
import signal
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from service.batch import files, sheet
from service.batch.bar import Bar
from service.batch.errors import ALL_MADE, SOME_FAILED, BatchError, BatchStopped
from service.batch.makers import Made, Maker, Picture, RowFailed
from service.batch.manifest import FORMAT, PICTURES, Line, Manifest
from service.batch.pictures import PictureFolder
from service.batch.plan import Request, Shard
from service.batch.tracking import Tracker
from service.core.errors import ServiceError

T = TypeVar("T")

_WHOLE: Final = {"send_images": True, "save_images": False}
"""The pictures are sent, and kept by nobody else."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is to be done, and how."""

    folder: Path
    requests: Sequence[Request]
    shard: Shard
    pictures: PictureFolder
    places: int
    """Rows under way at once."""
    bad: Mapping[int, ServiceError]
    """Rows of which it is known that they can't be made."""
    fail_fast: bool = False
    largest_body: float = 64e6
    """Bytes that a picture of a row may have."""


class Interrupted(Exception):
    """A signal ended the batch."""

    def __init__(self, number: int) -> None:
        super().__init__(f"Stopped by {signal.Signals(number).name}.")
        self.exit_code = 128 + number


async def carry_out(batch: Batch, maker: Maker | None, manifest: Manifest, bar: Bar, tracker: Tracker) -> int:
    """Make what is not done yet (``maker`` None: nothing); the exit code. Raises :class:`BatchError` and
    :class:`Interrupted`, with what was made before kept."""
    mine = [request for request in batch.requests if batch.shard.has(request.number)]
    if maker is not None:
        await _same_model(maker, manifest)
        await _make(batch, maker, manifest, bar, tracker)
    bar.state("done")
    complete = await asyncio.to_thread(manifest.finish)
    pages: list[Path] = []
    if complete or batch.shard.count == 1:
        pages = await asyncio.to_thread(sheet.draw, batch.folder, batch.requests, list(manifest.lines()))
    await tracker.finish(manifest, pages)
    return SOME_FAILED if any(manifest.done[request.number].failed for request in mine) else ALL_MADE


async def _make(batch: Batch, maker: Maker, manifest: Manifest, bar: Bar, tracker: Tracker) -> None:
    waiting = iter(
        [one for one in batch.requests if batch.shard.has(one.number) and one.number not in manifest.done]
    )
    began = time.monotonic() - manifest.seconds
    bar.start()
    bar.state("making")
    # One writer: lines of two rows never mix, and the tracker sees one at a time.
    writing = asyncio.Lock()

    async def keep(request: Request, started: float, made: Made | RowFailed) -> list[Line]:
        lines = await asyncio.to_thread(_keep, batch.folder, request, started, made, manifest)
        await tracker.row(lines, batch.folder, maker.memory)
        return lines

    async def work() -> None:
        for request in waiting:
            started = time.monotonic() - began
            made: Made | RowFailed
            try:
                if (known := batch.bad.get(request.number)) is not None:
                    raise known
                body = await asyncio.to_thread(batch.pictures.inlined, request.body, batch.largest_body)
                made = await maker.make(request.kind, {**body, **_WHOLE})
            except RowFailed as failure:
                made = failure
            except ServiceError as error:
                made = RowFailed(error.detail, error.code)
            async with writing:
                lines = await _whole(keep(request, started, made))
            if isinstance(made, RowFailed):
                bar.say(f"Row {request.number}: {made}", bad=True)
            bar.row(sum(not line["grid"] for line in lines) if lines[0]["error"] is None else 0)
            if isinstance(made, RowFailed) and batch.fail_fast:
                raise BatchStopped(f"Stopped at row {request.number} (--fail-fast).")

    with _signals() as stop:
        try:
            async with asyncio.TaskGroup() as group:
                workers = [group.create_task(work()) for _ in range(batch.places)]
                stopper = group.create_task(_stopped(stop))
                await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
                stopper.cancel()
        except BaseExceptionGroup as group:
            for kind in (Interrupted, BatchError):
                if (ours := group.subgroup(kind)) is not None:
                    raise ours.exceptions[0] from None
            raise


async def _whole(work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` gives, waited for even when this is cancelled: files are written whole, and told of."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def _same_model(maker: Maker, manifest: Manifest) -> None:
    """Raise :class:`BatchError` where the rest would be made by another checkpoint than what is there."""
    before = manifest.models
    if not before:
        return
    now = await maker.model()
    if now and before != {now}:
        raise BatchError(
            f"{manifest.folder} has pictures by {', '.join(sorted(before))}, and this is {now}: choose another --out, "
            "or the --model that it was made with."
        )


def _keep(
    folder: Path, request: Request, started: float, made: Made | RowFailed, manifest: Manifest
) -> list[Line]:
    """Write the pictures of a row, then its lines: a line stands for files that are there."""
    if isinstance(made, RowFailed):
        lines = [_line(request, 0, 1, started, None, made)]
    else:
        began = started + made.seconds.get("queue", 0.0)
        count = len(made.pictures)
        lines = []
        for index, picture in enumerate(made.pictures):
            name = f"{PICTURES}/{_name(request, index, made.pictures)}.{picture.suffix}"
            files.write(folder / name, picture.data)
            lines.append(_line(request, index, count, began, picture, made, name))
    manifest.append(request.number, lines)
    return lines


def _name(request: Request, index: int, pictures: Sequence[Picture]) -> str:
    """``000017``, with several pictures ``000017-1`` …, for grids ``000017-grid``, ``000017-grid-2`` …"""
    grids = sum(picture.grid for picture in pictures)
    if index < grids:
        return f"{request.stem}-grid" + (f"-{index + 1}" if index else "")
    return request.stem + (f"-{index - grids + 1}" if len(pictures) - grids > 1 else "")


def _line(
    request: Request,
    index: int,
    count: int,
    began: float,
    picture: Picture | None,
    made: Made | RowFailed,
    name: str | None = None,
) -> Line:
    good = made if isinstance(made, Made) else None
    bad = made if isinstance(made, RowFailed) else None
    return {
        "format": FORMAT,
        "row": request.number,
        "index": index,
        "of": count,
        "id": request.label,
        "kind": request.kind,
        "request": dict(request.body),
        "seed": picture.seed if picture else None,
        "grid": bool(picture and picture.grid),
        "model": good.model if good else None,
        "file": name,
        "sha256": hashlib.sha256(picture.data).hexdigest() if picture else None,
        "error": str(bad) if bad else None,
        "code": bad.code if bad else None,
        "t": round(began, 4),
        "seconds": dict(good.seconds) if good else {},
    }


@contextlib.contextmanager
def _signals() -> Iterator["asyncio.Future[int]"]:
    """A future that is done when SIGTERM or SIGINT came."""
    loop = asyncio.get_running_loop()
    came: asyncio.Future[int] = loop.create_future()

    def note(number: int) -> None:
        if not came.done():
            came.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, note, number)
    try:
        yield came
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _stopped(came: "asyncio.Future[int]") -> None:
    raise Interrupted(await came)
