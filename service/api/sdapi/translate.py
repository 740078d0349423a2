"""From A1111's fields to a :class:`GenerationRequest`: defaults, options and seeds are settled here."""

import random
from dataclasses import replace
from typing import Final, TypeVar, cast

from service.api.limits import check
from service.api.sdapi.options import Options
from service.api.sdapi.schemas import GenerationBody, Txt2ImgBody
from service.api.sdapi.styles import NO_STYLES, StyleBook
from service.catalogue import samplers
from service.catalogue.samplers import Sampler
from service.core.errors import BadRequest
from service.core.generation import (
    GenerationRequest,
    HiresFix,
    NoiseSourceName,
    Padding,
    SamplingShape,
    UniPCSpacing,
    UniPCVariant,
)
from service.prompt import strip_comments
from service.settings import Settings

T = TypeVar("T")

SEEDS: Final = 4_294_967_294
"""Random seeds are drawn from [0, SEEDS)."""


_NO_CHECKPOINT: Final = (None, "", "None", "none")
"""What a client sends that wants no refiner."""


def txt2img(
    body: Txt2ImgBody, options: Options, settings: Settings, styles: StyleBook = NO_STYLES
) -> GenerationRequest:
    """The request that ``body`` means under ``options``. Raises :class:`BadRequest`."""
    request = common(body, options, settings, styles)
    check(request, settings)
    request = _first_phase(body, request)
    check(request, settings)  # the second pass is measured by the first
    if body.enable_hr:
        hires = _hires(body, request, options, settings)
        if hires.prompt or hires.negative_prompt:
            texts = prompts(body, hires.prompt or "", hires.negative_prompt or "", options, styles)
            hires = replace(
                hires,
                prompt=texts[0] if hires.prompt else None,
                negative_prompt=texts[1] if hires.negative_prompt else None,
            )
        request = replace(request, hires=hires)
    check(request, settings)
    return request


def common(
    body: GenerationBody, options: Options, settings: Settings, styles: StyleBook = NO_STYLES
) -> GenerationRequest:
    """The part that txt2img and img2img share; not yet checked against the limits."""
    sampler, scheduler = samplers.resolve(
        body.sampler_name or body.sampler_index, body.scheduler, strict=settings.strict_samplers
    )
    seed_resize = (_or(body.seed_resize_from_w, -1), _or(body.seed_resize_from_h, -1))
    s_tmax = _or(body.s_tmax, options.number("s_tmax"))
    prompt, negative_prompt = prompts(body, body.prompt or "", body.negative_prompt or "", options, styles)
    return GenerationRequest(
        prompt=prompt,
        negative_prompt=negative_prompt,
        seed=_seed("seed", body.seed),
        subseed=_seed("subseed", body.subseed),
        subseed_strength=_or(body.subseed_strength, 0.0),
        seed_resize_from=seed_resize if min(seed_resize) > 0 else None,
        steps=_or(body.steps, 50),
        guidance_scale=_or(body.cfg_scale, 7.0),
        width=_or(body.width, 512),
        height=_or(body.height, 512),
        sampler=sampler.name,
        scheduler=scheduler.label,
        batch_size=_or(body.batch_size, 1),
        batch_count=_or(body.n_iter, 1),
        eta=_eta(body, options, sampler),
        s_churn=_or(body.s_churn, options.number("s_churn")),
        s_tmin=_or(body.s_tmin, options.number("s_tmin")),
        s_tmax=s_tmax if s_tmax > 0 else float("inf"),
        s_noise=_or(body.s_noise, options.number("s_noise")) or 1.0,
        s_min_uncond=_or(body.s_min_uncond, options.number("s_min_uncond")),
        s_min_uncond_all=options.flag("s_min_uncond_all"),
        skip_early_cond=options.number("skip_early_cond"),
        token_merging=options.number("token_merging_ratio"),
        noise_source=cast(NoiseSourceName, options.choice("randn_source")),
        extra_noise=options.number("img2img_extra_noise"),
        inpainting_mask_weight=options.number("inpainting_mask_weight"),
        shape=_shape(options),
        clip_skip=options.integer("CLIP_stop_at_last_layers"),
        emphasis=options.choice("emphasis"),
        tiling=options.flag("tiling") if body.tiling is None else body.tiling,
        eta_noise_seed_delta=options.integer("eta_noise_seed_delta"),
        padding=_padding(options),
        comma_padding_backtrack=options.integer("comma_padding_backtrack"),
        checkpoint=options.text("sd_model_checkpoint") or None,
        vae=_vae(options),
        refiner_checkpoint=None if body.refiner_checkpoint in _NO_CHECKPOINT else body.refiner_checkpoint,
        refiner_switch_at=body.refiner_switch_at,
        refiner_by_steps=options.flag("refiner_switch_by_sample_steps"),
        disable_extra_networks=bool(body.disable_extra_networks),
        preview_every=_preview_every(options),
        task_id=body.force_task_id or "",
    )


def prompts(
    body: GenerationBody, prompt: str, negative_prompt: str, options: Options, styles: StyleBook
) -> tuple[str, str]:
    """The prompts as they are used: with the styles of ``body`` put on and comments taken out."""
    prompt, negative_prompt = styles.apply(prompt, negative_prompt, body.styles or ())
    if options.flag("enable_prompt_comments"):
        return strip_comments(prompt), strip_comments(negative_prompt)
    return prompt, negative_prompt


