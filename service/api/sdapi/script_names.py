"""Which scripts there are, for the lists and for the check of ``script_name`` and ``alwayson_scripts``."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from service.api.sdapi.schemas import GenerationBody
from service.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Argument:
    """One of a script's positional arguments, as ``/sdapi/v1/script-info`` describes it."""

    label: str
    value: Any = None
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """A selectable script: its title in lower case, where it works, and its arguments."""

    name: str
    kinds: tuple[Literal["txt2img", "img2img"], ...]
    arguments: tuple[Argument, ...] = field(default=())


SCRIPTS: Final[list[Script]] = []
"""All selectable scripts, in the order of the lists. There are no always-on scripts."""


def find_script(name: str, kind: str) -> Script | None:
    """The script of that name (any case) for ``kind`` (txt2img or img2img)."""
    return next(
        (script for script in SCRIPTS if script.name == name.strip().lower() and kind in script.kinds), None
    )


def check_scripts(body: GenerationBody, kind: str) -> None:
    """Raise :class:`BadRequest` (422, as A1111) for scripts that the body names and that are not here."""
    if body.script_name and body.script_name != "None" and find_script(body.script_name, kind) is None:
        raise BadRequest(f"Script '{body.script_name[:100]}' not found{_known(kind)}")
    for name in body.alwayson_scripts:
        if find_script(name, kind) is not None:
            raise BadRequest(
                f"Cannot have a selectable script in the always on scripts params: send '{name[:100]}' as script_name."
            )
        raise BadRequest(f"Script '{name[:100]}' not found: there are no always-on scripts here.")


def _known(kind: str) -> str:
    names = [script.name for script in SCRIPTS if kind in script.kinds]
    return f": {kind} has {', '.join(names)}." if names else f": {kind} has no scripts here."
