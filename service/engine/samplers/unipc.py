"""UniPC: a multistep predictor with a corrector that costs no model call."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from service.core.generation import UniPCVariant
from service.engine.samplers.protocol import Denoiser, Noise, OnStep, SamplerOptions
from service.engine.samplers.steps import to_variance_preserving


def _weights(ratios: Sequence[float], h: float, variant: UniPCVariant) -> list[float]:
    """How much each difference ``(m_k - m_0) / r_k`` counts in a step of length ``h`` in log SNR.

    ``ratios`` are the r_k: places of the other predictions, in units of ``h`` from the current one (past ones
    are negative, 1 is the end of the step). The weights satisfy the order conditions of the paper's theorem
    3.1 (phi functions of the exponential integrator). With a single difference they are not unique: "bh1" and
    "bh2" take B(h) / 2 with the B of the same name, "vary_coeff" what solves the condition exactly.
    """
    if len(ratios) == 1 and variant != "vary_coeff":
        return [(-h if variant == "bh1" else math.expm1(-h)) / 2]
    moments = []
    phi, factorial = math.expm1(-h) / -h - 1, 1
    for k in range(1, len(ratios) + 1):
        moments.append(phi * factorial)
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    nodes = torch.tensor(ratios, dtype=torch.float64)
    system = torch.stack([nodes**k for k in range(len(ratios))])
    return torch.linalg.solve(system, torch.tensor(moments, dtype=torch.float64)).tolist()


def unipc(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """UniPC-p, predicting x0 (Zhao et al. 2023, arXiv:2302.04867), of order 1 to ``options.unipc_order``.

    The order grows with the predictions at hand and, with ``unipc_lower_order_final``, falls again towards
    the end. The last step is not corrected. In VE latents (alpha = 1) the paper's ``x_t = sigma_t / sigma_s *
    x_s - alpha_t * (…)`` holds with the ratio of VE sigmas.
    """
    steps = len(sigmas) - 1
    variant = options.unipc_variant
    log_snr = [-math.log(max(float(sigma), 1e-12)) for sigma in sigmas]
    predictions = [denoiser(x, sigmas[0])]  # newest first
    for i in range(steps):
        order = min(options.unipc_order, i + 1, steps - i if options.unipc_lower_order_final else steps)
        h = log_snr[i + 1] - log_snr[i]
        newest = predictions[0]
        past = [(log_snr[i - k] - log_snr[i]) / h for k in range(1, order)]
        differences = [(predictions[k] - newest) / past[k - 1] for k in range(1, order)]
        base = math.exp(-h) * x - math.expm1(-h) * newest
        x = base
        if differences:
            for weight, difference in zip(_weights(past, h, variant), differences, strict=True):
                x = x - weight * difference
        if i + 1 < steps:
            ahead = denoiser(x, sigmas[i + 1])
            x = base
            weights = _weights([*past, 1.0], h, variant)
            for weight, difference in zip(weights, [*differences, ahead - newest], strict=True):
                x = x - weight * difference
            predictions = [ahead, *predictions[: options.unipc_order - 1]]
        on_step(i, x, newest)
    return to_variance_preserving(x, sigmas[-1])
