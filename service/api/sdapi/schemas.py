"""The bodies of txt2img and img2img: A1111's names, types and defaults, whole."""

from typing import Any

from pydantic import Field

from service.api.sdapi.fields import Float, Int, Lenient, Picture, Str, Strings, TaskId


class GenerationBody(Lenient):
    """What txt2img and img2img share. Every field but the last group may be null, which means its default."""

    prompt: Str | None = ""
    negative_prompt: Str | None = ""
    styles: Strings | None = None
    seed: Int | None = Field(-1, description="-1 for a random one; image i uses seed + i.")
    subseed: Int | None = -1
    subseed_strength: Float | None = 0
    seed_resize_from_h: Int | None = -1
    seed_resize_from_w: Int | None = -1
    sampler_name: Str | None = Field(
        None, description="A name of /sdapi/v1/samplers, in any case, or an alias."
    )
    scheduler: Str | None = Field(None, description="A name or label of /sdapi/v1/schedulers.")
    batch_size: Int | None = Field(1, description="Images made at once.")
    n_iter: Int | None = Field(1, description="Batches made one after the other.")
    steps: Int | None = 50
    cfg_scale: Float | None = 7.0
    width: Int | None = 512
    height: Int | None = 512
    restore_faces: bool | None = None
    tiling: bool | None = None
    do_not_save_samples: bool | None = False
    do_not_save_grid: bool | None = False
    eta: Float | None = None
    denoising_strength: Float | None = None
    s_min_uncond: Float | None = None
    s_churn: Float | None = None
    s_tmax: Float | None = None
    s_tmin: Float | None = None
    s_noise: Float | None = None
    override_settings: dict[str, Any] | None = Field(None, description="Options for this request alone.")
    override_settings_restore_afterwards: bool | None = True
    refiner_checkpoint: Str | None = None
    refiner_switch_at: Float | None = None
    disable_extra_networks: bool | None = False
    firstpass_image: Picture | None = None
    comments: dict[str, Any] | None = None
    force_task_id: TaskId | None = Field(
        None,
        description="The id under which /internal/progress knows this request, and the header X-Task-Id: "
        "printable ASCII.",
    )
    # A1111 does not take null for these.
    sampler_index: Str = Field("Euler", description="Used where sampler_name is absent.")
    script_name: Str | None = None
    script_args: list[Any] = Field(default_factory=list)
    send_images: bool = True
    save_images: bool = False
    alwayson_scripts: dict[str, Any] = Field(default_factory=dict)
    infotext: Str | None = Field(None, description="Fills every field that the request leaves out.")


class Txt2ImgBody(GenerationBody):
    """POST /sdapi/v1/txt2img."""

    enable_hr: bool | None = False
    firstphase_width: Int | None = 0
    firstphase_height: Int | None = 0
    hr_scale: Float | None = 2.0
    hr_upscaler: Str | None = None
    hr_second_pass_steps: Int | None = 0
    hr_resize_x: Int | None = 0
    hr_resize_y: Int | None = 0
    hr_checkpoint_name: Str | None = None
    hr_sampler_name: Str | None = None
    hr_scheduler: Str | None = None
    hr_prompt: Str | None = ""
    hr_negative_prompt: Str | None = ""


class Img2ImgBody(GenerationBody):
    """POST /sdapi/v1/img2img."""

    init_images: list[Picture] | None = None
    resize_mode: Int | None = Field(0, description="0 stretch, 1 crop, 2 fill, 3 latent.")
    denoising_strength: Float | None = 0.75
    image_cfg_scale: Float | None = None
    mask: Picture | None = Field(None, description="White is repainted.")
    mask_blur_x: Int | None = 4
    mask_blur_y: Int | None = 4
    mask_blur: Int | None = None
    mask_round: bool | None = True
    inpainting_fill: Int | None = Field(
        0, description="0 fill, 1 original, 2 latent noise, 3 latent nothing."
    )
    inpaint_full_res: bool | None = True
    inpaint_full_res_padding: Int | None = 0
    inpainting_mask_invert: Int | None = 0
    initial_noise_multiplier: Float | None = None
    latent_mask: Picture | None = None
    include_init_images: bool = False


class ImagesResponse(Lenient):
    """What txt2img and img2img answer. ``info`` is a JSON *string*, as A1111's is."""

    images: list[str] = Field(description="Base64 without a data: prefix.")
    parameters: dict[str, Any] = Field(description="The request with every default filled in.")
    info: str
