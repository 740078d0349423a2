"""What is settled before a request for images is translated: infotext, scripts, options, and the names it uses."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from fastapi import Request

from service.api.sdapi import pasting
from service.api.sdapi.options import Options, checked
from service.api.sdapi.schemas import GenerationBody
from service.api.sdapi.script_names import check_scripts
from service.backends.engine import Engine
from service.catalogue.upscalers import LATENT_MODES
from service.context import Context
from service.core.errors import UnknownName
from service.core.generation import GenerationRequest

Body = TypeVar("Body", bound=GenerationBody)

SESSION = "sd.session"
"""Where ``middleware.session`` leaves the id that the client sent."""


def session_of(request: Request) -> str | None:
    """The session of the client; None for one that sent no cookie."""
    found = request.scope.get(SESSION)
    return found if isinstance(found, str) else None


@dataclass(frozen=True, slots=True)
class Settled(Generic[Body]):
    """A body with everything filled in, the options that hold for it, and remarks for its client."""

    body: Body
    options: Options
    remarks: tuple[str, ...] = ()


def settle(body: Body, request: Request, context: Context, kind: str) -> Settled[Body]:
    """Settle ``body`` of ``kind`` (txt2img, img2img). Raises :class:`BadRequest` for scripts and options that cannot
    be, and what the lifecycle says while there is no engine."""
    check_scripts(body, kind)
    engine = context.backend.engine
    body, remarks = pasting.fill(body, lambda name: title_of(engine, name))
    overrides = checked(body.override_settings or {})
    options = context.options_of(session_of(request), overrides)
    if body.restore_faces or (body.restore_faces is None and options.flag("face_restoration")):
        remarks.append("restore_faces was ignored: there is no face restorer here.")
    if missing := context.styles.missing(body.styles or ()):
        remarks.append(f"Styles not found: {', '.join(missing)}")
    return Settled(body, options, tuple(remarks))


def keep_overrides(body: GenerationBody, request: Request, context: Context) -> None:
    """Where the client asked that ``override_settings`` outlive the request, make them its options."""
    if body.override_settings and body.override_settings_restore_afterwards is False:
        context.set_options(session_of(request), checked(body.override_settings))


def title_of(engine: Engine, name: str) -> str | None:
    """The title of a checkpoint by any of its names; None if there is none."""
    try:
        return engine.find(name).title
    except UnknownName:
        return None


def check_names(request: GenerationRequest, engine: Engine) -> GenerationRequest:
    """``request`` with titles for the checkpoints it names. Raises :class:`UnknownName` before anything is queued."""
    hires = request.hires
    if hires is not None:
        if hires.upscaler not in LATENT_MODES:
            check_upscaler(engine, hires.upscaler, LATENT_MODES)
        hires = replace(hires, checkpoint=_named(hires.checkpoint, _loosely(engine)))
    check_vae(engine, request.vae)
    return replace(
        request,
        checkpoint=_named(request.checkpoint, lambda name: engine.find(name).title),
        refiner_checkpoint=_named(request.refiner_checkpoint, _loosely(engine)),
        hires=hires,
    )


def check_vae(engine: Engine, name: str | None) -> None:
    """Raise :class:`UnknownName` unless ``name`` (None: the checkpoint's own) is a VAE of the engine."""
    names = [vae.name for vae in engine.vaes()]
    if name is not None and name not in names:
        raise UnknownName(
            f"There is no VAE {name!r}. Use one of: {', '.join(['Automatic', 'None', *names])}."
        )


def check_upscaler(engine: Engine, name: str, also: tuple[str, ...] = ()) -> None:
    """Raise :class:`UnknownName` unless ``name`` is an upscaler of the engine."""
    names = [upscaler.name for upscaler in engine.upscalers()]
    if name not in names:
        raise UnknownName(f"There is no upscaler {name!r}. Use one of: {', '.join((*also, *names))}.")


def _named(name: str | None, find: Callable[[str], str]) -> str | None:
    return None if name is None else find(name)


def _loosely(engine: Engine) -> Callable[[str], str]:
    """For refiner and second pass A1111 takes a part of a title too."""

    def find(name: str) -> str:
        try:
            return engine.find(name).title
        except UnknownName:
            for info in engine.checkpoints():
                if name.lower() in info.title.lower():
                    return info.title
            raise

    return find
