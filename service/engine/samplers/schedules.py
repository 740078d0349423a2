"""Which noise levels the steps of a sampler visit.

A *table* is a float32 CPU tensor of the sigmas that the model was trained on, ascending; index t is its
timestep (1000 of them, about 0.029 to 14.6, for Stable Diffusion 1, 2 and XL). A *schedule* is a float32 CPU
tensor of descending sigmas, as samplers take it.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from service.catalogue.samplers import Sampler, Scheduler, effective_scheduler
from service.core.errors import UnknownName
from service.core.generation import SamplingShape, UniPCSpacing

DEFAULT_SHAPE: Final = SamplingShape()

LCM_TIMESTEPS: Final = 50
"""Latent consistency models are distilled on every 20th of the 1000 timesteps: 19, 39 … 999."""

_ALIGN_YOUR_STEPS: Final = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
_ALIGN_YOUR_STEPS_XL: Final = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)


def training_sigmas(alphas_cumprod: Tensor) -> Tensor:
    """The table of a model: ``sqrt((1 - a) / a)``.

    A model with zero terminal SNR ends at a = 0, an infinite sigma; like A1111 we stop just short of it.
    """
    alphas = alphas_cumprod.to(device="cpu", dtype=torch.float32).clamp(min=2**-24)
    return ((1 - alphas) / alphas).sqrt()


def sigma_to_timestep(sigma: Tensor, table: Tensor, *, quantize: bool = False) -> Tensor:
    """The (fractional) timestep at which the model sees noise of ``sigma``, interpolated in log sigma.

    ``sigma`` has any shape, on any device; the result has the same. ``quantize`` rounds to a timestep that
    the model was trained on. Sigmas outside of the table get its first or last timestep.
    """
    log_table = table.log().to(sigma.device)
    log_sigma = sigma.log()
    high = torch.searchsorted(log_table, log_sigma.contiguous()).clamp(1, len(table) - 1)
    low = high - 1
    weight = ((log_sigma - log_table[low]) / (log_table[high] - log_table[low])).clamp(0, 1)
    return (weight.round() if quantize else weight) + low


def timestep_to_sigma(timestep: Tensor, table: Tensor) -> Tensor:
    """The sigma of a (fractional) timestep: the inverse of :func:`sigma_to_timestep`."""
    log_table = table.log().to(timestep.device)
    timestep = timestep.clamp(0, len(table) - 1)
    low, high, weight = timestep.floor().long(), timestep.ceil().long(), timestep.frac()
    return ((1 - weight) * log_table[low] + weight * log_table[high]).exp()


def _then_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def _spaced(start: float, end: float, n: int, table: Tensor) -> Tensor:
    """``n`` sigmas, evenly spaced in time from timestep ``start`` to ``end``."""
    return timestep_to_sigma(torch.linspace(start, end, n), table)


def _uniform(n: int, low: float, high: float, table: Tensor) -> Tensor:
    return _then_zero(_spaced(len(table) - 1, 0, n, table))


def _between(low: float, high: float, table: Tensor) -> tuple[float, float]:
    """The timesteps of the highest and the lowest sigma."""
    start, end = sigma_to_timestep(torch.tensor([high, low]), table).tolist()
    return start, end


def _normal(n: int, low: float, high: float, table: Tensor) -> Tensor:
    return _then_zero(_spaced(*_between(low, high, table), n, table))


def _sgm_uniform(n: int, low: float, high: float, table: Tensor) -> Tensor:
    return _then_zero(_spaced(*_between(low, high, table), n + 1, table)[:-1])


def _exponential(n: int, low: float, high: float, table: Tensor) -> Tensor:
    return _then_zero(torch.linspace(math.log(high), math.log(low), n).exp())


def _kl_optimal(n: int, low: float, high: float, table: Tensor) -> Tensor:
    """Theorem 3.1 of "Align Your Steps" (Sabour et al. 2024, arXiv:2404.14507): it ends at ``low``, not 0."""
    ramp = torch.arange(n + 1) / n
    return (ramp * math.atan(low) + (1 - ramp) * math.atan(high)).tan()


def _simple(n: int, low: float, high: float, table: Tensor) -> Tensor:
    return _then_zero(torch.stack([table[-(1 + i * len(table) // n)] for i in range(n)]))


def _leading_timesteps(n: int, count: int) -> Tensor:
    """Timesteps of DDIM, descending: every ``count / n``-th, counted from 1; a single one is the last."""
    if n == 1:
        return torch.tensor([count - 1])
    return torch.tensor([min(i * count // n + 1, count - 1) for i in reversed(range(n))])


def _ddim(n: int, low: float, high: float, table: Tensor) -> Tensor:
    return _then_zero(table[_leading_timesteps(n, len(table))])


_SIMPLE_SCHEDULES: Final[Mapping[str, Callable[[int, float, float, Tensor], Tensor]]] = MappingProxyType(
    {
        "automatic": _uniform,
        "uniform": _uniform,
        "exponential": _exponential,
        "sgm_uniform": _sgm_uniform,
        "kl_optimal": _kl_optimal,
        "simple": _simple,
        "normal": _normal,
        "ddim": _ddim,
    }
)


def karras(n: int, low: float, high: float, rho: float = 7.0) -> Tensor:
    """Eq. 5 of Karras et al. 2022 (arXiv:2206.00364): ``n`` sigmas from ``high`` to ``low``, then 0."""
    ramp = torch.linspace(0, 1, n)
    bent_low, bent_high = low ** (1 / rho), high ** (1 / rho)
    return _then_zero((bent_high + ramp * (bent_low - bent_high)) ** rho)


def _polyexponential(n: int, low: float, high: float, rho: float) -> Tensor:
    ramp = torch.linspace(1, 0, n) ** rho
    return _then_zero((ramp * (math.log(high) - math.log(low)) + math.log(low)).exp())


def _align_your_steps(n: int, values: tuple[float, ...]) -> Tensor:
    """The eleven noise levels of Sabour et al. 2024, resampled to ``n`` along their logarithms."""
    position = np.linspace(0, 1, n)
    logs = np.interp(position, np.linspace(0, 1, len(values)), np.log(values))
    return _then_zero(torch.from_numpy(np.exp(logs)).float())


def _beta(n: int, low: float, high: float, alpha: float, beta: float) -> Tensor:
    """The quantiles of a beta distribution (Lee et al. 2024, "Beta Sampling is All You Need",
    arXiv:2407.12173).

    As in A1111 they scale sigma itself, not the timestep.
    """
    # Only here: importing it costs a cold start time, and one scheduler needs it.
    from scipy.special import betaincinv

    quantiles = betaincinv(alpha, beta, 1 - np.linspace(0, 1, n))
    return _then_zero(torch.from_numpy(low + quantiles * (high - low)).float())


def sigmas(
    scheduler: str, n: int, table: Tensor, shape: SamplingShape = DEFAULT_SHAPE, *, sdxl: bool = False
) -> Tensor:
    """``n + 1`` descending sigmas of the scheduler of that name ("karras"), for ``n >= 1`` steps.

    The last is 0, but for "kl_optimal", which ends at the lowest sigma. ``shape`` bends what the scheduler allows:
    "uniform", "simple" and "ddim" read the table alone. ``sdxl`` picks the list that "align_your_steps" was fitted
    to.
    """
    low, high = shape.sigma_min or float(table[0]), shape.sigma_max or float(table[-1])
    match scheduler:
        case "karras":
            return karras(n, low, high, shape.rho or 7.0)
        case "polyexponential":
            return _polyexponential(n, low, high, shape.rho or 1.0)
        case "align_your_steps":
            return _align_your_steps(n, _ALIGN_YOUR_STEPS_XL if sdxl else _ALIGN_YOUR_STEPS)
        case "beta":
            return _beta(n, low, high, shape.beta_alpha, shape.beta_beta)
    if function := _SIMPLE_SCHEDULES.get(scheduler):
        return function(n, low, high, table)
    raise UnknownName(f"There is no scheduler {scheduler!r}.")


def _unipc(n: int, table: Tensor, spacing: UniPCSpacing) -> Tensor:
    """The ``n + 1`` noise levels of UniPC, from the highest of the table to the lowest (not to 0)."""
    count = len(table)
    match spacing:
        case "logSNR":
            return torch.linspace(float(table[-1].log()), float(table[0].log()), n + 1).exp()
        case "time_quadratic":
            time = torch.linspace(1, math.sqrt(1 / count), n + 1) ** 2
            return timestep_to_sigma(time * count - 1, table)
        case "time_uniform":
            return _spaced(count - 1, 0, n + 1, table)


def lcm_table(table: Tensor) -> Tensor:
    """The part of the table that a latent consistency model knows."""
    stride = max(len(table) // LCM_TIMESTEPS, 1)
    return table[stride - 1 :: stride]


def sampler_sigmas(
    sampler: Sampler,
    scheduler: Scheduler,
    n: int,
    table: Tensor,
    shape: SamplingShape = DEFAULT_SHAPE,
    *,
    sdxl: bool = False,
) -> Tensor:
    """``n + 1`` descending sigmas for ``n`` steps of ``sampler``.

    ``scheduler`` may be Automatic. DDIM and PLMS have their own timesteps and end at the lowest sigma of the
    table, as UniPC does; LCM uses the timesteps that it was distilled on. Samplers that leave out the next to
    last sigma (DPM2, DPM2 a, DPM++ 3M SDE, or all by ``shape.discard_next_to_last_sigma``) get a schedule of
    ``n + 1`` steps without it. For img2img take the tail: ``sampler_sigmas(…, steps)[steps - t_enc - 1:]``.
    """
    discard = shape.discard_next_to_last_sigma or sampler.discard_next_to_last_sigma
    if sampler.own_schedule:
        if sampler.name == "UniPC":
            return _unipc(n, table, shape.unipc_spacing)
        return torch.cat([table[_leading_timesteps(n, len(table))], table[:1]])
    built = sigmas(
        effective_scheduler(sampler, scheduler).name,
        n + discard,
        lcm_table(table) if sampler.name == "LCM" else table,
        shape,
        sdxl=sdxl,
    )
    return torch.cat([built[:-2], built[-1:]]) if discard else built
