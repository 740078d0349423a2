"""The DPM-Solver++ family (Lu et al. 2022, arXiv:2211.01095).

In VE latents (alpha = 1) the paper's exponential integrator over ``lambda = -log(sigma)`` is a blend,
``x_next = a * x + (1 - a) * D`` with ``a = sigma_next / sigma = exp(-h)``, where D is the denoised
prediction; the multistep solvers extrapolate it from earlier ones, the stochastic ones (section 5) remove
more noise than the step asks for and add fresh noise instead.
"""

from torch import Tensor

from service.engine.samplers.protocol import Denoiser, Noise, OnStep, SamplerOptions
from service.engine.samplers.steps import ancestral_step, brownian, eta_or


def _blend(x: Tensor, denoised: Tensor, kept: Tensor) -> Tensor:
    return kept * x + (1 - kept) * denoised


def dpmpp_2m(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """DPM-Solver++(2M), algorithm 2 of the paper: second order from the previous step's prediction."""
    previous: Tensor | None = None
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        denoised = denoiser(x, sigma)
        estimate = denoised
        if previous is not None and sigma_next > 0:
            r = (sigmas[i - 1] / sigma).log() / (sigma / sigma_next).log()
            estimate = denoised + (denoised - previous) / (2 * r)
        x = _blend(x, estimate, sigma_next / sigma)
        previous = denoised
        on_step(i, x, denoised)
    return x


def dpmpp_2s_ancestral(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """DPM-Solver++(2S), algorithm 1 of the paper, each step followed by fresh noise as in "Euler a"."""
    eta = eta_or(options, 1.0)
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        denoised = denoiser(x, sigma)
        sigma_down, sigma_up = ancestral_step(sigma, sigma_next, eta)
        estimate = denoised
        if sigma_down > 0:
            middle = (sigma * sigma_down).sqrt()
            estimate = denoiser(_blend(x, denoised, middle / sigma), middle)
        x = _blend(x, estimate, sigma_down / sigma)
        if sigma_next > 0:
            x = x + noise.ancestral(x) * options.s_noise * sigma_up
        on_step(i, x, denoised)
    return x


def dpmpp_sde(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """DPM-Solver++ for the SDE, singlestep of second order.

    An ancestral step leads half-way; what the model says there serves one over the whole. Both read the same
    Brownian path.
    """
    eta = eta_or(options, 1.0)
    path = brownian(x, sigmas, noise, options)
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        denoised = denoiser(x, sigma)
        if sigma_next == 0:
            x = denoised
        else:
            # A Brownian path is rough, a sigma that is off by its last digit reads other noise: hence the way
            # through t = -log(sigma), by which everybody else computes them.
            t, t_next = -sigma.log(), -sigma_next.log()
            sigma, middle, sigma_next = ((-time).exp() for time in (t, t + (t_next - t) / 2, t_next))
            down, up = ancestral_step(sigma, middle, eta)
            half_way = _blend(x, denoised, down / sigma)
            if eta:
                half_way = half_way + path(sigma, middle) * options.s_noise * up
            estimate = denoiser(half_way, middle)
            down, up = ancestral_step(sigma, sigma_next, eta)
            x = _blend(x, estimate, down / sigma)
            if eta:
                x = x + path(sigma, sigma_next) * options.s_noise * up
        on_step(i, x, denoised)
    return x


def dpmpp_2m_sde(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """SDE-DPM-Solver++(2M), the midpoint form (eq. 18 of the paper at ``eta`` 1)."""
    return _dpmpp_2m_sde(denoiser, x, sigmas, noise, options, on_step, heun=False)


def dpmpp_2m_sde_heun(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """SDE-DPM-Solver++(2M) with the other weight for the difference of predictions.

    It is the exact integral of their linear extrapolation, where the midpoint form takes its value half-way.
    """
    return _dpmpp_2m_sde(denoiser, x, sigmas, noise, options, on_step, heun=True)


def _dpmpp_2m_sde(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: Noise,
    options: SamplerOptions,
    on_step: OnStep,
    *,
    heun: bool,
) -> Tensor:
    eta = eta_or(options, 1.0)
    path = brownian(x, sigmas, noise, options)
    previous: Tensor | None = None
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        denoised = denoiser(x, sigma)
        if sigma_next == 0:
            x = denoised
        else:
            h = (sigma / sigma_next).log()
            length = h * (1 + eta)
            x = _blend(x, denoised, (-length).exp())
            if previous is not None:
                r = (sigmas[i - 1] / sigma).log() / h
                removed = -(-length).expm1()
                weight = 1 - removed / length if heun else removed / 2
                x = x + weight * (denoised - previous) / r
            if eta:
                x = x + path(sigma, sigma_next) * _fresh(sigma_next, h, eta) * options.s_noise
        previous = denoised
        on_step(i, x, denoised)
    return x


def _fresh(sigma_next: Tensor, h: Tensor, eta: float) -> Tensor:
    """Deviation of the noise that a stochastic step of length ``h`` adds."""
    return sigma_next * (-(-2 * eta * h).expm1()).sqrt()


def dpmpp_3m_sde(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, options: SamplerOptions, on_step: OnStep
) -> Tensor:
    """SDE-DPM-Solver++(3M): third order, by the divided differences of the paper's multistep solvers."""
    eta = eta_or(options, 1.0)
    path = brownian(x, sigmas, noise, options)
    earlier: list[Tensor] = []  # predictions, newest first
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        denoised = denoiser(x, sigma)
        if sigma_next == 0:
            x = denoised
        else:
            h = (sigma / sigma_next).log()
            length = h * (1 + eta)
            x = _blend(x, denoised, (-length).exp())
            if earlier:
                phi_2 = (-length).expm1() / length + 1
                r0 = (sigmas[i - 1] / sigma).log() / h
                first = (denoised - earlier[0]) / r0
                if len(earlier) == 1:
                    x = x + phi_2 * first
                else:
                    r1 = (sigmas[i - 2] / sigmas[i - 1]).log() / h
                    bend = (first - (earlier[0] - earlier[1]) / r1) / (r0 + r1)
                    x = x + phi_2 * (first + bend * r0) - (phi_2 / length - 0.5) * bend
            if eta:
                x = x + path(sigma, sigma_next) * _fresh(sigma_next, h, eta) * options.s_noise
        earlier = [denoised, *earlier[:1]]
        on_step(i, x, denoised)
    return x
