"""From A1111's img2img fields to a generation: pictures decoded, brought to size, and masked."""

from dataclasses import replace

from service.api.limits import check
from service.api.sdapi import translate
from service.api.sdapi.options import Options
from service.api.sdapi.schemas import Img2ImgBody
from service.api.sdapi.scripts import sd_upscale
from service.api.sdapi.styles import NO_STYLES, StyleBook
from service.core.budget import Claim, unlimited
from service.core.errors import BadRequest, NotFound
from service.core.generation import GenerationRequest, InitImage
from service.imaging import decode, inpaint, resize
from service.imaging.reader import PictureReader
from service.settings import Settings


def prepare(
    body: Img2ImgBody,
    options: Options,
    settings: Settings,
    styles: StyleBook = NO_STYLES,
    claim: Claim | None = None,
) -> tuple[GenerationRequest, inpaint.Plan]:
    """The request that ``body`` means, and how its images are brought to size and back.

    ``claim``: the memory that its pictures may take. Raises :class:`BadRequest`.
    """
    if body.init_images is None:
        raise NotFound("Init image not found: send init_images, a list of images as base64.")
    request = translate.common(body, options, settings, styles)
    check(request, settings)  # before anything large is decoded
    if (count := len(body.init_images)) > max(1, request.batch_size):
        if request.batch_size > 1 or count > settings.max_images:
            raise BadRequest(
                f"init_images has {count} images, but batch_size is {request.batch_size}: send one, or "
                "as many as batch_size."
            )
        request = replace(request, batch_size=count)
        check(request, settings)
    background = options.text("img2img_background_color")
    named = {f"init_images[{number}]": text for number, text in enumerate(body.init_images)}
    named |= {name: text for name in ("mask", "latent_mask") if (text := getattr(body, name))}
    reader = PictureReader(settings.max_image_pixels, settings.max_request_pixels, claim or unlimited())
    read = dict(zip(named, reader.read(list(named.values()), list(named)), strict=True))
    masks = {name: read.pop(name) for name in ("mask", "latent_mask") if name in read}
    pictures = [decode.to_rgb(read.pop(name), background, name) for name in list(read)]
    mask = latent_mask = None
    if "mask" in masks:
        mask = decode.to_mask(masks["mask"], rounded=body.mask_round is not False)
    if "latent_mask" in masks:
        latent_mask = decode.to_mask(masks["latent_mask"], name="latent_mask")
    plan = inpaint.plan(
        pictures,
        mask,
        request.width,
        request.height,
        _resize_mode(body),
        _inpainting(body),
        latent_mask=latent_mask,
        upscale=_upscale(options),
    )
    if options.flag("img2img_color_correction"):
        plan = replace(plan, colours=plan.images)
    if not options.flag("overlay_inpaint"):
        plan = replace(plan, overlays=())
    init = InitImage(
        images=plan.images,
        mask=plan.mask,
        denoising_strength=0.75 if body.denoising_strength is None else body.denoising_strength,
        inpainting_fill=body.inpainting_fill or 0,
        noise_multiplier=(
            options.number("initial_noise_multiplier")
            if body.initial_noise_multiplier is None
            else body.initial_noise_multiplier
        ),
        image_guidance_scale=body.image_cfg_scale,
        mask_round=body.mask_round is not False,
    )
    own = body.override_settings and body.override_settings.get("token_merging_ratio")
    request = replace(
        request,
        init=init,
        fix_img2img_steps=options.flag("img2img_fix_steps"),
        token_merging=(request.token_merging if own else 0.0)
        or options.number("token_merging_ratio_img2img")
        or request.token_merging,
    )
    check(request, settings)
    reader.done()
    return request, plan


def _resize_mode(body: Img2ImgBody) -> int:
    """As in A1111 any number that is no mode fills up. SD upscale takes the picture as it is."""
    if (body.script_name or "").lower() == sd_upscale.NAME:
        return resize.LATENT
    mode = 0 if body.resize_mode is None else body.resize_mode
    return mode if mode in resize.MODES else resize.FILL


def _inpainting(body: Img2ImgBody) -> inpaint.Inpainting:
    def blur(own: int | None) -> int:
        chosen = own if body.mask_blur is None else body.mask_blur
        return 4 if chosen is None else chosen

    return inpaint.Inpainting(
        blur_x=blur(body.mask_blur_x),
        blur_y=blur(body.mask_blur_y),
        invert=bool(body.inpainting_mask_invert),
        fill=body.inpainting_fill or 0,
        full_res=body.inpaint_full_res is not False,
        padding=body.inpaint_full_res_padding or 0,
    )


def _upscale(options: Options) -> resize.Upscale | None:
    """The image upscaler that option ``upscaler_for_img2img`` names, if it is a built-in one."""
    name = options.text("upscaler_for_img2img")
    return resize.upscale_by_name(name) if name and name != "None" else None
