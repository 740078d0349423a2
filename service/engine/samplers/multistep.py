"""Linear multistep samplers: LMS and PLMS reuse the slopes of earlier steps."""

import numpy as np
from numpy.polynomial import Polynomial
from torch import Tensor

from service.engine.samplers.protocol import Denoiser, Noise, OnStep, SamplerOptions
from service.engine.samplers.steps import slope, to_variance_preserving

_LMS_ORDER = 4


def _lms_weights(nodes: list[float], end: float) -> list[float]:
    """How much each of the slopes at ``nodes`` counts in the step from ``nodes[0]`` to ``end``.

    The polynomial through the slopes (in Lagrange's form) is integrated exactly.
    """
    weights = []
    for j, node in enumerate(nodes):
        others = [other for k, other in enumerate(nodes) if k != j]
        basis = Polynomial.fromroots(others) if others else Polynomial([1.0])
        integral = (basis / float(np.prod([node - other for other in others]))).integ()
        weights.append(float(integral(end) - integral(nodes[0])))
    return weights


def lms(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """Linear multistep of order 4, the Adams-Bashforth method for uneven steps, over sigma."""
    slopes: list[Tensor] = []
    for i in range(len(sigmas) - 1):
        denoised = denoiser(x, sigmas[i])
        slopes = [slope(x, sigmas[i], denoised), *slopes[: _LMS_ORDER - 1]]
        nodes = [float(sigmas[i - k]) for k in range(len(slopes))]
        weights = _lms_weights(nodes, float(sigmas[i + 1]))
        for weight, earlier in zip(weights, slopes, strict=True):
            x = x + weight * earlier
        on_step(i, x, denoised)
    return x


def plms(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """Pseudo linear multistep, PNDM without Runge-Kutta (Liu et al. 2022, arXiv:2202.09778).

    The noise prediction is extrapolated by Adams-Bashforth weights for even timesteps, then used for one step
    of DDIM. The first step asks the model twice. In VE latents a DDIM step is Euler's, so that the paper's
    change between scales is needed at the end alone.
    """
    earlier: list[Tensor] = []
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        predicted = slope(x, sigma, denoiser(x, sigma))
        match earlier:
            case []:
                used = predicted
                if sigma_next > 0:
                    ahead = x + predicted * (sigma_next - sigma)
                    used = (predicted + slope(ahead, sigma_next, denoiser(ahead, sigma_next))) / 2
            case [last]:
                used = (3 * predicted - last) / 2
            case [last, second]:
                used = (23 * predicted - 16 * last + 5 * second) / 12
            case [last, second, third, *_]:
                used = (55 * predicted - 59 * last + 37 * second - 9 * third) / 24
        earlier = [predicted, *earlier[:2]]
        denoised = x - sigma * used
        x = x + used * (sigma_next - sigma)
        on_step(i, x, denoised)
    return to_variance_preserving(x, sigmas[-1])
