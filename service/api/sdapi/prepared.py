"""A request for images made ready: what is to run, how its images are finished, and what its answer says.

No HTTP and no device: the same for A1111's routes, the native ones, the command line and batch jobs. It decodes
pictures and plans scripts, so it belongs into a lane and not on the event loop.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from service.api.sdapi import img2img, pasting, translate
from service.api.sdapi.options import Options, checked
from service.api.sdapi.schemas import GenerationBody, Img2ImgBody, Txt2ImgBody
from service.api.sdapi.script_names import check_scripts, plan_script
from service.api.sdapi.scripts.series import Composed, ScriptPlan
from service.api.sdapi.styles import StyleBook
from service.catalogue.catalogue import Catalogue
from service.core.budget import Claim
from service.core.errors import BadRequest
from service.core.generation import GenerationRequest, GenerationResult
from service.core.jobs import Generate, Series
from service.core.pixels import Pixels
from service.imaging import formats
from service.imaging.formats import Encoding
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Prepared:
    """One request for images. ``body`` is echoed as its parameters; ``extra`` are infotext entries, in order."""

    kind: str
    body: GenerationBody
    options: Options
    encoding: Encoding
    generation: GenerationRequest
    script: ScriptPlan | None = None
    finish: Callable[[Pixels, int], Pixels] | None = None
    """Turns each image (and its index) into the one to send."""
    beside: Callable[[Pixels, int], Sequence[Pixels]] | None = None
    """What is sent after each image (made, its index) without an infotext: masks."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    """Sentences for the client."""
    kept: Mapping[str, Any] | None = None
    """Options that the client wants to outlive the request."""

    @property
    def job(self) -> Generate | Series:
        """What the device is asked for."""
        return Generate(self.generation) if self.script is None else self.script.job

    def compose(self, results: Sequence[GenerationResult]) -> Composed:
        """The images to send, of all results that there are."""
        composed = Composed((), tuple(results)) if self.script is None else self.script.compose(results)
        if self.finish is None:
            return composed
        beside = self.beside
        if beside is not None:
            more = [tuple(beside(image, n) for n, image in enumerate(one.images)) for one in composed.results]
            composed = replace(composed, beside=tuple(each for one in more for each in one))
        return replace(composed, results=tuple(_finished(one, self.finish) for one in composed.results))

    def nothing(self, catalogue: Catalogue) -> GenerationResult:
        """What is answered to a request that was interrupted before its first step: 200 without images, as A1111."""
        name = self.generation.checkpoint
        model = catalogue.find(name) if name else catalogue.default
        return GenerationResult(
            (), self.generation, (), (), model.name, model.short_hash or "", model.title, interrupted=True
        )


def _finished(result: GenerationResult, finish: Callable[[Pixels, int], Pixels]) -> GenerationResult:
    return replace(result, images=tuple(finish(image, index) for index, image in enumerate(result.images)))


def prepare(
    body: GenerationBody,
    layers: Sequence[Mapping[str, Any]],
    settings: Settings,
    catalogue: Catalogue,
    styles: StyleBook,
    claim: Claim | None = None,
) -> Prepared:
    """What ``body`` means over the options in ``layers`` (process-wide, then the session's).

    ``claim`` is the memory that its pictures may take. Seeds are fixed, names are the catalogue's and limits are
    checked. Raises :class:`BadRequest`.
    """
    kind = "img2img" if isinstance(body, Img2ImgBody) else "txt2img"
    check_scripts(body, kind)
    body, remarks = pasting.fill(body, catalogue.title_of)
    overrides = checked(body.override_settings or {})
    options = Options(*layers, overrides)
    chosen = options.text("sd_model_checkpoint")
    if chosen and "sd_model_checkpoint" not in overrides and catalogue.title_of(chosen) is None:
        # Somebody set it once, and its file is gone: that must not stand in everybody's way.
        remarks.append(f"The checkpoint that was chosen is not here any more: {chosen}")
        options = Options(*layers, overrides, {"sd_model_checkpoint": catalogue.default.title})
    if body.restore_faces or (body.restore_faces is None and options.flag("face_restoration")):
        remarks.append("restore_faces was ignored: there is no face restorer here.")
    if missing := styles.missing(body.styles or ()):
        remarks.append(f"Styles not found: {', '.join(missing)}")
    encoding = encoding_of(options)
    finish, beside, extra, echo = None, None, {}, body
    if isinstance(body, Img2ImgBody):
        generation, plan = img2img.prepare(body, options, settings, styles, claim)
        finish, extra = plan.finish, dict(plan.infotext)
        with_mask, with_composite = options.flag("return_mask"), options.flag("return_mask_composite")
        if plan.shown_mask is not None and (with_mask or with_composite):
            beside = partial(plan.beside, mask=with_mask, composite=with_composite)
        remarks += [plan.comment] if plan.comment else []
        if not body.include_init_images:
            echo = body.model_copy(update={"init_images": None, "mask": None})
    elif isinstance(body, Txt2ImgBody):
        generation = translate.txt2img(body, options, settings, styles)
    else:
        raise BadRequest("A request for images is one of txt2img or img2img.")
    generation = catalogue.named(generation)
    script = plan_script(body, generation, kind, catalogue, settings, styles)
    return Prepared(
        kind,
        echo,
        options,
        encoding,
        generation,
        script,
        finish,
        beside,
        {**extra, **script.extra} if script else extra,
        tuple(remarks),
        overrides if overrides and body.override_settings_restore_afterwards is False else None,
    )


def encoding_of(options: Options) -> Encoding:
    """How the options say that images are written. Raises :class:`BadRequest` for an unknown format."""
    return Encoding(
        format=formats.parse_format(options.text("samples_format")),
        quality=options.integer("jpeg_quality"),
        lossless=options.flag("webp_lossless"),
        embed_infotext=options.flag("enable_pnginfo"),
    )
