"""DPM-Solver (Lu et al. 2022, arXiv:2206.00927): the fast one with a fixed number of model calls, the
adaptive one.

Time is ``t = -log(sigma)``, which grows as noise falls.
"""

import math

import torch
from torch import Tensor

from service.core.errors import ModelError
from service.engine.samplers.euler import euler
from service.engine.samplers.protocol import Denoiser, Noise, OnStep, SamplerOptions
from service.engine.samplers.steps import ancestral_step, eta_or, lowest_sigma, slope, training_table

_RELATIVE_TOLERANCE, _ABSOLUTE_TOLERANCE = 0.05, 0.0078
_FIRST_STEP, _ACCEPT = 0.05, 0.81


class _Solver:
    """One step from time ``t`` to ``end``: model calls are shared between the orders that are asked for."""

    def __init__(self, denoiser: Denoiser, x: Tensor, t: Tensor, end: Tensor) -> None:
        self._denoiser, self._x, self._t, self._end = denoiser, x, t, end
        self._h = end - t
        self.denoised = denoiser(x, (-t).exp())
        self._eps = slope(x, (-t).exp(), self.denoised)
        self._at_third: Tensor | None = None

    def _eps_at(self, ratio: float, guess: Tensor) -> Tensor:
        sigma = (-(self._t + ratio * self._h)).exp()
        return slope(guess, sigma, self._denoiser(guess, sigma))

    def _first(self, ratio: float) -> Tensor:
        """The first-order guess at ``ratio`` of the step."""
        sigma = (-(self._t + ratio * self._h)).exp()
        return self._x - sigma * (ratio * self._h).expm1() * self._eps

    def order_1(self) -> Tensor:
        """DPM-Solver-1."""
        return self._first(1.0)

    def order_2(self, ratio: float = 0.5) -> Tensor:
        """DPM-Solver-2 with its intermediate point at ``ratio``."""
        inner = self._third() if ratio == 1 / 3 else self._eps_at(ratio, self._first(ratio))
        sigma = (-self._end).exp()
        return self.order_1() - sigma / (2 * ratio) * self._h.expm1() * (inner - self._eps)

    def order_3(self) -> Tensor:
        """DPM-Solver-3 with its intermediate points at 1/3 and 2/3."""
        r1, r2, h = 1 / 3, 2 / 3, self._h
        inner = self._third()
        sigma_2, sigma = (-(self._t + r2 * h)).exp(), (-self._end).exp()
        correction = sigma_2 * (r2 / r1) * ((r2 * h).expm1() / (r2 * h) - 1) * (inner - self._eps)
        outer = self._eps_at(r2, self._first(r2) - correction)
        return self.order_1() - sigma / r2 * (h.expm1() / h - 1) * (outer - self._eps)

    def _third(self) -> Tensor:
        if self._at_third is None:
            self._at_third = self._eps_at(1 / 3, self._first(1 / 3))
        return self._at_third


def _ancestral_end(t: Tensor, end: Tensor, last: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Where the deterministic part of a step to ``end`` leads, and the deviation of the noise that brings it
    back.

    It never goes beyond ``last``, the end of the whole run.
    """
    if not eta:
        return end, torch.zeros_like(end)
    sigma, sigma_end = (-t).exp(), (-end).exp()
    down, _ = ancestral_step(sigma, sigma_end, eta)
    beyond = torch.minimum(last, -down.log())
    return beyond, (sigma_end**2 - (-beyond).exp() ** 2).clamp(min=0).sqrt()


def _span(sigmas: Tensor, options: SamplerOptions) -> tuple[Tensor, Tensor]:
    """The times of the first sigma and of the lowest positive one.

    A single step goes to the lowest sigma that the model knows.
    """
    low = lowest_sigma(sigmas)
    if low == sigmas[0]:
        low = training_table(options)[0]
    return -sigmas[0].log(), -low.log()


def dpm_fast(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """DPM-Solver-fast, section 3.4 of the paper: as many third-order steps as the model calls allow.

    Of ``sigmas`` only the ends and the number count, which is the number of model calls: steps are evenly
    spaced in time, and the run ends at the lowest positive sigma. ``on_step`` is called after each step of
    order 1 to 3 with the number of calls so far, less one.
    """
    calls = len(sigmas) - 1
    start, last = _span(sigmas, options)
    if start >= last:
        return euler(denoiser, x, sigmas[[0, -1]], noise, options, on_step)
    eta = eta_or(options, 1.0)
    count = calls // 3 + 1
    orders = [3] * (count - 2) + [2, 1] if calls % 3 == 0 else [3] * (count - 1) + [calls % 3]
    times = torch.linspace(float(start), float(last), count + 1)
    done = 0
    for i, order in enumerate(orders):
        end, added = _ancestral_end(times[i], times[i + 1], last, eta)
        solver = _Solver(denoiser, x, times[i], end)
        x = solver.order_1() if order == 1 else solver.order_2() if order == 2 else solver.order_3()
        if eta:
            x = x + added * options.s_noise * noise.ancestral(x)
        done += order
        on_step(done - 1, x, solver.denoised)
    return x


def dpm_adaptive(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """DPM-Solver-23, appendix C of the paper: the length of a step follows from the error of the last.

    Of ``sigmas`` only the ends count. ``on_step`` is called after each attempt, also one that was rejected,
    and there may be more of them than ``sigmas`` has steps. All images of a batch share the length of a step,
    so that this sampler alone makes other images in a batch than one by one.

    Raises :class:`ModelError` if the model predicts numbers that are not finite.
    """
    t, last = _span(sigmas, options)
    if t >= last:
        return euler(denoiser, x, sigmas[[0, -1]], noise, options, on_step)
    eta = eta_or(options, 1.0)
    h = _FIRST_STEP
    order = 1.5 if eta else 3.0
    accepted, attempt = x, 0
    while t < last - 1e-5:
        end = torch.minimum(last, t + h)
        lower, added = _ancestral_end(t, end, last, eta)
        solver = _Solver(denoiser, x, t, lower)
        low, high = solver.order_2(1 / 3), solver.order_3()
        scale = (_RELATIVE_TOLERANCE * torch.maximum(low.abs(), accepted.abs())).clamp(
            min=_ABSOLUTE_TOLERANCE
        )
        error = float(torch.linalg.vector_norm((low - high) / scale)) / math.sqrt(x.numel())
        if not math.isfinite(error):
            raise ModelError(
                "The model predicted numbers that are not finite: use another precision or sampler."
            )
        # An integral controller, held back by atan so that steps neither explode nor vanish.
        factor = 1 + math.atan((1 / (error + 1e-8)) ** (1 / order) - 1)
        if factor >= _ACCEPT:
            accepted, t = low, end
            x = high + added * options.s_noise * noise.ancestral(x) if eta else high
        h *= factor
        on_step(attempt, x, solver.denoised)
        attempt += 1
    return x
