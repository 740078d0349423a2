"""The engine from its settings, in the order that makes a cold start short: torch, weights in a thread, the rest."""

import gc
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
    if not gc.get_freeze_count():
        # What is imported stays for good. A collection that looks at all of it stops every thread for 0.16 s.
        gc.freeze()
    return DiffusersEngine(settings, on_cache, ahead)
