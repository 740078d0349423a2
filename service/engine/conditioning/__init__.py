"""Conditioning: prompts as tensors for the UNet's cross-attention.

In the denoising loop::

    conditioner = Conditioner.of_pipeline(pipeline, key=checkpoint_key, cache=cache)
    conditioning = conditioner.encode(prompts, negative_prompts, steps=20, clip_skip=2)
    for i, sigma in enumerate(sigmas):
        now = conditioning.step(i)
        # now.cond (R, L, D), now.uncond (N, L, D): R rows for N images; R > N where prompts use AND
        latents_in = torch.cat([now.rows(latents), latents])  # (R + N, C, H, W)
        out = unet(latents_in, t, encoder_hidden_states=now.both).sample
        guided = now.guide(out[: len(now.images)], out[len(now.images) :], guidance_scale)  # (N, C, H, W)

SDXL also wants ``now.both_pooled`` (R + N, P) as ``added_cond_kwargs["text_embeds"]``.
"""

from service.engine.conditioning.cache import EncodedText, EncodingCache
from service.engine.conditioning.conditioner import Conditioner
from service.engine.conditioning.emphasis import EMPHASIS_MODES
from service.engine.conditioning.encoders import ClipEncoder
from service.engine.conditioning.schedule import Conditioning, StepConditioning

__all__ = [
    "EMPHASIS_MODES",
    "ClipEncoder",
    "Conditioner",
    "Conditioning",
    "EncodedText",
    "EncodingCache",
    "StepConditioning",
]
