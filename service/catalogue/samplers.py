"""Names of samplers and schedulers: what exists, under which aliases, and how clients' spellings resolve.

Torch-free, so that a front without torch can list and check them. What they compute is in
``service.engine.samplers`` and ``service.engine.samplers.schedules``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from service.core.errors import UnknownName


@dataclass(frozen=True, slots=True)
class Scheduler:
    """A way to space the noise levels of the steps."""

    name: str
    label: str
    aliases: tuple[str, ...] = ()
    default_rho: float = -1.0
    """The exponent that bends the schedule, -1 where there is none."""
    need_inner_model: bool = False
    """True if it reads the model's training sigmas, not only the lowest and highest of them."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """A way to step from noise to image."""

    name: str
    aliases: tuple[str, ...]
    scheduler: str | None = None
    """Name of the schedule that "Automatic" means for it; None for the model's own (uniform in time)."""
    discard_next_to_last_sigma: bool = False
    uses_ensd: bool = False
    """True if it draws fresh noise that "Eta noise seed delta" shifts."""
    second_order: bool = False
    """True if it asks the model twice in a step."""
    brownian_noise: bool = False
    solver_type: str | None = None
    own_schedule: bool = False
    """True if it has its own spacing and no scheduler changes it (DDIM, PLMS, UniPC)."""
    parameters: tuple[str, ...] = ()
    """Which of eta, s_churn, s_tmin, s_tmax and s_noise change its images."""
    guidance_multiplier: float = 1.0
    """What the guidance scale is multiplied with before it is used (CFG++ maps 12.5 to 1)."""

    @property
    def options(self) -> dict[str, str]:
        """What ``GET /sdapi/v1/samplers`` shows: A1111 writes every value as a string."""
        flags = ("discard_next_to_last_sigma", "uses_ensd", "second_order", "brownian_noise")
        shown = {} if self.scheduler is None else {"scheduler": self.scheduler}
        shown |= {flag: "True" for flag in flags if getattr(self, flag)}
        return shown if self.solver_type is None else shown | {"solver_type": self.solver_type}


_CHURN: Final = ("s_churn", "s_tmin", "s_tmax", "s_noise")
_SDE: Final = ("eta", "s_noise")

SAMPLERS: Final[tuple[Sampler, ...]] = (
    Sampler("DPM++ 2M", ("k_dpmpp_2m",), "karras"),
    Sampler("DPM++ SDE", ("k_dpmpp_sde",), "karras", second_order=True, brownian_noise=True, parameters=_SDE),
    Sampler("DPM++ 2M SDE", ("k_dpmpp_2m_sde",), "exponential", brownian_noise=True, parameters=_SDE),
    Sampler(
        "DPM++ 2M SDE Heun",
        ("k_dpmpp_2m_sde_heun",),
        "exponential",
        brownian_noise=True,
        solver_type="heun",
        parameters=_SDE,
    ),
    Sampler("DPM++ 2S a", ("k_dpmpp_2s_a",), "karras", uses_ensd=True, second_order=True, parameters=_SDE),
    Sampler(
        "DPM++ 3M SDE",
        ("k_dpmpp_3m_sde",),
        "exponential",
        discard_next_to_last_sigma=True,
        brownian_noise=True,
        parameters=_SDE,
    ),
    Sampler("Euler a", ("k_euler_a", "k_euler_ancestral"), uses_ensd=True, parameters=("eta",)),
    Sampler("Euler", ("k_euler",), parameters=_CHURN),
    Sampler("LMS", ("k_lms",)),
    Sampler("Heun", ("k_heun",), second_order=True, parameters=_CHURN),
    Sampler(
        "DPM2",
        ("k_dpm_2",),
        "karras",
        discard_next_to_last_sigma=True,
        second_order=True,
        parameters=_CHURN,
    ),
    Sampler(
        "DPM2 a",
        ("k_dpm_2_a",),
        "karras",
        discard_next_to_last_sigma=True,
        uses_ensd=True,
        second_order=True,
        parameters=_SDE,
    ),
    Sampler("DPM fast", ("k_dpm_fast",), uses_ensd=True, parameters=_SDE),
    Sampler("DPM adaptive", ("k_dpm_ad",), uses_ensd=True, parameters=("eta",)),
    Sampler("Restart", ("restart",), "karras", second_order=True),
    Sampler("DDIM", ("ddim",), own_schedule=True, parameters=("eta",)),
    Sampler(
        "DDIM CFG++",
        ("ddim_cfgpp",),
        own_schedule=True,
        parameters=("eta",),
        guidance_multiplier=1 / 12.5,
    ),
    Sampler("PLMS", ("plms",), own_schedule=True),
    Sampler("UniPC", ("unipc",), own_schedule=True),
    Sampler("LCM", ("k_lcm",)),
)
"""All samplers, in the order in which A1111 lists them. The first stands in for unknown names."""

SCHEDULERS: Final[tuple[Scheduler, ...]] = (
    Scheduler("automatic", "Automatic"),
    Scheduler("uniform", "Uniform", need_inner_model=True),
    Scheduler("karras", "Karras", default_rho=7.0),
    Scheduler("exponential", "Exponential"),
    Scheduler("polyexponential", "Polyexponential", default_rho=1.0),
    Scheduler("sgm_uniform", "SGM Uniform", ("SGMUniform",), need_inner_model=True),
    Scheduler("kl_optimal", "KL Optimal"),
    Scheduler("align_your_steps", "Align Your Steps"),
    Scheduler("simple", "Simple", need_inner_model=True),
    Scheduler("normal", "Normal", need_inner_model=True),
    Scheduler("ddim", "DDIM", need_inner_model=True),
    Scheduler("beta", "Beta", need_inner_model=True),
)
"""All schedulers, in A1111's order. The first stands in for unknown names."""

