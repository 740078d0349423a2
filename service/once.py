"""One picture on the command line: a batch of one row, written where the user says."""

import asyncio
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from service import logs
from service.batch.local import local
from service.batch.makers import RowFailed
from service.core.errors import BadRequest
from service.core.events import Progress
from service.imaging import formats
from service.settings import Settings


def generate_once(settings: Settings, body: dict[str, Any], output: Path) -> None:
    """Make one image of ``body`` (txt2img's fields) and write it to ``output``; its suffix names the format.

    Raises :class:`BadRequest`, and :class:`BatchError` where the model cannot be loaded.
    """
    kind = formats.parse_format(output.suffix.removeprefix(".") or "png")
    if not output.resolve().parent.is_dir():
        raise BadRequest(f"{output.parent} is no folder: create it, or choose another --output.")
    asyncio.run(_make(settings, body, output, kind))


async def _make(settings: Settings, body: dict[str, Any], output: Path, kind: str) -> None:
    logs.configure(settings.model_copy(update={"log_level": "ERROR"}))
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console) as bar:
        shown = bar.add_task("importing", total=None)

        def news(sentence: str) -> None:
            bar.update(shown, description=sentence.rstrip("."))

        def progress(event: Progress) -> None:
            bar.update(shown, total=event.steps, completed=event.step, description=event.stage)

        async with local(settings, news, progress) as maker:
            try:
                made = await maker.make("txt2img", {**body, "override_settings": {"samples_format": kind}})
            except RowFailed as error:
                raise BadRequest(str(error)) from None
    picture = made.pictures[0]
    await asyncio.to_thread(output.write_bytes, picture.data)
    console.print(f"{output} (seed {picture.seed})")
