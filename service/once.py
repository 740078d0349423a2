"""One image without HTTP: the same translation, engine and encoder as the service, and a progress bar."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from service.api.sdapi import translate
from service.api.sdapi.options import Options
from service.api.sdapi.schemas import Txt2ImgBody
from service.core.cancel import CancelToken
from service.core.errors import BadRequest
from service.core.events import Progress
from service.imaging import formats, infotext
from service.settings import Settings


def generate_once(settings: Settings, body: dict[str, Any], output: Path) -> None:
    """Make one image of ``body`` (txt2img's fields) and write it to ``output``; its suffix names the format."""
    kind = formats.parse_format(output.suffix.removeprefix(".") or "png")
    request = translate.txt2img(Txt2ImgBody.model_validate(body), Options(), settings)
    if not output.resolve().parent.is_dir():
        raise BadRequest(f"{output.parent} is no folder: create it, or choose another --output.")
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console) as bar:
        shown = bar.add_task("importing", total=None)
        from service.engine.engine import DiffusersEngine

        engine = DiffusersEngine(settings)

        def news(sentence: str, *, part: str | None = None, seconds: float = 0.0) -> None:
            bar.update(shown, description=sentence.rstrip("."))

        def sink(progress: Progress) -> None:
            bar.update(shown, total=progress.steps, completed=progress.step, description=progress.stage)

        engine.load(news)
        result = engine.generate(request, CancelToken(), sink)
    data = formats.encode(result.images[0], kind, infotext.compose(result, 0))
    output.write_bytes(data)
    console.print(f"{output} (seed {result.seeds[0]})")
