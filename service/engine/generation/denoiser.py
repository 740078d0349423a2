"""The model with guidance, as samplers see it: latents and a noise level in, the predicted clean latent out."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.core.cancel import CancelToken
from service.engine.conditioning import Conditioning, StepConditioning
from service.engine.families.protocol import Family, Told
from service.engine.generation.hooks import Call, Hook


class GuidedDenoiser:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) around a model; one per pass.

    Called by the sampler with latents in VE space (n, c, h, w). Looks at ``token`` before each call of the
    model. ``size`` is the picture's (width, height) in pixels. ``hooks`` see each call, in order.
    """

    def __init__(
        self,
        model: Family,
        conditioning: Conditioning,
        guidance_scale: float,
        token: CancelToken,
        *,
        size: tuple[int, int],
        hooks: Sequence[Hook] = (),
        s_min_uncond: float = 0.0,
    ) -> None:
        self._model = model
        self._conditioning = conditioning
        self._scale = guidance_scale
        self._token = token
        self._size = size
        self._hooks = hooks
        self._s_min_uncond = s_min_uncond
        self._calls = 0
        self._uncond: Tensor | None = None
        self.step = 0
        self.steps = 1
        """Sampler steps done, and in all; kept up to date by the pass (a step may call the model more than once)."""

    @property
    def uncond_denoised(self) -> Tensor:
        """The unconditional half of the latest prediction (for CFG++)."""
        assert self._uncond is not None, "the denoiser has not been called"
        return self._uncond

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Predict the clean latent of ``x`` at noise level ``sigma`` (0-dim, > 0)."""
        self._token.raise_if_cancelled()
        call = Call(x, float(sigma), self._model, self._conditioning, self.step / self.steps)
        for hook in self._hooks:
            call = hook.before(call)
        now = call.conditioning.step(self._calls)
        # Every other step may go without the negative prompt where the noise is already low.
        skip = self._scale == 1.0 or (self._calls % 2 == 1 and call.sigma < self._s_min_uncond)
        self._calls += 1
        if skip and not now.is_composed:
            denoised = self._uncond = self._predict(call, now, with_negative=False)
        else:
            both = self._predict(call, now, with_negative=True)
            cond, uncond = both[: len(now.images)], both[len(now.images) :]
            denoised, self._uncond = now.guide(cond, uncond, self._scale), uncond
        for hook in self._hooks:
            denoised = hook.after(denoised, call)
        return denoised

    def _predict(self, call: Call, now: StepConditioning, *, with_negative: bool) -> Tensor:
        """The clean latents without guidance, a row for each part of a prompt, then one for each negative prompt."""

        def rows(batch: Tensor) -> Tensor:
            return torch.cat([now.rows(batch), batch]) if with_negative else now.rows(batch)

        told = Told(
            states=now.both if with_negative else now.cond,
            pooled=now.both_pooled if with_negative else now.cond_pooled,
            size=self._size,
            negative_rows=len(call.x) if with_negative else 0,
            concat=None if call.concat is None else rows(call.concat),
        )
        return call.model.predict(rows(call.x), call.sigma, told)
