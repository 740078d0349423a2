"""What there is to choose from: samplers, checkpoints, upscalers … Nothing is listed that does not work."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from service.api.problems import json_response
from service.api.sdapi.script_names import SCRIPTS, described
from service.catalogue import samplers
from service.catalogue.upscalers import LATENT_MODES
from service.context import Context, get_context
from service.core.records import EmbeddingInfo

router = APIRouter(prefix="/sdapi/v1", tags=["A1111"])

ContextDep = Annotated[Context, Depends(get_context)]


class _Item(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class SamplerItem(_Item):
    """A sampler; the values of ``options`` are strings, as A1111 sends them."""

    name: str
    aliases: list[str]
    options: dict[str, str]


class SchedulerItem(_Item):
    """A scheduler."""

    name: str
    label: str
    aliases: list[str] | None
    default_rho: float
    need_inner_model: bool


class UpscalerItem(_Item):
    """An upscaler of images."""

    name: str
    model_name: str | None
    model_path: str | None
    model_url: str | None
    scale: float | None


class NameItem(_Item):
    """A name."""

    name: str


class CheckpointItem(_Item):
    """A checkpoint; clients send ``title`` back as ``sd_model_checkpoint``."""

    title: str
    model_name: str
    hash: str | None
    sha256: str | None
    filename: str
    config: str | None


class VaeItem(_Item):
    """A VAE; clients send ``model_name`` back as ``sd_vae``."""

    model_name: str
    filename: str


class LoraItem(_Item):
    """A LoRA network, for ``<lora:name:1>``."""

    name: str
    alias: str
    path: str
    metadata: dict[str, Any]


class StyleItem(_Item):
    """A prompt style."""

    name: str
    prompt: str | None
    negative_prompt: str | None


class PathItem(_Item):
    """A file."""

    name: str
    path: str | None = None


class FaceRestorerItem(_Item):
    """A face restorer."""

    name: str
    cmd_dir: str | None = None


class RealesrganItem(_Item):
    """A Real-ESRGAN network."""

    name: str
    path: str | None
    scale: int | None


class EmbeddingItem(_Item):
    """A textual inversion."""

    step: int | None
    sd_checkpoint: str | None
    sd_checkpoint_name: str | None
    shape: int
    vectors: int


class EmbeddingsAnswer(_Item):
    """Textual inversions by name: those that the checkpoint can use, and the others."""

    loaded: dict[str, EmbeddingItem]
    skipped: dict[str, EmbeddingItem]


class ScriptsAnswer(_Item):
    """Titles of scripts, in lower case."""

    txt2img: list[str]
    img2img: list[str]


class ArgumentItem(_Item):
    """A positional argument of a script."""

    label: str | None
    value: Any | None
    minimum: Any | None
    maximum: Any | None
    step: Any | None
    choices: list[str] | None


class ScriptItem(_Item):
    """A script."""

    name: str
    is_alwayson: bool
    is_img2img: bool
    args: list[ArgumentItem]


class ExtensionItem(_Item):
    """An extension."""

    name: str
    remote: str
    branch: str
    commit_hash: str
    version: str
    commit_date: int | None
    enabled: bool


@router.get("/samplers", response_model=list[SamplerItem], summary="Samplers")
async def get_samplers() -> Response:
    """All samplers, in A1111's order."""
    return json_response(
        [{"name": s.name, "aliases": list(s.aliases), "options": s.options} for s in samplers.SAMPLERS]
    )


@router.get("/schedulers", response_model=list[SchedulerItem], summary="Schedulers")
async def get_schedulers() -> Response:
    """All schedulers; a request may name one by name or label."""
    return json_response(
        [
            {
                "name": s.name,
                "label": s.label,
                "aliases": list(s.aliases) or None,
                "default_rho": s.default_rho,
                "need_inner_model": s.need_inner_model,
            }
            for s in samplers.SCHEDULERS
        ]
    )


@router.get("/upscalers", response_model=list[UpscalerItem], summary="Upscalers of images")
async def get_upscalers(context: ContextDep) -> Response:
    """Built-in filters, then networks of the models folder. The first is "None"."""
    return json_response(
        [
            {
                "name": upscaler.name,
                "model_name": upscaler.model_name,
                "model_path": upscaler.filename,
                "model_url": None,
                "scale": upscaler.scale,
            }
            for upscaler in context.backend.catalogue.upscalers
        ]
    )


@router.get("/latent-upscale-modes", response_model=list[NameItem], summary="Latent modes of the hires fix")
async def get_latent_modes() -> Response:
    """Ways to enlarge a latent."""
    return json_response([{"name": mode} for mode in LATENT_MODES])


