"""From results to A1111's answer: files, base64, the echo of the request, and ``info``.

It costs milliseconds that neither the event loop nor the device should wait for, so it runs in a lane.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

import orjson

from service.api.sdapi.options import DEFAULTS, Options
from service.api.sdapi.prepared import Prepared
from service.api.sdapi.saving import save, save_grid
from service.api.sdapi.schemas import Img2ImgBody
from service.api.sdapi.scripts.series import Composed
from service.api.sdapi.translate import is_ddim
from service.catalogue.samplers import sampler_named
from service.context import Context
from service.core.errors import BadRequest
from service.core.generation import GenerationRequest, GenerationResult, SamplingShape
from service.core.jobs import Series
from service.core.pixels import Pixels
from service.core.tasks import Task
from service.imaging import formats, infotext
from service.imaging.formats import encode_base64
from service.imaging.grid import make_grid, rows_of
from service.imaging.infotext import InfotextOptions
from service.imaging.respond import encode_all
from service.settings import Settings

VERSION = "v1.10.1"
"""The A1111 version whose API this is; readers of infotexts look at it."""


def encode(prepared: Prepared, result: GenerationResult) -> tuple[list[str], list[str]]:
    """The images as base64, and the infotext of each."""
    result = _told(prepared, result)
    return encode_all(result, prepared.encoding, _infotext_options(prepared.options), prepared.extra)


def _texts(
    prepared: Prepared, result: GenerationResult, more: Mapping[str, Any] = MappingProxyType({})
) -> list[str]:
    """The infotext of each image, with the entries ``more``."""
    told, options = _told(prepared, result), _infotext_options(prepared.options)
    extra = {**prepared.extra, **more}
    return [infotext.compose(told, index, options, extra) for index in range(len(result.images))]


def _told(prepared: Prepared, result: GenerationResult) -> GenerationResult:
    """``result`` with what its sampler was told among its infotext entries."""
    return replace(result, extra={**sampling(result.request, prepared.options), **result.extra})


_ANSWER_BYTES: Final = 7
"""Bytes a pixel of a picture that is made: itself, and at worst the same again as a file in base64."""


def weight(prepared: Prepared) -> int:
    """Bytes of memory that the answer takes until it is sent, at worst."""
    job = prepared.job
    pixels = 0
    for request in job.requests if isinstance(job, Series) else (job.request,):
        size = request.hires or request
        pixels += size.width * size.height * request.image_count
    if isinstance(job, Series) and job.tiles is not None:
        tiling = job.tiles.tiling
        pixels += 2 * tiling.picture_width * tiling.picture_height * job.tiles.request.batch_count
    echoed = prepared.body.init_images if isinstance(prepared.body, Img2ImgBody) else None
    return pixels * _ANSWER_BYTES + 3 * sum(map(len, echoed or ()))


async def answer(
    prepared: Prepared, results: Sequence[GenerationResult], context: Context, task: Task
) -> dict[str, Any]:
    """What is answered for ``results``: encoded in a lane, when the device is already free."""
    began = time.perf_counter()
    made = await context.lanes.run(task, lambda: write(prepared, prepared.compose(results), context.settings))
    task.timings.add("encoding", time.perf_counter() - began)
    return made


def write(prepared: Prepared, composed: Composed, settings: Settings) -> dict[str, Any]:
    """``images``, ``parameters``, ``info`` and ``infotexts``; files on disk, if the client asked for them.

    ``composed`` has one result, or those of a script. ``info`` is that of the first, with the images of all.
    """
    sent, options = prepared.body, prepared.options
    images: list[str] = []
    sending: list[str] = []
    infotexts: list[str] = []
    about: dict[str, Any] = {}
    remarks = list(prepared.remarks)
    shown = prepared
    if composed.joined:
        shown = replace(prepared, encoding=replace(prepared.encoding, embed_infotext=False))
    for result in composed.results:
        encoded, texts = encode(shown, result) if composed.lone else ([], _texts(prepared, result))
        if not about:
            about = info(prepared, result, texts)
        else:
            _merge(about, info(prepared, result, texts))
        for image in encoded:
            beside = composed.beside[len(images)] if composed.beside else ()
            sending += [image, *(_written(pixels, None, options, "samples_format") for pixels in beside)]
            images.append(image)
        infotexts += texts
        remarks += [comment for comment in result.comments if comment not in remarks]
    about["infotexts"] = infotexts
    about["styles"] = list(sent.styles or ())
    grids = [_written(grid.pixels, None, options, "samples_format") for grid in composed.grids]
    said = [_texts(prepared, composed.results[grid.first], grid.entries)[0] for grid in composed.grids]
    if sent.save_images and images:
        seeds = [seed for result in composed.results for seed in result.seeds[: len(result.images)]]
        if settings.output_dir and options.flag("samples_save"):
            if composed.joined:  # on disk they say how they were made
                images = [image for result in composed.results for image in encode(prepared, result)[0]]
            save(settings.output_dir, prepared.kind, images, seeds, options.choice("samples_format"))
        if not grids and len(composed.results) == 1:
            try:
                grid = _grid(prepared, composed.results[0], infotexts, settings)
            except BadRequest as error:
                remarks.append(f"There is no grid: {error.detail}")
                grid = None
            grids, said = ([grid], infotexts[:1]) if grid is not None else ([], [])
    if grids:
        about["infotexts"] = said + infotexts
        about["index_of_first_image"] = len(grids)
    about["comments"] = remarks
    return {
        "images": [*grids, *sending] if sent.send_images else [],
        "parameters": sent.model_dump(mode="json"),
        "info": orjson.dumps(about).decode(),
        "infotexts": about["infotexts"],
    }


def _merge(about: dict[str, Any], more: dict[str, Any]) -> None:
    """Add the images of another result to an ``info`` object."""
    for name in ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds"):
        about[name] += more[name]


def _first(infotexts: list[str], options: Options) -> str | None:
    return infotexts[0] if infotexts and options.flag("enable_pnginfo") else None


def _written(pixels: Pixels, text: str | None, options: Options, option: str) -> str:
    kind = options.choice(option)
    return encode_base64(
        formats.encode(pixels, kind, text, options.integer("jpeg_quality"), options.flag("webp_lossless"))
    )


def _grid(
    prepared: Prepared, result: GenerationResult, infotexts: list[str], settings: Settings
) -> str | None:
    """The images in one, which A1111 puts first where it saves; None for a single image or where it is off."""
    count, options = len(result.images), prepared.options
    wanted, kept = options.flag("return_grid"), bool(settings.output_dir) and options.flag("grid_save")
    if count < (2 if options.flag("grid_only_if_multiple") else 1) or not (wanted or kept):
        return None
    rows = rows_of(
        count, options.integer("n_rows"), result.request.batch_size, options.flag("grid_prevent_empty_spots")
    )
    pixels = make_grid(result.images, rows, max_pixels=settings.max_image_pixels)
    text = _first(infotexts, options)
    if settings.output_dir is not None and kept:
        file = _written(pixels, text, options, "grid_format")
        save_grid(settings.output_dir, prepared.kind, file, options.choice("grid_format"))
    return _written(pixels, text, options, "samples_format") if wanted else None


_OWN_SHAPE: Final = SamplingShape()
_UNIPC: Final = {
    "unipc_variant": "UniPC variant",
    "unipc_spacing": "UniPC skip type",
    "unipc_order": "UniPC order",
    "unipc_lower_order_final": "UniPC lower order final",
}
_OPTIONS: Final = {
    "s_churn": "Sigma churn",
    "s_tmin": "Sigma tmin",
    "s_tmax": "Sigma tmax",
    "s_noise": "Sigma noise",
}


def sampling(request: GenerationRequest, options: Options) -> dict[str, Any]:
    """Infotext entries for what the sampler was told beyond its own measure, in A1111's words.

    As there the sigmas are told where they are options, not where they are fields of the request. What UniPC was told
    is said beyond A1111, so that its pictures can be made again.
    """
    takes = sampler_named(request.sampler).parameters
    eta = "Eta DDIM" if is_ddim(request.sampler) else "Eta"
    entries: dict[str, Any] = {eta: request.eta} if request.eta is not None else {}
    for name, key in _OPTIONS.items():
        if name in takes and options.number(name) != DEFAULTS[name]:
            entries[key] = getattr(request, name)
    if request.sampler != "UniPC":
        return entries
    return entries | {
        key: getattr(request.shape, name)
        for name, key in _UNIPC.items()
        if getattr(request.shape, name) != getattr(_OWN_SHAPE, name)
    }


def info(prepared: Prepared, result: GenerationResult, infotexts: list[str]) -> dict[str, Any]:
    """The object behind the ``info`` string, keys in A1111's order."""
    result = _told(prepared, result)
    request = result.request
    count = len(result.images)
    strength = (
        request.init.denoising_strength
        if request.init
        else request.hires.denoising_strength
        if request.hires
        else None
    )
    return {
        "prompt": request.prompt,
        "all_prompts": [request.prompt] * count,
        "negative_prompt": request.negative_prompt,
        "all_negative_prompts": [request.negative_prompt] * count,
        "seed": result.seeds[0] if result.seeds else request.seed,
        "all_seeds": list(result.seeds),
        "subseed": result.subseeds[0] if result.subseeds else request.subseed,
        "all_subseeds": list(result.subseeds),
        "subseed_strength": request.subseed_strength,
        "width": request.width,
        "height": request.height,
        "sampler_name": result.sampler or request.sampler,
        "cfg_scale": request.guidance_scale,
        "steps": request.steps,
        "batch_size": request.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": result.model_name,
        "sd_model_hash": result.model_hash,
        "sd_vae_name": result.vae_name,
        "sd_vae_hash": result.vae_hash,
        "seed_resize_from_w": request.seed_resize_from[0] if request.seed_resize_from else -1,
        "seed_resize_from_h": request.seed_resize_from[1] if request.seed_resize_from else -1,
        "denoising_strength": strength,
        "extra_generation_params": infotext.extra_parameters(result, prepared.extra, nulls=True),
        "index_of_first_image": 0,
        "infotexts": infotexts,
        "styles": [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "clip_skip": request.clip_skip,
        "is_using_inpainting_conditioning": result.is_inpainting,
        "version": VERSION,
    }


def _infotext_options(options: Options) -> InfotextOptions:
    return InfotextOptions(
        version=VERSION if options.flag("add_version_to_infotext") else None,
        model_name=options.flag("add_model_name_to_info"),
        model_hash=options.flag("add_model_hash_to_info"),
        vae_name=options.flag("add_vae_name_to_info"),
        vae_hash=options.flag("add_vae_hash_to_info"),
    )
