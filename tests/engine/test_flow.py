"""A third kind of network moves in: a flow-matching transformer, by way of the families' protocol alone.

It is not offered (no loader reads such a checkpoint): it shows that samplers, guidance, prompts and passes know
nothing of UNets. Its picture is that of diffusers' own pipeline.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from service.catalogue.samplers import SAMPLERS, Sampler, Scheduler
from service.core.cancel import CancelToken
from service.core.generation import GenerationRequest, HiresFix, InitImage, SamplingShape
from service.core.jobs import Enlargement
from service.core.pixels import Pixels
from service.core.records import CheckpointInfo
from service.engine.conditioning import ClipEncoder, Conditioner
from service.engine.families.model import Model
from service.engine.families.protocol import Told
from service.engine.generation.generation import Generation
from service.engine.generation.noise import NoiseSource
from service.engine.samplers.schedules import Walk
from service.engine.weights.clip_vocabulary import END, clip_tokenizer
from service.prompt import NetworkTag

SIDE, CELLS, WIDTH, T5_TOKENS = 64, 32, 32, 256
REQUEST = GenerationRequest(
    prompt="a photo of a cat",
    negative_prompt="dog",
    seed=3,
    steps=6,
    width=SIDE,
    height=SIDE,
    guidance_scale=4.0,
)


@dataclass(eq=False, kw_only=True)
class Flow(Model):
    """Stable Diffusion 3's architecture: the network predicts noise minus picture, at time ``s`` from 0 to 1."""

    transformer: Any
    shift: float

    @property
    def network(self) -> Any:
        """The transformer."""
        return self.transformer

    @property
    def native_size(self) -> int:
        """Of its position embedding."""
        return int(self.transformer.config.sample_size) * self.latent_factor

    def walk(
        self, sampler: Sampler, scheduler: Scheduler, steps: int, shape: SamplingShape, encoded: int | None
    ) -> Walk:
        """Evenly spaced in time, then shifted towards noise (Esser et al. 2024, arXiv:2403.03206, eq. 23)."""
        lowest, highest = (float(level / (1 + level)) for level in self.sigmas[[0, -1]])
        times = torch.linspace(highest, lowest, steps)
        shifted = self.shift * times / (1 + (self.shift - 1) * times)
        whole = torch.cat([shifted / (1 - shifted), torch.zeros(1)])
        tail = whole if encoded is None else whole[steps - encoded - 1 :]
        mixed_at = None if encoded is None else float(tail[0])
        return Walk(tail, mixed_at, (float(whole[-2]), float(whole[0])))

    def predict(self, x: Tensor, sigma: float, told: Told) -> Tensor:
        """``x0 = x_s - s * v`` with the flow's own latent ``x_s = x / (1 + sigma)`` at ``s = sigma / (1 + sigma)``."""
        s, here = sigma / (1 + sigma), x / (1 + sigma)
        states = torch.nn.functional.pad(told.states, (0, WIDTH * 2 - told.states.shape[-1]))
        states = torch.cat([states, torch.zeros(len(states), T5_TOKENS, states.shape[-1])], dim=1)
        velocity = self.transformer(
            here,
            timestep=torch.full((len(here),), s * 1000),
            encoder_hidden_states=states,
            pooled_projections=told.pooled,
            return_dict=False,
        )[0]
        return here - s * torch.as_tensor(velocity)


def table(shift: float) -> Tensor:
    """The training levels in VE space; the very last one, pure noise, is infinitely far, and cut short."""
    times = torch.linspace(1, 1000, 1000) / 1000
    times = (shift * times / (1 + (shift - 1) * times)).clamp(max=1 - 1e-5)
    return times / (1 - times)


@pytest.fixture(scope="module")
def flow() -> Flow:
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=CELLS, patch_size=1, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=2 * WIDTH, caption_projection_dim=32, pooled_projection_dim=64,
    ).eval()  # fmt: skip
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False,
    ).eval()  # fmt: skip
    config = CLIPTextConfig(
        hidden_size=WIDTH, intermediate_size=37, num_attention_heads=4, num_hidden_layers=3, vocab_size=49408,
        projection_dim=32, eos_token_id=49407,
    )  # fmt: skip
    encoders = [CLIPTextModelWithProjection(config).eval() for _ in range(2)]
    tokenizers = [clip_tokenizer(END), clip_tokenizer("!")]
    return Flow(
        info=CheckpointInfo("flow", "flow", "flow"),
        transformer=transformer,
        vae=vae,
        conditioner=Conditioner(
            [ClipEncoder(e, t, "penultimate", pools=True) for e, t in zip(encoders, tokenizers, strict=True)]
        ),
        sigmas=table(3.0),
        shift=3.0,
    )


class OneModel:
    """Models of a generation that needs one."""

    comments: Sequence[str] = ()
    network_hashes = ""

    def __init__(self, model: Model) -> None:
        self._model = model

    def get(self, name: str | None, networks: Sequence[NetworkTag]) -> Model:
        return self._model

    def upscale(self, image: Pixels, to: Enlargement, token: CancelToken) -> Pixels:
        raise NotImplementedError

    def embedding_hash(self, name: str) -> str:
        return ""


def draw(model: Model, **changes: Any) -> Pixels:
    from dataclasses import replace

    request = replace(REQUEST, **changes)
    with torch.inference_mode():
        return Generation(request, OneModel(model), CancelToken(), lambda progress: None).run().images[0]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_picture_is_that_of_the_pipeline_of_diffusers(flow: Flow) -> None:
    first, second = flow.conditioner.encoders
    pipeline = StableDiffusion3Pipeline(
        transformer=flow.transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=flow.shift),
        vae=flow.vae,
        text_encoder=first.model,
        tokenizer=first.tokenizer,
        text_encoder_2=second.model,
        tokenizer_2=second.tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        [picture] = pipeline(
            prompt=REQUEST.prompt,
            negative_prompt=REQUEST.negative_prompt,
            num_inference_steps=REQUEST.steps,
            guidance_scale=REQUEST.guidance_scale,
            width=SIDE,
            height=SIDE,
            latents=NoiseSource([REQUEST.seed]).initial((4, CELLS, CELLS)),
            output_type="np",
        ).images
    image = draw(flow)
    assert image.std() > 3
    assert np.abs((picture * 255).astype(int) - image.astype(int)).max() <= 2


@pytest.mark.parametrize("sampler", [sampler.name for sampler in SAMPLERS if not sampler.own_schedule])
def test_every_sampler_over_sigmas_serves_it(flow: Flow, sampler: str) -> None:
    image = draw(flow, sampler=sampler)
    assert image.std() > 3
    assert np.array_equal(draw(flow, sampler=sampler), image)


def test_passes_and_hooks_serve_it(flow: Flow) -> None:
    assert draw(flow, hires=HiresFix(96, 96, 0.5, "Latent", 2)).shape == (96, 96, 3)
    picture = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, SIDE // 2 :] = 255
    kept = draw(flow, init=InitImage(images=(picture,), denoising_strength=0.0))
    painted = draw(flow, init=InitImage(images=(picture,), denoising_strength=1.0, mask=mask))
    change = np.abs(painted.astype(int) - kept.astype(int)).mean(axis=(0, 2))
    assert change[: SIDE // 4].mean() < change[-SIDE // 4 :].mean()
