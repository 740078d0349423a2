"""What bends a generation from step to step: inpainting's mask, the picture an inpainting network is told, a refiner.

A hook sees each call of the model before and after. What comes later (a ControlNet, regional prompts) is one more.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from service.engine.conditioning import Conditioning
from service.engine.families.protocol import Family


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the model: latents ``x`` (n, c, h, w; VE space) at noise level ``sigma``, by ``model``.

    ``done`` 0..1 is the share of the calls that went before. ``concat`` (n, c, h, w): see
    :class:`service.engine.families.protocol.Told`.
    """

    x: Tensor
    sigma: float
    model: Family
    conditioning: Conditioning
    done: float
    concat: Tensor | None = None


class Hook:
    """Bends nothing; each method may be overridden."""

    def before(self, call: Call) -> Call:
        """The call to make in place of ``call``. Where it has another ``x``, what the network makes of that one is
        taken for the noise in the sampler's own."""
        return call

    def after(self, denoised: Tensor, call: Call) -> Tensor:
        """The guided prediction (n, c, h, w) to go on with."""
        return denoised

    def finish(self, latent: Tensor) -> Tensor:
        """What the pass ends with."""
        return latent


@dataclass(frozen=True, slots=True)
class KeepUnmasked(Hook):
    """Inpainting: what is not masked stays. ``mask`` (n or 1, 1, h, w) is 1 where it is repainted, 0 where kept.

    ``early``: the network is shown the original where it is kept (in the scale of latents with noise, without any),
    in place of a prediction that is mended. So does A1111 for DDIM, PLMS and UniPC.
    """

    original: Tensor
    mask: Tensor
    early: bool = False

    def before(self, call: Call) -> Call:
        """With the original where it is kept, if ``early``."""
        if not self.early:
            return call
        scale = (call.sigma**2 + 1) ** 0.5
        return replace(call, x=self.finish(call.x / scale) * scale)

    def after(self, denoised: Tensor, call: Call) -> Tensor:
        """The original's latent where it is kept."""
        return denoised if self.early else self.finish(denoised)

    def finish(self, latent: Tensor) -> Tensor:
        """The original's latent where it is kept."""
        return latent * self.mask + self.original * (1 - self.mask)


@dataclass(frozen=True, slots=True)
class ShowPicture(Hook):
    """Tells an inpainting network the mask and the latent of the picture without its masked part."""

    concat: Tensor

    def before(self, call: Call) -> Call:
        """With :attr:`concat` for a network that takes it."""
        return replace(call, concat=self.concat) if call.model.is_inpainting else call


class Refine(Hook):
    """Hands over to another checkpoint once the noise is ``switch_at`` (0..1) of the way down, or by calls done."""

    def __init__(
        self, switch_at: float, load: Callable[[], tuple[Family, Conditioning]], *, by_steps: bool = False
    ) -> None:
        """``load`` is called when it takes over. ``by_steps``: calls count, not the noise."""
        self._switch_at = switch_at
        self._load = load
        self._by_steps = by_steps
        self.model: Family | None = None
        """The checkpoint that took over, if it did."""
        self._conditioning: Conditioning | None = None

    def before(self, call: Call) -> Call:
        """By the refiner from its turn on."""
        if self.model is None and self._way(call) >= self._switch_at:
            self.model, self._conditioning = self._load()
        if self.model is None or self._conditioning is None:
            return call
        return replace(call, model=self.model, conditioning=self._conditioning)

    def _way(self, call: Call) -> float:
        if self._by_steps:
            return call.done
        levels = call.model.sigmas
        return (len(levels) - 1 - int((levels - call.sigma).abs().argmin())) / len(levels)
