"""A1111's field types: pydantic 1's coercions, without its silent nonsense (NaN, infinities, numbers without end).

Old clients send ``"20"`` and ``20.7`` for integers and numbers for strings; A1111 took them all.
"""

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from service.api import values


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


def _sound(text: str) -> str:
    if not values.is_text(text):
        raise ValueError("a lone surrogate is no character")
    return text


Int = Annotated[int, BeforeValidator(_integer), Field(ge=values.SMALLEST_INT, le=values.LARGEST_INT)]
Float = Annotated[float, Field(allow_inf_nan=False)]
Str = Annotated[str, BeforeValidator(_string), Field(max_length=values.LONGEST_TEXT), AfterValidator(_sound)]
Picture = Annotated[str, BeforeValidator(_string)]
"""An image as base64, or its address; the body's own limit bounds it."""
Strings = Annotated[list[Str], BeforeValidator(_strings), Field(max_length=1000)]
TaskId = Annotated[
    Str,
    Field(
        max_length=200,
        pattern=r"^([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?$",
        description="Comes back in the header X-Task-Id: printable ASCII.",
    ),
]


class Lenient(BaseModel):
    """Base of A1111's request bodies: unknown fields are ignored, as clients of other servers send them."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
