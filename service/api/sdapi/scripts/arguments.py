"""``script_args``: positional, loosely typed, and often fewer than there are."""

from collections.abc import Sequence
from typing import Any, TypeVar

from service.core.errors import BadRequest

T = TypeVar("T", str, int, float)


class Arguments:
    """The arguments of a script by position, with defaults for those left out or null."""

    def __init__(self, script: str, values: Sequence[Any]) -> None:
        self._script = script
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def raw(self, position: int) -> Any:
        """The argument as it came; None where there is none."""
        return self._values[position] if position < len(self._values) else None

    def flag(self, position: int, default: bool) -> bool:
        """A boolean; "True" and "false" are taken, as clients send them."""
        value = self.raw(position)
        if isinstance(value, str):
            return value.strip().lower() in ("true", "1", "yes", "on")
        return default if value is None else bool(value)

    def number(self, position: int, name: str, default: float, low: float, high: float) -> float:
        """A number from ``low`` to ``high``. Raises :class:`BadRequest`."""
        value = self.raw(position)
        try:
            number = default if value in (None, "") else float(value)
        except (TypeError, ValueError):
            raise BadRequest(f"{self._script}: {name} (script_args[{position}]) must be a number.") from None
        if not low <= number <= high:
            raise BadRequest(
                f"{self._script}: {name} (script_args[{position}]) is {number:g}, but must be from {low:g} to {high:g}."
            )
        return number

    def text(self, position: int, default: str = "") -> str:
        """A string."""
        value = self.raw(position)
        return default if value is None else str(value)

    def choice(self, position: int, name: str, choices: Sequence[str], default: str) -> str:
        """One of ``choices``, by name (any case) or by index. Raises :class:`BadRequest`."""
        value = self.raw(position)
        if value in (None, ""):
            return default
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= int(value) < len(choices):
            return choices[int(value)]
        found = next((choice for choice in choices if choice.lower() == str(value).strip().lower()), None)
        if found is None:
            raise BadRequest(
                f"{self._script}: {name} (script_args[{position}]) is {str(value)[:60]!r}; "
                f"choose one of {', '.join(choices)}."
            )
        return found
