"""The engine from its settings, in the order that makes a cold start short: torch, weights in a thread, the rest."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from service.engine import device
from service.engine.weights.ahead import ReadAhead
from service.settings import Settings

if TYPE_CHECKING:
    from service.engine.engine import DiffusersEngine


def start(settings: Settings, on_cache: Callable[[str, bool], None] | None = None) -> "DiffusersEngine":
    """An engine to be loaded. Raises :class:`ModelLoadError` where the device is not what the settings say."""
    ahead = ReadAhead(Path(settings.model).expanduser(), device.choose(settings))
    try:
        from service.engine.engine import DiffusersEngine
    except BaseException:
        ahead.close()
        raise
    return DiffusersEngine(settings, on_cache, ahead)