def _shape(options: Options) -> SamplingShape:
    return SamplingShape(
        rho=options.number("rho"),
        sigma_min=options.number("sigma_min"),
        sigma_max=options.number("sigma_max"),
        beta_alpha=options.number("beta_dist_alpha"),
        beta_beta=options.number("beta_dist_beta"),
        discard_next_to_last_sigma=options.flag("always_discard_next_to_last_sigma"),
        old_karras_ends=options.flag("use_old_karras_scheduler_sigmas"),
        vp_start=options.flag("sgm_noise_multiplier"),
        zero_terminal_snr=options.choice("sd_noise_schedule") != "Default",
        half_alphas=options.flag("use_downcasted_alpha_bar"),
        unipc_spacing=cast(UniPCSpacing, options.choice("uni_pc_skip_type")),
        unipc_variant=cast(UniPCVariant, options.choice("uni_pc_variant")),
        unipc_order=options.integer("uni_pc_order"),
        unipc_lower_order_final=options.flag("uni_pc_lower_order_final"),
    )


def _padding(options: Options) -> Padding:
    if options.flag("pad_cond_uncond_v0"):
        return "last"
    return "empty" if options.flag("pad_cond_uncond") else "none"


def _eta(body: GenerationBody, options: Options, sampler: Sampler) -> float | None:
    """How much fresh noise the sampler adds; None where that is its own measure, or where it takes none."""
    if "eta" not in sampler.parameters:
        return None
    option, own = ("eta_ddim", 0.0) if is_ddim(sampler.name) else ("eta_ancestral", 1.0)
    eta = options.number(option) if body.eta is None else body.eta
    return None if eta == own else eta


def is_ddim(sampler: str) -> bool:
    """True for the samplers whose eta is 0 unless said otherwise."""
    return sampler.startswith("DDIM")


def _preview_every(options: Options) -> int:
    every = options.integer("show_progress_every_n_steps")
    return every if every > 0 and options.flag("live_previews_enable") else 0


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _seed(name: str, value: int | None) -> int:
    if value is None or value == -1:
        return random.randrange(SEEDS)
    if not 0 <= value < 2**63:
        raise BadRequest(f"{name} is {value}, but must be -1 (random) or from 0 to {2**63 - 1}.")
    return value


def _vae(options: Options) -> str | None:
    name = options.text("sd_vae")
    return None if name in ("", "Automatic", "None") else name


def _hires(body: Txt2ImgBody, first: GenerationRequest, options: Options, settings: Settings) -> HiresFix:
    """The second pass. A1111 fails without ``denoising_strength``; 0.75 is what its page starts with."""
    width, height, crop = _hires_size(body, first)
    sampler = scheduler = None
    hr_scheduler = "" if body.hr_scheduler == "Use same scheduler" else body.hr_scheduler
    if body.hr_sampler_name and body.hr_sampler_name != "Use same sampler":
        chosen = samplers.resolve(body.hr_sampler_name, hr_scheduler or None, strict=settings.strict_samplers)
        sampler, scheduler = chosen[0].name, chosen[1].label
    elif body.hr_scheduler and body.hr_scheduler != "Use same scheduler":
        scheduler = samplers.resolve(first.sampler, body.hr_scheduler, strict=settings.strict_samplers)[
            1
        ].label
    checkpoint = body.hr_checkpoint_name
    resize = (_or(body.hr_resize_x, 0), _or(body.hr_resize_y, 0))
    return HiresFix(
        width=width,
        height=height,
        crop_to=crop,
        scale=None if max(resize) > 0 else _or(body.hr_scale, 2.0),
        resize=resize if max(resize) > 0 else None,
        denoising_strength=_or(body.denoising_strength, 0.75),
        upscaler=body.hr_upscaler or "Latent",
        upscaler_told=bool(body.hr_upscaler),
        steps=_or(body.hr_second_pass_steps, 0),
        sampler=sampler,
        scheduler=scheduler,
        prompt=body.hr_prompt or None,
        negative_prompt=body.hr_negative_prompt or None,
        checkpoint=None if checkpoint in (None, "", "Use same checkpoint") else checkpoint,
        token_merging=options.number("token_merging_ratio_hr"),
        refines=_REFINES[options.choice("hires_fix_refiner_pass")],
    )


def _first_phase(body: Txt2ImgBody, request: GenerationRequest) -> GenerationRequest:
    """``request`` at the size of the first pass where that is given of its own, as clients of old do.

    As in A1111 that is so without a second pass too.
    """
    width, height = _or(body.firstphase_width, 0), _or(body.firstphase_height, 0)
    if width <= 0 and height <= 0:
        return request
    return replace(request, width=width, height=height)


def _hires_size(body: Txt2ImgBody, first: GenerationRequest) -> tuple[int, int, tuple[int, int] | None]:
    """Width and height that the first pass is enlarged to, and what the second pass makes of their middle, if less."""
    ask_width, ask_height = _or(body.hr_resize_x, 0), _or(body.hr_resize_y, 0)
    if ask_width <= 0 and ask_height <= 0:
        scale = _or(body.hr_scale, 2.0)
        if not 0 < scale <= 16:
            raise BadRequest(f"hr_scale is {scale}, but must be above 0 and at most 16.")
        return int(first.width * scale), int(first.height * scale), None
    if ask_height <= 0:
        return ask_width, ask_width * first.height // first.width, None
    if ask_width <= 0:
        return ask_height * first.width // first.height, ask_height, None
    # Both: cover the asked size in the first pass' shape; what stands over is cut off the latent, in whole cells.
    if first.width * ask_height < ask_width * first.height:
        width, height = ask_width, ask_width * first.height // first.width
    else:
        width, height = ask_height * first.width // first.height, ask_height
    cells = (width // 8 - (width - ask_width) // 8, height // 8 - (height - ask_height) // 8)
    crop = (cells[0] * 8, cells[1] * 8)
    return width, height, None if crop == (width // 8 * 8, height // 8 * 8) else crop


_REFINES: Final = {
    "first pass": (True, False),
    "second pass": (False, True),
    "both passes": (True, True),
}
