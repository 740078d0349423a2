"""Who else is told of a batch: nobody, or Weights & Biases where its variables are set."""

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from service.batch.errors import BatchError
from service.batch.manifest import Line, Manifest


@dataclass(frozen=True, slots=True)
class Overrides:
    """What a run's config says against the command line: a sweep's parameters, or those of a launched job."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """A1111's fields, for all rows."""
    input: str | None = None
    limit: int | None = None
    seed: int | None = None
    folder: str = ""
    """Below ``--out``, so that runs with different parameters keep apart."""


Memory: TypeAlias = Callable[[], Awaitable[Mapping[str, float]]]
"""Asks for the device's memory in GiB (used, total)."""


class Tracker(Protocol):
    """Told of every row as soon as it is kept, and of the end."""

    overrides: Overrides

    async def row(self, lines: Sequence[Line], folder: Path, memory: Memory) -> None:
        """The lines of a row were written."""

    async def finish(self, manifest: Manifest, pages: Sequence[Path]) -> None:
        """The batch (or this shard of it) is done."""


class NoTracker:
    """Tells nobody."""

    overrides = Overrides()

    async def row(self, lines: Sequence[Line], folder: Path, memory: Memory) -> None:
        """Nothing."""

    async def finish(self, manifest: Manifest, pages: Sequence[Path]) -> None:
        """Nothing."""


_HOW: Final = frozenset(
    {
        "WANDB_ERROR_REPORTING",
        "WANDB_SILENT",
        "WANDB_DIR",
        "WANDB_CACHE_DIR",
        "WANDB_CONFIG_DIR",
        "WANDB_DATA_DIR",
    }
)
"""Variables that say how W&B behaves, and not that a run is wanted."""


def wanted() -> bool:
    """True where W&B's variables are set, and do not say that it is off."""
    off = os.environ.get("WANDB_MODE") == "disabled" or os.environ.get("WANDB_DISABLED", "").lower() in (
        "1",
        "true",
    )
    return not off and any(
        name.startswith("WANDB_") and name not in _HOW and value for name, value in os.environ.items()
    )


@contextmanager
def tracker(options: Mapping[str, Any]) -> Iterator[Tracker]:
    """The tracker that the environment asks for; ``options`` are those of the batch."""
    if not wanted():
        yield NoTracker()
        return
    try:
        from service.batch.wandb_tracking import wandb_run
    except ModuleNotFoundError as error:
        if error.name != "wandb":
            raise
        raise BatchError(
            "WANDB_… variables are set, but wandb is not installed: pip install 'knative-diffusion[batch]', or set "
            "WANDB_MODE=disabled."
        ) from None
    with wandb_run(options) as run:
        yield run
