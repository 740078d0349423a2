"""Which noise levels the steps of a sampler visit.

A *table* is a float32 CPU tensor of the sigmas that the model was trained on, ascending; index t is its
timestep (1000 of them, about 0.029 to 14.6, for Stable Diffusion 1, 2 and XL). A *schedule* is a float32 CPU
tensor of descending sigmas, as samplers take it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor

from service.catalogue.samplers import Sampler, Scheduler, effective_scheduler
from service.core.errors import UnknownName
from service.core.generation import SamplingShape, UniPCSpacing

DEFAULT_SHAPE: Final = SamplingShape()

_LEAST_ALPHA: Final = 4.8973451890853435e-08
"""What A1111 puts in place of 0: pure noise would be an infinite sigma."""

LCM_TIMESTEPS: Final = 50
"""Latent consistency models are distilled on every 20th of the 1000 timesteps: 19, 39 … 999."""

_ALIGN_YOUR_STEPS: Final = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
_ALIGN_YOUR_STEPS_XL: Final = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)


def training_sigmas(alphas_cumprod: Tensor) -> Tensor:
    """The table of a model: ``sqrt((1 - a) / a)``.

    A model with zero terminal SNR ends at a = 0, an infinite sigma; like A1111 we stop just short of it.
    """
    alphas = alphas_cumprod.to(device="cpu", dtype=torch.float32).clamp(min=_LEAST_ALPHA)
    return ((1 - alphas) / alphas).sqrt()


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Bent so that the last one is 0, pure noise (Lin et al. 2023, arXiv:2305.08891, algorithm 1)."""
    root = alphas_cumprod.sqrt()
    return ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2


def bent_table(table: Tensor, shape: SamplingShape) -> Tensor:
    """The sigmas of a model as a request bends them."""
    if not (shape.zero_terminal_snr or shape.half_alphas):
        return table
    alphas = 1 / (table.double() ** 2 + 1)
    if shape.half_alphas:
        alphas = alphas.half().double()
    return training_sigmas(zero_terminal_snr(alphas) if shape.zero_terminal_snr else alphas)


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
    ends = (0.1, 10.0) if shape.old_karras_ends else (float(table[0]), float(table[-1]))
    low, high = shape.sigma_min or ends[0], shape.sigma_max or ends[1]
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


def _unipc(start: float, n: int, table: Tensor, spacing: UniPCSpacing) -> Tensor:
    """The ``n + 1`` noise levels of UniPC, from timestep ``start`` of the table to the lowest (not to 0)."""
    count = len(table)
    highest = timestep_to_sigma(torch.tensor(float(start)), table)
    match spacing:
        case "logSNR":
            return torch.linspace(float(highest.log()), float(table[0].log()), n + 1).exp()
        case "time_quadratic":
            time = torch.linspace(math.sqrt((start + 1) / count), math.sqrt(1 / count), n + 1) ** 2
            return timestep_to_sigma(time * count - 1, table)
        case "time_uniform":
            return _spaced(start, 0, n + 1, table)


def lcm_timestep(sigma: float, table: Tensor) -> int:
    """The nearest timestep that a latent consistency model was distilled on."""
    known = lcm_table(table)
    stride = len(table) // len(known)
    return int((known.log() - math.log(sigma)).abs().argmin()) * stride + stride - 1


def lcm_table(table: Tensor) -> Tensor:
    """The part of the table that a latent consistency model knows."""
    stride = max(len(table) // LCM_TIMESTEPS, 1)
    return table[stride - 1 :: stride]


@dataclass(frozen=True, slots=True)
class Walk:
    """The noise levels of one pass.

    ``sigmas`` descend, as the sampler visits them. ``mixed_at`` is the noise level at which a picture and noise are
    mixed to start from, None where there is noise alone. ``ends`` are the lowest positive and the highest sigma of
    the whole schedule, of which a pass from a picture walks the tail.
    """

    sigmas: Tensor
    mixed_at: float | None
    ends: tuple[float, float]


def walk(
    sampler: Sampler,
    scheduler: Scheduler,
    n: int,
    table: Tensor,
    shape: SamplingShape = DEFAULT_SHAPE,
    *,
    encoded: int | None = None,
    sdxl: bool = False,
) -> Walk:
    """What ``sampler`` walks in a schedule of ``n`` steps; from a picture (``encoded``) its last ``encoded + 1``.

    DDIM, PLMS and UniPC (``own_schedule``) do as in A1111, which is not always what one would expect: see
    :func:`_timesteps`.
    """
    if not sampler.own_schedule:
        whole = sampler_sigmas(sampler, scheduler, n, table, shape, sdxl=sdxl)
        tail = whole if encoded is None else whole[n - encoded - 1 :]
        mixed_at = None if encoded is None else float(tail[0])
        return Walk(
            tail, mixed_at, (float(whole[whole > 0][-1]) if (whole > 0).any() else 0.0, float(whole[0]))
        )
    times = _timesteps(n + shape.discard_next_to_last_sigma, len(table))
    mixed_at = None if encoded is None else float(table[times[min(encoded, len(times) - 1)]])
    times = times[:encoded]
    if mixed_at is not None and not times:
        sigmas = torch.tensor([mixed_at])
    elif sampler.name == "UniPC":
        start = len(table) - 1 if encoded is None else times[-1]
        sigmas = _unipc(start, len(times), table, shape.unipc_spacing)
    else:
        sigmas = table[times].flip(0)
    return Walk(sigmas, mixed_at, (float(sigmas[-1]), float(sigmas[0])))


def _timesteps(n: int, count: int) -> list[int]:
    """A1111's timesteps of DDIM, PLMS and UniPC, ascending: every ``count // n``-th, counted from 1.

    Where ``n`` does not divide ``count`` there are more of them than ``n``. DDIM and PLMS go from each to the one
    below, so that they take one step less than there are timesteps; UniPC counts them and spaces anew.
    """
    return [min(time + 1, count - 1) for time in range(0, count, max(1, count // n))]


def sampler_sigmas(
    sampler: Sampler,
    scheduler: Scheduler,
    n: int,
    table: Tensor,
    shape: SamplingShape = DEFAULT_SHAPE,
    *,
    sdxl: bool = False,
) -> Tensor:
    """``n + 1`` descending sigmas for ``n`` steps of a ``sampler`` that takes a scheduler; see :func:`walk`.

    ``scheduler`` may be Automatic. LCM uses the timesteps that it was distilled on. Samplers that leave out the next
    to last sigma (DPM2, DPM2 a, DPM++ 3M SDE, or all by ``shape.discard_next_to_last_sigma``) get a schedule of
    ``n + 1`` steps without it.
    """
    discard = shape.discard_next_to_last_sigma or sampler.discard_next_to_last_sigma
    built = sigmas(
        effective_scheduler(sampler, scheduler).name,
        n + discard,
        lcm_table(table) if sampler.name == "LCM" else table,
        shape,
        sdxl=sdxl,
    )
    return torch.cat([built[:-2], built[-1:]]) if discard else built
