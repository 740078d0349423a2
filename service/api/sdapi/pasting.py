"""The field ``infotext``: an image's own text fills every field that the request does not set itself."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from service.api.sdapi.schemas import GenerationBody, Img2ImgBody, Txt2ImgBody
from service.api.values import finite, whole
from service.imaging import infotext
from service.imaging.inpaint import CONTENTS

Body = TypeVar("Body", bound=GenerationBody)


def _truth(text: str) -> bool:
    return text.strip().lower() == "true"


_FIELDS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "Prompt": ("prompt", str),
    "Negative prompt": ("negative_prompt", str),
    "Steps": ("steps", whole),
    "Sampler": ("sampler_name", str),
    "Schedule type": ("scheduler", str),
    "CFG scale": ("cfg_scale", finite),
    "Seed": ("seed", whole),
    "Size-1": ("width", whole),
    "Size-2": ("height", whole),
    "Variation seed": ("subseed", whole),
    "Variation seed strength": ("subseed_strength", finite),
    "Seed resize from-1": ("seed_resize_from_w", whole),
    "Seed resize from-2": ("seed_resize_from_h", whole),
    "Denoising strength": ("denoising_strength", finite),
    "Tiling": ("tiling", _truth),
    "Eta": ("eta", finite),
    "Eta DDIM": ("eta", finite),
    "Refiner": ("refiner_checkpoint", str),
    "Refiner switch at": ("refiner_switch_at", finite),
}

_TXT2IMG: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "Hires upscale": ("hr_scale", finite),
    "Hires upscaler": ("hr_upscaler", str),
    "Hires steps": ("hr_second_pass_steps", whole),
    "Hires resize-1": ("hr_resize_x", whole),
    "Hires resize-2": ("hr_resize_y", whole),
    "Hires checkpoint": ("hr_checkpoint_name", str),
    "Hires sampler": ("hr_sampler_name", str),
    "Hires schedule type": ("hr_scheduler", str),
    "Hires prompt": ("hr_prompt", str),
    "Hires negative prompt": ("hr_negative_prompt", str),
}

_IMG2IMG: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "Image CFG scale": ("image_cfg_scale", finite),
    "Mask blur": ("mask_blur", whole),
    "Masked content": ("inpainting_fill", CONTENTS.index),
    "Mask mode": ("inpainting_mask_invert", lambda text: int(text == "Inpaint not masked")),
    "Inpaint area": ("inpaint_full_res", lambda text: text == "Only masked"),
    "Masked area padding": ("inpaint_full_res_padding", whole),
}

_OPTIONS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "Clip skip": ("CLIP_stop_at_last_layers", whole),
    "ENSD": ("eta_noise_seed_delta", whole),
    "Emphasis": ("emphasis", str),
    "VAE": ("sd_vae", str),
    "Sigma churn": ("s_churn", finite),
    "Sigma tmin": ("s_tmin", finite),
    "Sigma tmax": ("s_tmax", finite),
    "Sigma noise": ("s_noise", finite),
    "NGMS": ("s_min_uncond", finite),
    "NGMS all steps": ("s_min_uncond_all", _truth),
    "Skip Early CFG": ("skip_early_cond", finite),
    "RNG": ("randn_source", str),
    "Conditional mask weight": ("inpainting_mask_weight", finite),
    "Hires refiner": ("hires_fix_refiner_pass", str),
    "Token merging ratio": ("token_merging_ratio", finite),
    "Token merging ratio hr": ("token_merging_ratio_hr", finite),
    "Noise multiplier": ("initial_noise_multiplier", finite),
    "Extra noise": ("img2img_extra_noise", finite),
    "Noise Schedule": ("sd_noise_schedule", str),
    "Downcast alphas_cumprod": ("use_downcasted_alpha_bar", _truth),
    "SGM noise multiplier": ("sgm_noise_multiplier", _truth),
    "Pad conds": ("pad_cond_uncond", _truth),
    "Pad conds v0": ("pad_cond_uncond_v0", _truth),
    "Refiner switch by sampling steps": ("refiner_switch_by_sample_steps", _truth),
    "Schedule rho": ("rho", finite),
    "Schedule max sigma": ("sigma_max", finite),
    "Schedule min sigma": ("sigma_min", finite),
    "Beta schedule alpha": ("beta_dist_alpha", finite),
    "Beta schedule beta": ("beta_dist_beta", finite),
    "Discard penultimate sigma": ("always_discard_next_to_last_sigma", _truth),
    "UniPC variant": ("uni_pc_variant", str),
    "UniPC skip type": ("uni_pc_skip_type", str),
    "UniPC order": ("uni_pc_order", whole),
    "UniPC lower order final": ("uni_pc_lower_order_final", _truth),
}


def fill(body: Body, knows: Callable[[str], str | None]) -> tuple[Body, list[str]]:
    """``body`` with what its ``infotext`` says, and remarks for the client.

    Fields that the client sent stay. A value that is none ("Steps: many") counts as absent. ``knows`` gives the
    title of a checkpoint by any name, or None: an image made by a checkpoint that is not here says so in a remark.
    """
    if not body.infotext:
        return body, []
    said = infotext.parse(body.infotext)
    asked = body.model_fields_set
    fields = _read(said, _FIELDS)
    if isinstance(body, Txt2ImgBody):
        fields |= _read(said, _TXT2IMG)
        if {"hr_upscaler", "hr_scale", "hr_resize_x"} & fields.keys():
            fields["enable_hr"] = True
    if isinstance(body, Img2ImgBody):
        fields |= _read(said, _IMG2IMG)
    if "sampler_index" in asked:
        fields.pop("sampler_name", None)
    # A1111's own default, which goes unsaid; pictures made here always say where their noise is from.
    options = {"randn_source": "GPU", **_read(said, _OPTIONS)}
    remarks = []
    if named := [said[key] for key in ("Model hash", "Model") if said.get(key)]:
        title = next((title for name in named if (title := knows(name)) is not None), None)
        if title is not None:
            options["sd_model_checkpoint"] = title
        else:
            remarks.append(f"The checkpoint that the infotext names is not here: {named[-1]}")
    update = {name: value for name, value in fields.items() if name not in asked}
    if options:
        update["override_settings"] = {**options, **(body.override_settings or {})}
    return body.model_copy(update=update), remarks


def _read(said: Mapping[str, str], table: Mapping[str, tuple[str, Callable[[str], Any]]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, (name, convert) in table.items():
        if key in said:
            try:
                found[name] = convert(said[key])
            except (ValueError, OverflowError):
                continue
    return found