AUTOMATIC: Final = SCHEDULERS[0]

_OLD_SUFFIXES: Final = {"ka": "karras", "exp": "exponential"}
"""How aliases carried the schedule before there was a scheduler field: ``k_dpmpp_2m_ka``."""


def _key(name: str) -> str:
    """What is left of a name when case, spaces, underscores and hyphens are ignored."""
    return re.sub(r"[\s_-]+", "", name.casefold())


def _spellings(item: Sampler | Scheduler) -> Iterator[str]:
    yield _key(item.name)
    if isinstance(item, Scheduler):
        yield _key(item.label)
    for alias in item.aliases:
        yield _key(alias)


_SAMPLER_BY_NAME: Final = {sampler.name: sampler for sampler in SAMPLERS}
_SCHEDULER_BY_LABEL: Final = {scheduler.label: scheduler for scheduler in SCHEDULERS}
_SCHEDULER_BY_NAME: Final = {scheduler.name: scheduler for scheduler in SCHEDULERS}
_SAMPLER_BY_KEY: Final[Mapping[str, Sampler]] = MappingProxyType(
    {key: sampler for sampler in SAMPLERS for key in _spellings(sampler)}
)
_SCHEDULER_BY_KEY: Final[Mapping[str, Scheduler]] = MappingProxyType(
    {key: scheduler for scheduler in SCHEDULERS for key in _spellings(scheduler)}
)
_SUFFIXES: Final = sorted(
    [
        *_SCHEDULER_BY_KEY.items(),
        *((suffix, _SCHEDULER_BY_NAME[name]) for suffix, name in _OLD_SUFFIXES.items()),
    ],
    key=lambda item: -len(item[0]),
)


def _sampler(name: str) -> tuple[Sampler | None, Scheduler | None]:
    """The sampler that ``name`` means, and the scheduler that its suffix names; None for what it does not."""
    key = _key(name)
    if sampler := _SAMPLER_BY_KEY.get(key):
        return sampler, None
    suffixes = [
        (_SAMPLER_BY_KEY.get(key.removesuffix(suffix)), scheduler)
        for suffix, scheduler in _SUFFIXES
        if key.endswith(suffix)
    ]
    whole = next((match for match in suffixes if match[0]), None)
    return whole or (suffixes[0] if suffixes else (None, None))


def resolve(sampler_name: str, scheduler_name: str | None, *, strict: bool) -> tuple[Sampler, Scheduler]:
    """The sampler and scheduler that a client means.

    Case, spaces, underscores and hyphens do not matter; aliases ("k_euler_a") and combined names ("DPM++ 2M
    Karras") are understood, the longest suffix first. A scheduler given by itself, other than Automatic, wins
    over a suffix. No scheduler, or an empty one, is Automatic, and stays so: see :func:`effective_scheduler`.

    An unknown name raises :class:`UnknownName` if ``strict``, else it becomes DPM++ 2M or Automatic as in
    A1111.
    """
    sampler, suffix = _sampler(sampler_name)
    if sampler is None:
        if strict:
            names = ", ".join(item.name for item in SAMPLERS)
            raise UnknownName(
                f"There is no sampler {sampler_name!r}. Use one of: {names}. "
                "A scheduler may follow the name, as in 'DPM++ 2M Karras'."
            )
        sampler = SAMPLERS[0]
    scheduler = _SCHEDULER_BY_KEY.get(_key(scheduler_name or "")) if scheduler_name else AUTOMATIC
    if scheduler is None:
        if strict:
            labels = ", ".join(item.label for item in SCHEDULERS)
            raise UnknownName(f"There is no scheduler {scheduler_name!r}. Use one of: {labels}.")
        scheduler = AUTOMATIC
    return sampler, suffix if suffix and scheduler is AUTOMATIC else scheduler


def sampler_named(name: str) -> Sampler:
    """The sampler of this canonical name ("Euler a"). Raises :class:`UnknownName`."""
    found = _SAMPLER_BY_NAME.get(name)
    if found is None:
        raise UnknownName(f"There is no sampler {name!r}. Use one of: {', '.join(_SAMPLER_BY_NAME)}.")
    return found


def scheduler_labelled(label: str) -> Scheduler:
    """The scheduler of this canonical label ("Karras"). Raises :class:`UnknownName`."""
    found = _SCHEDULER_BY_LABEL.get(label)
    if found is None:
        raise UnknownName(f"There is no scheduler {label!r}. Use one of: {', '.join(_SCHEDULER_BY_LABEL)}.")
    return found


def effective_scheduler(sampler: Sampler, scheduler: Scheduler) -> Scheduler:
    """The scheduler that is really used: "Automatic" becomes the sampler's own where it has a named one.

    It stays Automatic for samplers that follow the model's own schedule ("Euler a"), and becomes so for those
    that no scheduler changes (DDIM, PLMS, UniPC).
    """
    if sampler.own_schedule:
        return AUTOMATIC
    if scheduler is AUTOMATIC and sampler.scheduler is not None:
        return _SCHEDULER_BY_NAME[sampler.scheduler]
    return scheduler
