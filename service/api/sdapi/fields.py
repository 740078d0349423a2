"""A1111's field types: pydantic 1's coercions, without its silent nonsense (NaN, infinities).

Old clients send ``"20"`` and ``20.7`` for integers and numbers for strings; A1111 took them all.
"""

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _integer(value: Any) -> Any:
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.lstrip("+-").isdigit() and len(text) < 20 else value
    if isinstance(value, float) and math.isfinite(value):
        return int(value)  # pydantic 1 truncated
    return value


def _string(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _strings(value: Any) -> Any:
    return [_string(item) for item in value] if isinstance(value, list | tuple) else value


Int = Annotated[int, BeforeValidator(_integer)]
Float = Annotated[float, Field(allow_inf_nan=False)]
LooseFloat = Annotated[float, Field(allow_inf_nan=True)]
"""s_tmax may be infinity in spirit: clients send 1e308."""
Str = Annotated[str, BeforeValidator(_string)]
Strings = Annotated[list[Str], BeforeValidator(_strings)]


class Lenient(BaseModel):
    """Base of A1111's request bodies: unknown fields are ignored, as clients of other servers send them."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
