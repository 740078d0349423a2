"""What each pass of a generation does, settled before anything is drawn: frozen data, worked out from the request."""

from dataclasses import dataclass

from service.catalogue import samplers
from service.catalogue.samplers import Sampler, Scheduler
from service.core.generation import GenerationRequest
from service.prompt import NetworkTag, extract_networks


@dataclass(frozen=True, slots=True)
class PassPlan:
    """One pass: from noise (``encoded`` None), or from a picture of which some is kept.

    ``width`` and ``height`` are pixels; ``told_size`` is what a network hears of them. The schedule has ``steps``
    steps, of which a pass from a picture does the last ``encoded + 1``. Prompts come without the tags of
    ``networks``. ``text_steps`` and ``hires_text_steps`` are what prompt editing (``[a:b:0.5]``) counts in: calls of
    the model.
    """

    checkpoint: str | None
    sampler: Sampler
    scheduler: Scheduler
    width: int
    height: int
    steps: int
    encoded: int | None
    prompt: str
    negative_prompt: str
    networks: tuple[NetworkTag, ...]
    text_steps: int
    hires_text_steps: int | None = None
    refines: bool = False
    token_merging: float = 0.0
    told_size: tuple[int, int] = (0, 0)

    @property
    def calls(self) -> int:
        """How often the model is asked, as A1111 counts: twice a step by samplers of second order."""
        done = self.steps if self.encoded is None else self.encoded + 1
        return done * _calls(self.sampler)


def first_pass(request: GenerationRequest) -> PassPlan:
    """The only pass, or the one before hires fix."""
    sampler = samplers.sampler_named(request.sampler)
    scheduler = samplers.scheduler_labelled(request.scheduler)
    steps, encoded = request.steps, None
    if request.init is not None:
        steps, encoded = _partly(steps, request.init.denoising_strength, full=request.fix_img2img_steps)
    return PassPlan(
        request.checkpoint, sampler, scheduler, request.width, request.height, steps, encoded,
        *_texts(request, request.prompt, request.negative_prompt),
        text_steps=request.steps * _calls(sampler),
        refines=request.hires is None or request.hires.refines[0],
        token_merging=request.token_merging,
        told_size=(request.width, request.height),
    )  # fmt: skip


def hires_pass(request: GenerationRequest) -> PassPlan | None:
    """The pass at the larger size, if there is one; without steps where it denoises nothing."""
    hires = request.hires
    if hires is None:
        return None
    sampler = samplers.sampler_named(hires.sampler or request.sampler)
    scheduler = samplers.scheduler_labelled(hires.scheduler or request.scheduler)
    asked = hires.steps or request.steps
    steps, encoded = _partly(asked, hires.denoising_strength, full=True)
    first = samplers.sampler_named(request.sampler)
    width, height = hires.crop_to or (hires.width, hires.height)
    return PassPlan(
        hires.checkpoint or request.checkpoint, sampler, scheduler, width, height, steps, encoded,
        *_texts(request, hires.prompt or request.prompt, hires.negative_prompt or request.negative_prompt),
        text_steps=request.steps * _calls(first),
        hires_text_steps=asked * _calls(sampler),
        refines=hires.refines[1],
        token_merging=hires.token_merging or request.token_merging,
        told_size=(hires.width, hires.height),
    )  # fmt: skip


def _calls(sampler: Sampler) -> int:
    return 2 if sampler.second_order else 1


def _texts(request: GenerationRequest, prompt: str, negative: str) -> tuple[str, str, tuple[NetworkTag, ...]]:
    """Prompts without tags, and the tags of the prompt."""
    text, tags = extract_networks(prompt)
    return text, extract_networks(negative)[0], () if request.disable_extra_networks else tuple(tags)


def _partly(steps: int, strength: float, *, full: bool) -> tuple[int, int]:
    """Steps of the schedule, and how many of its last ones, less one, are done from a picture.

    ``full``: as many are done as were asked for, on a longer schedule (A1111's hires pass, and img2img with option
    img2img_fix_steps).
    """
    limited = min(strength, 0.999)
    if full:
        return (int(steps / limited), steps - 1) if limited > 0 else (0, -1)
    return steps, int(limited * steps)
