"""The limits of a request for images, checked before the device is touched; shared by all dialects."""

from service.core.errors import BadRequest
from service.core.generation import GenerationRequest
from service.settings import Settings

MIN_SIDE = 64
MOST_DENOISING = 100.0
"""All above 1 means 1, as in A1111; far above it somebody counts in something else."""


def check(request: GenerationRequest, settings: Settings) -> None:
    """Raise :class:`BadRequest` that names the field, the value, and the allowed range."""
    _side("width", request.width, settings)
    _side("height", request.height, settings)
    if request.hires is not None:
        _side("width of the second pass (hr_resize_x, hr_scale)", request.hires.width, settings)
        _side("height of the second pass (hr_resize_y, hr_scale)", request.hires.height, settings)
        _range("hr_second_pass_steps", request.hires.steps, 0, settings.max_steps)
        _range("denoising_strength", request.hires.denoising_strength, 0.0, MOST_DENOISING)
    _range("steps", request.steps, 1, settings.max_steps)
    _range("cfg_scale", request.guidance_scale, 0.0, 100.0)
    _range("batch_size", request.batch_size, 1, settings.max_images)
    _range("n_iter", request.batch_count, 1, settings.max_images)
    if request.image_count > settings.max_images:
        raise BadRequest(
            f"batch_size × n_iter is {request.image_count}, but at most {settings.max_images} images are made in one "
            "request (SD_MAX_IMAGES): ask for fewer."
        )
    width, height = (
        (request.hires.width, request.hires.height) if request.hires else (request.width, request.height)
    )
    pixels = width * height * request.batch_size
    if pixels > settings.max_pixels:
        raise BadRequest(
            f"{width}×{height} × batch_size {request.batch_size} is {pixels} pixels, but at most "
            f"{settings.max_pixels} go to the device at once (SD_MAX_PIXELS): lower the size or the batch_size."
        )
    for name, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt)):
        if len(text) > settings.max_prompt_chars:
            raise BadRequest(
                f"{name} has {len(text)} characters, but at most {settings.max_prompt_chars} are taken "
                "(SD_MAX_PROMPT_CHARS): shorten it."
            )
    _range("subseed_strength", request.subseed_strength, 0.0, 1.0)
    _range("CLIP_stop_at_last_layers", request.clip_skip, 1, 12)
    if request.eta is not None:
        _range("eta", request.eta, 0.0, 10.0)
    if request.init is not None:
        _range("denoising_strength", request.init.denoising_strength, 0.0, MOST_DENOISING)
    for name, value in (("s_churn", request.s_churn), ("s_noise", request.s_noise)):
        _range(name, value, 0.0, 1000.0)
    low, high = request.shape.sigma_min, request.shape.sigma_max
    if 0 < low < 1e-4 or 0 < high < 0.1 or 0 < high <= low:
        raise BadRequest(
            f"Options sigma_min {low:g} and sigma_max {high:g} make no schedule: 0 means the checkpoint's own, else "
            "sigma_min must be at least 0.0001, and sigma_max at least 0.1 and above sigma_min."
        )
    if len(request.task_id) > 200:
        raise BadRequest("force_task_id has more than 200 characters: choose a shorter one.")


def _side(name: str, value: int, settings: Settings) -> None:
    if not MIN_SIDE <= value <= settings.max_side:
        raise BadRequest(f"{name} is {value}, but must be from {MIN_SIDE} to {settings.max_side}.")


def _range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise BadRequest(f"{name} is {value}, but must be from {low:g} to {high:g}.")
