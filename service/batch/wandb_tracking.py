"""A batch as a run of Weights & Biases: config, pictures with captions, a table, throughput, memory, an artifact.

The config of the run can say against the command line what is made: the parameters of a sweep, or what somebody wrote
into a launched job. ``wandb`` is imported here and nowhere else.
"""

import asyncio
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import wandb

from service.batch import sheet
from service.batch.errors import BatchError
from service.batch.manifest import WHOLE, Line, Manifest
from service.batch.rows import FIELDS, OVERRIDES, canonical
from service.batch.run import Interrupted
from service.batch.tracking import Memory, Overrides

_OWN: Final = ("input", "limit", "seed_from")
"""Keys of the config that are the batch's own: its INPUT, --limit and --seed."""

OPTIONS: Final = "batch"
"""Where the config notes the options of the command."""


def overrides(config: Mapping[str, Any], run_id: str) -> Overrides:
    """What a run's ``config`` says of the batch; other keys are left alone. Raises :class:`BatchError`."""
    fields: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for key, value in config.items():
        if value is None:
            continue
        if key.startswith(OVERRIDES + "."):
            options[key.removeprefix(OVERRIDES + ".")] = value
        elif key in FIELDS:
            fields[key] = value
    if options:
        fields[OVERRIDES] = {**(fields.get(OVERRIDES) or {}), **options}
    numbers: dict[str, int] = {}
    for key, least in (("limit", 1), ("seed_from", 0)):
        if (value := config.get(key)) is not None:
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise BatchError(
                    f"The run's config has {key} {value!r}, but it must be a whole number from {least} on."
                )
            numbers[key] = value
    source = config.get("input")
    changed = bool(fields or numbers or source)
    return Overrides(
        fields,
        None if source is None else str(source),
        numbers.get("limit"),
        numbers.get("seed_from"),
        run_id if changed else "",
    )


@contextmanager
def wandb_run(options: Mapping[str, Any]) -> Iterator["WandbTracker"]:
    """A run for a batch with ``options``. W&B's own variables choose project, entity, mode and id."""
    try:
        run = wandb.init(
            job_type="batch",
            config={OPTIONS: dict(options)},
            # A launched job that was preempted comes back under its old id.
            resume="allow"
            if os.environ.get("WANDB_RUN_ID") and os.environ.get("WANDB_MODE") != "offline"
            else None,
            settings=wandb.Settings(x_disable_stats=False, console="off"),
        )
    except wandb.Error as error:
        raise BatchError(
            f"W&B can't be used: {error} Set WANDB_MODE=offline or disabled to go without it."
        ) from None
    code = 1
    try:
        yield WandbTracker(run)
        code = 0
    except Interrupted as error:
        # A sweep or a queue that knows of preemption starts it again.
        run.mark_preempting()
        code = error.exit_code
        raise
    finally:
        run.finish(exit_code=code)


class WandbTracker:
    """Logs rows as they are made, and at the end the table and the manifest of the whole batch."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self._began: float | None = None
        self._rows = self._pictures = self._failed = 0
        self.overrides = overrides(dict(run.config), run.id)

    async def row(self, lines: Sequence[Line], folder: Path, memory: Memory) -> None:
        """Log the pictures of a row with its caption, its seconds, the pace since the start, and the memory."""
        used = {f"gpu_memory_{name}_gib": gib for name, gib in (await memory()).items()}
        await asyncio.to_thread(self._row, lines, folder, used)

    def _row(self, lines: Sequence[Line], folder: Path, memory: Mapping[str, float]) -> None:
        now = time.monotonic()
        first = lines[0]
        seconds = float(first["seconds"].get("total", 0.0))
        self._began = self._began if self._began is not None else now - seconds
        self._rows += 1
        self._failed += first["error"] is not None
        pictures = [line for line in lines if line["file"]]
        self._pictures += len(pictures)
        logged: dict[str, Any] = {
            "row": first["row"],
            "seconds": seconds,
            "failed": self._failed,
            "pictures": self._pictures,
            "pictures_per_minute": 60 * self._pictures / max(1e-9, now - self._began),
            **memory,
        }
        if pictures:
            logged["picture"] = [
                wandb.Image(str(folder / line["file"]), caption=_caption(line)) for line in pictures
            ]
        self._run.log(logged)

    async def finish(self, manifest: Manifest, pages: Sequence[Path]) -> None:
        """Log the table (prompt and parameters, picture, seconds), the contact sheet, and the manifest."""
        await asyncio.to_thread(self._finish, manifest, pages)

    def _finish(self, manifest: Manifest, pages: Sequence[Path]) -> None:
        path = manifest.folder / WHOLE if (manifest.folder / WHOLE).is_file() else manifest.path
        lines = list(manifest.lines(path))
        fields = _fields(lines)
        table = wandb.Table(columns=["row", *fields, "seed", "picture", "seconds", "error"])
        for line in lines:
            picture = wandb.Image(str(manifest.folder / line["file"])) if line["file"] else None
            told = [_cell(line["request"].get(name)) for name in fields]
            table.add_data(
                line["row"], *told, line["seed"], picture, line["seconds"].get("total"), line["error"]
            )
        logged: dict[str, Any] = {"rows": table}
        if pages:
            logged["contact_sheet"] = [wandb.Image(str(page)) for page in pages]
        self._run.log(logged)
        artifact = wandb.Artifact(f"batch-{self._run.id}", type="batch-manifest")
        for file in (path, *pages):
            artifact.add_file(str(file), name=file.name)
        self._run.log_artifact(artifact)
        failed = {line["row"] for line in lines if line["error"]}
        self._run.summary.update(
            {
                "rows_total": len({line["row"] for line in lines}),
                "rows_failed": len(failed),
                "pictures_total": sum(line["file"] is not None for line in lines),
                "mean_seconds": sum(line["seconds"].get("total", 0.0) for line in lines if line["index"] == 0)
                / max(1, len({line["row"] for line in lines}) - len(failed)),
            }
        )


def _fields(lines: Sequence[Line]) -> list[str]:
    """The columns of the table: every field that a row sets, the prompt first."""
    names = dict.fromkeys(name for line in lines for name in line["request"])
    order = [name for name in ("prompt", "negative_prompt") if name in names]
    return order + [name for name in names if name not in (*order, "seed", "subseed")]


def _cell(value: Any) -> Any:
    """W&B's tables want one type a column: lists and objects as text."""
    return value if value is None or isinstance(value, str | int | float) else canonical(value)


def _caption(line: Line) -> str:
    return sheet.caption(line, [name for name in line["request"] if name != "subseed"])[:1000]
