"""What a sampler is given: a denoiser, noise, options, and somebody to tell after each step.

Inside samplers latents live in variance-exploding (VE) space, as in Karras et al. 2022 (arXiv:2206.00364):
``x = x0 + sigma * noise`` with no other scale. For txt2img the first latent is ``noise * sigmas[0]``, for
img2img ``latent + noise * sigmas[0]``; what comes out is the latent for the VAE (before its own scaling
factor).

Tensors: latents are float32 of shape (batch, channels, height/8, width/8) on the model's device. Sigmas are
float32 on the CPU, so that the arithmetic of a step never waits for a GPU; a 0-dim CPU tensor multiplies a
CUDA tensor as a Python number does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from service.core.generation import UniPCVariant

BrownianNoise: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``(sigma, sigma_next) -> noise`` of unit variance, shaped like the latent."""

OnStep: TypeAlias = Callable[[int, Tensor, Tensor], None]
"""``(step, x, denoised)`` after each sampler step, ``step`` counted from 0: ``x`` is the latent after the
step, ``denoised`` the prediction that it was made from. It may raise, which ends sampling: that is how a
cancelled request stops."""


class Denoiser(Protocol):
    """The model with guidance, as samplers see it."""

    def __call__(self, x: Tensor, sigma: Tensor, /) -> Tensor:
        """Predict x0, after guidance, of latents ``x`` (VE space) at noise level ``sigma`` (0-dim, > 0).

        May raise to end sampling.
        """
        ...


@runtime_checkable
class UnconditionalDenoiser(Protocol):
    """A denoiser that also remembers its unconditional half; "DDIM CFG++" needs one."""

    @property
    def uncond_denoised(self) -> Tensor:
        """The prediction of x0 for the negative prompt, of the latest call, shaped like the latent."""
        ...

    def __call__(self, x: Tensor, sigma: Tensor, /) -> Tensor:
        """As :class:`Denoiser`."""
        ...


class Noise(Protocol):
    """Where a sampler's random numbers come from: one stream per image."""

    def ancestral(self, x: Tensor, /) -> Tensor:
        """The next standard normal draw, shaped like ``x`` and on its device."""
        ...

    def brownian(self, x: Tensor, sigma_min: float, sigma_max: float, /) -> BrownianNoise:
        """Increments of one Brownian path per image over ``[sigma_min, sigma_max]``."""
        ...


@dataclass(frozen=True, slots=True)
class SamplerOptions:
    """The numbers that a request may change. A sampler ignores those that it does not use.

    ``eta`` None means the sampler's own (1 for ancestral and SDE samplers, 0 for DDIM). ``table`` holds the
    model's training sigmas, ascending (see :mod:`service.engine.samplers.schedules`); LCM needs it, and DPM fast
    and adaptive when there is a single step. ``brownian_range`` is the (lowest positive, highest) sigma of
    the *whole* schedule: give it when ``sigmas`` is the tail of one (img2img), so that the same seed draws
    the same path.
    """

    eta: float | None = None
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = float("inf")
    s_noise: float = 1.0
    table: Tensor | None = None
    brownian_range: tuple[float, float] | None = None
    unipc_variant: UniPCVariant = "bh1"
    unipc_order: int = 3
    unipc_lower_order_final: bool = True


class SamplerFunction(Protocol):
    """One sampling algorithm."""

    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        noise: Noise,
        options: SamplerOptions,
        on_step: OnStep,
        /,
    ) -> Tensor:
        """Take ``x`` from ``sigmas[0]`` to ``sigmas[-1]`` (descending) and return it."""
        ...
