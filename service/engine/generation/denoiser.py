"""The model with guidance, as samplers see it: latents and a noise level in, the predicted clean latent out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.core.cancel import CancelToken
from service.engine.conditioning import Conditioning
from service.engine.families.protocol import Family, Told
from service.engine.generation.hooks import Call, Hook
from service.engine.samplers.schedules import lcm_timestep


@dataclass(frozen=True, slots=True)
class Guidance:
    """How far the negative prompt is left behind, and when it is left out to save time.

    See :class:`service.core.generation.GenerationRequest` for the last three.
    """

    scale: float
    needs_uncond: bool = False
    """The sampler asks for the unconditional prediction itself (CFG++)."""
    s_min_uncond: float = 0.0
    s_min_uncond_all: bool = False
    skip_early_cond: float = 0.0


class GuidedDenoiser:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) around a model; one per pass.

    Called by the sampler with latents in VE space (n, c, h, w), about ``calls`` times. Looks at ``token`` before each
    call of the model. ``size`` is the picture's (width, height) in pixels. ``hooks`` see each call, in order.
    ``distilled``: the model knows the timesteps of latent consistency models alone.
    """

    def __init__(
        self,
        model: Family,
        conditioning: Conditioning,
        guidance: Guidance,
        token: CancelToken,
        *,
        size: tuple[int, int],
        calls: int = 1,
        hooks: Sequence[Hook] = (),
        token_merging: float = 0.0,
        distilled: bool = False,
    ) -> None:
        self._model = model
        self._conditioning = conditioning
        self._guidance = guidance
        self._token = token
        self._size = size
        self._expected = max(1, calls)
        self._hooks = hooks
        self._token_merging = token_merging
        self._distilled = distilled
        self._calls = 0
        self._uncond: Tensor | None = None
        self.remarks: dict[str, object] = {}
        """What the infotext tells of it, in A1111's words."""

    @property
    def uncond_denoised(self) -> Tensor:
        """The unconditional half of the latest prediction (for CFG++)."""
        assert self._uncond is not None, "the denoiser has not been called"
        return self._uncond

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Predict the clean latent of ``x`` at noise level ``sigma`` (0-dim, > 0)."""
        self._token.raise_if_cancelled()
        call = Call(x, float(sigma), self._model, self._conditioning, self._calls / self._expected)
        for hook in self._hooks:
            call = hook.before(call)
        now = call.conditioning.step(self._calls)
        scale = self._guidance.scale
        if self._goes_alone(call):
            cond = self._predict(call, now.cond, now.cond_pooled, now.rows)
            # A prompt's first part stands in for the negative prompt.
            uncond, scale = now.firsts(cond), 1.0
        elif now.is_even:
            both = self._predict(
                call, now.both, now.both_pooled, lambda batch: torch.cat([now.rows(batch), batch]), len(x)
            )
            cond, uncond = both[: len(now.images)], both[len(now.images) :]
        else:
            cond = self._predict(call, now.cond, now.cond_pooled, now.rows)
            uncond = self._predict(call, now.uncond, now.uncond_pooled, lambda batch: batch, len(x))
        self._calls += 1
        if now.padded != "none":
            self.remarks["Pad conds" if now.padded == "empty" else "Pad conds v0"] = True
        denoised = now.guide(cond, uncond, scale)
        if call.x is not x:
            denoised, uncond = denoised + (x - call.x), uncond + (x - call.x)
        self._uncond = uncond
        for hook in self._hooks:
            denoised = hook.after(denoised, call)
        return denoised

    def _goes_alone(self, call: Call) -> bool:
        """True if this call does without the negative prompt."""
        wanted = self._guidance
        if wanted.skip_early_cond != 0 and call.done <= wanted.skip_early_cond:
            self.remarks["Skip Early CFG"] = wanted.skip_early_cond
            return True
        if (self._calls % 2 == 1 or wanted.s_min_uncond_all) and call.sigma < wanted.s_min_uncond:
            self.remarks["NGMS"] = wanted.s_min_uncond
            if wanted.s_min_uncond_all:
                self.remarks["NGMS all steps"] = True
            return True
        return wanted.scale == 1.0 and not wanted.needs_uncond

    def _predict(
        self,
        call: Call,
        states: Tensor,
        pooled: Tensor | None,
        rows: Callable[[Tensor], Tensor],
        negative_rows: int = 0,
    ) -> Tensor:
        """The clean latents without guidance of ``rows`` of the batch, the last of them by the negative prompt."""
        model = call.model
        told = Told(
            states=states,
            pooled=pooled,
            size=self._size,
            negative_rows=negative_rows,
            concat=None if call.concat is None else rows(call.concat),
            timestep=float(lcm_timestep(call.sigma, model.sigmas)) if self._distilled else None,
            token_merging=self._token_merging,
        )
        return model.predict(rows(call.x), call.sigma, told)
