"""How durations are written, on the command line and in scenarios: ``90``, ``250ms``, ``1.5m``, ``1h30m``."""

import re
from typing import Final

_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}

AS_IN: Final = "write seconds or units, as in 90, 250ms, 1.5m or 1h30m"


def in_seconds(text: str) -> float:
    """``text`` as seconds. Raises :class:`ValueError` that says how to write it."""
    total, position = 0.0, 0
    stripped = text.strip()
    for match in _PART.finditer(stripped):
        if match.start() != position:
            break
        total += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if not stripped or position != len(stripped):
        raise ValueError(f"{text!r} is no duration: {AS_IN}")
    return total
