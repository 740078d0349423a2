"""The families of Stable Diffusion end to end, as tiny single files with random weights: text in, picture out."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from safetensors.torch import save_file

from service.core.cancel import CancelToken
from service.core.generation import GenerationRequest, GenerationResult, HiresFix, InitImage
from service.engine.engine import DiffusersEngine
from service.engine.families.stable_diffusion import Refiner, StableDiffusion, StableDiffusionXL
from service.engine.generation.inpainting import shown
from service.engine.generation.noise import NoiseSource
from service.engine.weights import single_file
from service.settings import Settings
from tests.engine.ldm_files import tiny, write_checkpoint

REQUEST = GenerationRequest(
    prompt="a photo of a cat", negative_prompt="dog", seed=3, steps=3, width=64, height=64, guidance_scale=5.0
)


def news(sentence: str, *, part: str | None = None, seconds: float = 0.0) -> None:
    """Nobody listens."""


def run(engine: DiffusersEngine, **changes: Any) -> GenerationResult:
    return engine.generate(replace(REQUEST, **changes), CancelToken(), lambda progress: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("families")
    (root / "checkpoints").mkdir()
    (root / "loras").mkdir()
    for name, family, channels in (
        ("sd1", "sd1", 4),
        ("sd1-inpainting", "sd1", 9),
        ("sd2", "sd2", 4),
        ("sdxl", "sdxl", 4),
        ("refiner", "sdxl_refiner", 4),
    ):
        write_checkpoint(root / f"checkpoints/{name}.safetensors", family, channels)
    write_checkpoint(
        root / "checkpoints/sd2-v.safetensors", "sd2", metadata={"modelspec.prediction_type": "v"}
    )
    write_checkpoint(
        root / "checkpoints/sd2-eps.safetensors", "sd2", metadata={"modelspec.prediction_type": "epsilon"}
    )
    write_checkpoint(
        root / "checkpoints/sdxl-v.safetensors",
        "sdxl",
        extra={"v_pred": torch.ones(0), "ztsnr": torch.ones(0)},
    )
    base = "lora_te2_text_model_encoder_layers_0_self_attn_q_proj"
    second = {f"{base}.lora_down.weight": torch.randn(2, 32), f"{base}.lora_up.weight": torch.randn(32, 2)}
    save_file(second, root / "loras/second.safetensors")
    return root


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[DiffusersEngine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(single_file, "configuration", tiny)
        settings = Settings.read(
            model=str(folder / "checkpoints/sdxl.safetensors"),
            models_dir=folder,
            warmup_size=64,
            warmup_steps=1,
        )
        made = DiffusersEngine(settings)
        made.load(news)
        yield made


@pytest.mark.parametrize("name", ["sdxl", "sdxl-v", "sd1", "sd2", "sd2-v", "sd2-eps", "sd1-inpainting"])
def test_every_family_draws(engine: DiffusersEngine, name: str) -> None:
    result = run(engine, checkpoint=name)
    assert result.images[0].shape == (64, 64, 3)
    assert result.images[0].std() > 0
    assert result.model_name == name
    assert np.array_equal(run(engine, checkpoint=name).images[0], result.images[0])
    model = engine.get(name)
    assert isinstance(model, StableDiffusion)
    assert model.prediction == ("v_prediction" if name in ("sd2-v", "sdxl-v", "sd2") else "epsilon")
    assert isinstance(model, StableDiffusionXL) == name.startswith("sdxl")
    if name == "sdxl-v":
        assert model.sigmas[-1] > 1000, "zero terminal SNR"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", ["sdxl", "sd1", "sd2-v", "sd2-eps", "sd1-inpainting"])
def test_the_picture_is_that_of_the_pipeline_of_diffusers(
    engine: DiffusersEngine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(engine, checkpoint=name)
    model = engine.get(name)
    assert isinstance(model, StableDiffusion)
    prediction = {"prediction_type": model.prediction, "beta_schedule": "scaled_linear"}
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, timestep_spacing="linspace", **prediction
    )
    first = model.conditioner.encoders[0]
    parts: dict[str, Any] = {
        "vae": model.vae,
        "unet": model.unet,
        "scheduler": scheduler,
        "text_encoder": first.model,
        "tokenizer": first.tokenizer,
    }
    if isinstance(model, StableDiffusionXL):
        second = model.conditioner.encoders[1]
        parts |= {"text_encoder_2": second.model, "tokenizer_2": second.tokenizer}
        pipeline: Any = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        checks = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        kind = StableDiffusionInpaintPipeline if model.is_inpainting else StableDiffusionPipeline
        pipeline = kind(**parts, **checks)
    more: dict[str, Any] = {}
    if model.is_inpainting:
        # Everything is to be made anew, of a picture that is grey where it is to be made anew.
        more = {
            "image": Image.new("RGB", (64, 64)),
            "mask_image": Image.new("L", (64, 64), 255),
            "strength": 1.0,
        }
        monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    pipeline.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        noise = NoiseSource([REQUEST.seed]).initial((4, 8, 8))
        # diffusers scales the noise by sqrt(sigma² + 1), k-diffusion and A1111 by sigma.
        scheduler.set_timesteps(REQUEST.steps)
        sigma = float(scheduler.sigmas[0])
        [image] = pipeline(
            prompt=REQUEST.prompt,
            negative_prompt=REQUEST.negative_prompt,
            num_inference_steps=REQUEST.steps,
            guidance_scale=REQUEST.guidance_scale,
            width=64,
            height=64,
            latents=noise * sigma / float(scheduler.init_noise_sigma),
            output_type="np",
            **more,
        ).images
    expected = (image * 255).round().astype(int)
    assert np.abs(expected - result.images[0].astype(int)).max() <= 2


def test_an_inpainting_checkpoint_is_told_what_diffusers_tells_it(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = engine.get("sd1-inpainting")
    assert isinstance(model, StableDiffusion)
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mask = torch.zeros(1, 1, 64, 64)
    mask[:, :, 16:, :40] = 1
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    pipeline: Any = StableDiffusionInpaintPipeline(
        vae=model.vae,
        unet=model.unet,
        scheduler=EulerDiscreteScheduler(),
        text_encoder=model.conditioner.encoders[0].model,
        tokenizer=model.conditioner.encoders[0].tokenizer,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with torch.inference_mode():
        told = pipeline.prepare_mask_latents(
            mask, picture * (mask < 0.5), 1, 64, 64, torch.float32, torch.device("cpu"), None, False
        )
        [hook] = shown(model, picture, (8, 8), mask=mask)
    assert torch.allclose(hook.concat, torch.cat(told, dim=1), atol=1e-5)


def test_the_refiner_takes_over(engine: DiffusersEngine) -> None:
    plain = run(engine).images[0]
    assert isinstance(engine.get("refiner"), Refiner)
    early = run(engine, refiner_checkpoint="refiner", refiner_switch_at=0.4).images[0]
    late = run(engine, refiner_checkpoint="refiner", refiner_switch_at=0.7).images[0]
    assert not np.array_equal(early, plain)
    assert not np.array_equal(early, late)
    assert np.array_equal(run(engine).images[0], plain)
    at_once = run(engine, refiner_checkpoint="refiner").images[0]
    assert np.array_equal(at_once, run(engine, refiner_checkpoint="refiner", refiner_switch_at=0.0).images[0])
    assert not np.array_equal(at_once, plain), "without a place to switch at, all of it is the refiner's"


def test_a_lora_reaches_the_second_text_encoder(engine: DiffusersEngine) -> None:
    plain = run(engine).images[0]
    result = run(engine, prompt=f"{REQUEST.prompt}<lora:second:1>")
    assert not np.array_equal(result.images[0], plain)
    assert result.comments == ()
    assert np.array_equal(run(engine).images[0], plain)


def test_an_inpainting_checkpoint_is_told_the_picture_and_the_mask(engine: DiffusersEngine) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    images = []
    for each in (picture, 255 - picture):
        init = InitImage(images=(each,), denoising_strength=1.0, mask=mask, inpainting_fill=2)
        images.append(run(engine, checkpoint="sd1-inpainting", init=init).images[0])
    assert images[0].shape == (64, 64, 3)
    assert not np.array_equal(images[0], images[1])


@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos"])
def test_an_inpainting_checkpoint_draws_a_second_pass(engine: DiffusersEngine, upscaler: str) -> None:
    result = run(engine, checkpoint="sd1-inpainting", hires=HiresFix(96, 96, 0.5, upscaler, 2))
    assert result.images[0].shape == (96, 96, 3)


def test_an_inpainting_checkpoint_is_shown_the_share_of_the_picture_that_is_asked_for(
    engine: DiffusersEngine,
) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    mask = np.full((64, 64), 255, np.uint8)
    made = {}
    for masked in (None, mask):
        init = InitImage(images=(picture,), denoising_strength=1.0, mask=masked)
        for weight in (1.0, 0.5):
            result = run(engine, checkpoint="sd1-inpainting", init=init, inpainting_mask_weight=weight)
            assert result.is_inpainting
            made[masked is None, weight] = result.images[0]
    assert np.array_equal(made[True, 1.0], made[False, 1.0])
    assert np.array_equal(made[True, 0.5], made[False, 0.5]), "no mask is a mask over all of it"
    assert not np.array_equal(made[True, 1.0], made[True, 0.5])
    assert not run(engine).is_inpainting


def test_extra_noise_reaches_the_second_pass(engine: DiffusersEngine) -> None:
    plain, noisy = (
        run(engine, hires=HiresFix(96, 96, 0.5, "Latent", 2), extra_noise=extra).images[0]
        for extra in (0.0, 0.2)
    )
    assert not np.array_equal(plain, noisy)


def test_noise_under_the_mask_is_the_same_in_every_batch(engine: DiffusersEngine) -> None:
    picture, mask = np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 255, np.uint8)
    init = InitImage(images=(picture,), denoising_strength=0.0, mask=mask, inpainting_fill=2)
    first, second = run(engine, init=init, batch_count=2, sampler="DDIM").images
    # The little noise that is added at a strength of 0 is each image's own.
    assert np.abs(first.astype(int) - second).mean() < 8


def test_both_encoders_see_a_prompt_of_any_length(engine: DiffusersEngine) -> None:
    assert run(engine, prompt=", ".join(["a cat on a mat"] * 30)).images[0].std() > 0
