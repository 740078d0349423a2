"""From a result to A1111's answer: files, base64, the echo of the request, and ``info``.

Runs in an encoder thread: it costs milliseconds that neither the event loop nor the device should wait for.
"""

import time
from collections.abc import Mapping
from typing import Any

import orjson

from service.api.sdapi.schemas import GenerationBody
from service.imaging import formats, infotext
from service.imaging.formats import Encoding
from service.imaging.infotext import InfotextOptions
from service.imaging.respond import encode_all
from service.jobs import GenerationResult
from service.options import Options

VERSION = "v1.10.1"
"""The A1111 version whose API this is; readers of infotexts look at it."""


def encoding_of(options: Options) -> Encoding:
    """How the options say that images are written. Raises :class:`BadRequest` for an unknown format."""
    return Encoding(
        format=formats.parse_format(options.text("samples_format")),
        quality=options.integer("jpeg_quality"),
        lossless=options.flag("webp_lossless"),
        embed_infotext=options.flag("enable_pnginfo"),
    )


def encode(
    result: GenerationResult, options: Options, extra: Mapping[str, Any] | None = None
) -> tuple[list[str], list[str]]:
    """The images as base64, and the infotext of each; ``extra`` are entries that only the dialect knows."""
    return encode_all(result, encoding_of(options), _infotext_options(options), extra)


def body(
    sent: GenerationBody, result: GenerationResult, options: Options, extra: Mapping[str, Any] | None = None
) -> bytes:
    """The JSON body of txt2img and img2img, as bytes."""
    images, infotexts = encode(result, options, extra)
    return orjson.dumps(
        {
            "images": images if sent.send_images else [],
            "parameters": sent.model_dump(mode="json"),
            "info": orjson.dumps(info(result, infotexts, options, extra)).decode(),
        }
    )


def info(
    result: GenerationResult,
    infotexts: list[str],
    options: Options,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The object behind the ``info`` string, keys in A1111's order."""
    request = result.request
    prompts = [infotext.prompts_of(result, index) for index in range(len(result.images))]
    first = prompts[0] if prompts else (request.prompt, request.negative_prompt)
    strength = (
        request.init.denoising_strength
        if request.init
        else request.hires.denoising_strength
        if request.hires
        else None
    )
    return {
        "prompt": first[0],
        "all_prompts": [prompt for prompt, _ in prompts],
        "negative_prompt": first[1],
        "all_negative_prompts": [negative for _, negative in prompts],
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
        "extra_generation_params": {
            "Schedule type": result.scheduler,
            **infotext.extra_parameters(result, extra),
        },
        "index_of_first_image": 0,
        "infotexts": infotexts,
        "styles": [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "clip_skip": request.clip_skip,
        "is_using_inpainting_conditioning": False,
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