@router.get("/sd-models", response_model=list[CheckpointItem], summary="Checkpoints")
async def get_checkpoints(context: ContextDep) -> Response:
    """Checkpoints, the default one first."""
    return json_response(
        [
            {
                "title": info.title,
                "model_name": info.name,
                "hash": info.short_hash,
                "sha256": info.sha256,
                "filename": info.filename,
                "config": info.config,
            }
            for info in context.backend.catalogue.checkpoints
        ]
    )


@router.get("/sd-vae", response_model=list[VaeItem], summary="VAEs")
async def get_vaes(context: ContextDep) -> Response:
    """VAEs beside the checkpoints' own."""
    vaes = context.backend.catalogue.vaes
    return json_response([{"model_name": vae.name, "filename": vae.filename} for vae in vaes])


@router.get("/loras", response_model=list[LoraItem], summary="LoRA networks")
async def get_loras(context: ContextDep) -> Response:
    """LoRA networks that prompts may name."""
    return json_response(
        [
            {
                "name": lora.name,
                "alias": lora.alias or lora.name,
                "path": lora.filename,
                "metadata": dict(lora.metadata),
            }
            for lora in context.backend.catalogue.loras
        ]
    )


@router.get("/embeddings", response_model=EmbeddingsAnswer, summary="Textual inversions")
async def get_embeddings(context: ContextDep) -> Response:
    """Textual inversions, by whether the default checkpoint can use them."""
    found = context.backend.catalogue.embeddings
    return json_response(
        {
            "loaded": {info.name: _embedding(info) for info in found if info.usable},
            "skipped": {info.name: _embedding(info) for info in found if not info.usable},
        }
    )


def _embedding(info: EmbeddingInfo) -> dict[str, Any]:
    return {
        "step": info.step,
        "sd_checkpoint": info.checkpoint_hash,
        "sd_checkpoint_name": info.checkpoint_name,
        "shape": info.width,
        "vectors": info.vectors,
    }


@router.get("/prompt-styles", response_model=list[StyleItem], summary="Prompt styles")
async def get_styles(context: ContextDep) -> Response:
    """The styles of ``styles.csv`` in the models folder."""
    return json_response(
        [
            {"name": style.name, "prompt": style.prompt, "negative_prompt": style.negative_prompt}
            for style in context.styles.all()
        ]
    )


@router.get("/hypernetworks", response_model=list[PathItem], summary="Hypernetworks: none")
async def get_hypernetworks() -> Response:
    """Always empty: hypernetworks are not supported."""
    return json_response([])


@router.get("/face-restorers", response_model=list[FaceRestorerItem], summary="Face restorers: none")
async def get_face_restorers() -> Response:
    """Always empty: there are no face restorers."""
    return json_response([])


@router.get("/realesrgan-models", response_model=list[RealesrganItem], summary="Real-ESRGAN networks")
async def get_realesrgan_models(context: ContextDep) -> Response:
    """Networks of the ESRGAN family in the models folder."""
    return json_response(
        [
            {"name": upscaler.name, "path": upscaler.filename, "scale": int(upscaler.scale)}
            for upscaler in context.backend.catalogue.upscalers
            if "ESRGAN" in upscaler.kind.upper()
        ]
    )


@router.get("/scripts", response_model=ScriptsAnswer, summary="Selectable scripts")
async def get_scripts() -> Response:
    """Titles for ``script_name``."""
    return json_response(
        {kind: [script.name for script in SCRIPTS if kind in script.kinds] for kind in ("txt2img", "img2img")}
    )


@router.get("/script-info", response_model=list[ScriptItem], summary="Scripts and their arguments")
async def get_script_info(context: ContextDep) -> Response:
    """One entry for each script and kind of request."""
    return json_response(
        [
            {
                "name": script.name,
                "is_alwayson": False,
                "is_img2img": kind == "img2img",
                "args": [
                    {
                        "label": argument.label,
                        "value": argument.value,
                        "minimum": argument.minimum,
                        "maximum": argument.maximum,
                        "step": argument.step,
                        "choices": argument.choices,
                    }
                    for argument in described(script, kind, context.backend.catalogue, context.styles)
                ],
            }
            for kind in ("txt2img", "img2img")
            for script in SCRIPTS
            if kind in script.kinds
        ]
    )


@router.get("/extensions", response_model=list[ExtensionItem], summary="Extensions: none")
async def get_extensions() -> Response:
    """Always empty: nothing can be plugged in."""
    return json_response([])
