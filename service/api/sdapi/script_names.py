"""Which scripts there are: for the lists, for the check of ``script_name``, and to run the one that is named."""

from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from service.api.sdapi.schemas import GenerationBody
from service.api.sdapi.scripts import prompt_matrix, sd_upscale, xyz_plot
from service.api.sdapi.scripts.arguments import Arguments
from service.api.sdapi.scripts.axes import axes_for
from service.api.sdapi.scripts.series import ScriptPlan
from service.api.sdapi.styles import StyleBook
from service.catalogue.catalogue import Catalogue
from service.core.errors import BadRequest
from service.core.generation import GenerationRequest
from service.settings import Settings


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


SCRIPTS: Final[list[Script]] = [
    Script(
        prompt_matrix.NAME,
        ("txt2img", "img2img"),
        (
            Argument("Put variable parts at start of prompt", False),
            Argument("Use different seed for each picture", False),
            Argument("Select prompt", "positive", choices=("positive", "negative")),
            Argument("Select joining char", "comma", choices=("comma", "space")),
            Argument("Grid margins (px)", 0, 0, 500, 2),
        ),
    ),
    Script(
        sd_upscale.NAME,
        ("img2img",),
        (
            Argument("", ""),
            Argument("Tile overlap", 64, 0, 256, 16),
            Argument("Upscaler", "None"),
            Argument("Scale Factor", 2.0, 1.0, 4.0, 0.05),
        ),
    ),
    Script(
        xyz_plot.NAME,
        ("txt2img", "img2img"),
        (
            *(
                Argument(f"{axis} {what}", value, choices=choices)
                for axis in "XYZ"
                for what, value, choices in (
                    ("type", "Seed" if axis == "X" else "Nothing", ()),
                    ("values", "", None),
                    ("values", None, ()),
                )
            ),
            Argument("Draw legend", True),
            Argument("Include Sub Images", False),
            Argument("Include Sub Grids", False),
            Argument("Keep -1 for seeds", False),
            Argument("Vary seeds for X", False),
            Argument("Vary seeds for Y", False),
            Argument("Vary seeds for Z", False),
            Argument("Grid margins (px)", 0, 0, 500, 2),
            Argument("Use text inputs instead of dropdowns", False),
        ),
    ),
]
"""All selectable scripts, in the order of the lists. There are no always-on scripts."""


def described(script: Script, kind: str, catalogue: Catalogue, styles: StyleBook) -> list[Argument]:
    """The arguments of ``script``, with the axes and the upscalers that ``kind`` can choose from here."""
    axes = tuple(axis.label for axis in axes_for(kind, styles) if axis.apply or axis.label == "Nothing")
    upscalers = tuple(upscaler.name for upscaler in catalogue.upscalers)
    choices = {"X type": axes, "Y type": axes, "Z type": axes, "Upscaler": upscalers}
    return [replace(one, choices=choices.get(one.label, one.choices)) for one in script.arguments]


def plan_script(
    body: GenerationBody,
    request: GenerationRequest,
    kind: str,
    catalogue: Catalogue,
    settings: Settings,
    styles: StyleBook,
) -> ScriptPlan | None:
    """What the script that ``body`` names makes of ``request``; None where it names none. Raises BadRequest."""
    name = (body.script_name or "").strip().lower()
    arguments = Arguments(name, body.script_args)
    if name == prompt_matrix.NAME:
        planned = prompt_matrix.plan(request, arguments, settings)
    elif name == sd_upscale.NAME:
        names = [upscaler.name for upscaler in catalogue.upscalers]
        planned = sd_upscale.plan(request, arguments, names, settings)
    elif name == xyz_plot.NAME:
        any_seed = body.seed in (None, -1)
        planned = xyz_plot.plan(request, arguments, kind, settings, styles, any_seed=any_seed)
    else:
        return None
    named = tuple(catalogue.named(one) for one in planned.job.requests)
    return replace(planned, job=replace(planned.job, requests=named)).checked(settings)


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
