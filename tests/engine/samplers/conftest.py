"""Models, noise and reference implementations that the tests of samplers share."""

import importlib
import importlib.machinery
import importlib.util
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import service
from service.engine.samplers import BrownianNoise, Denoiser
from service.engine.samplers.schedules import sigma_to_timestep, training_sigmas
from tests.threads import one_thread as one_thread

DEMO_MODEL = Path(service.__file__).parent / "demo_model"


@pytest.fixture(scope="session")
def kdiff() -> SimpleNamespace:
    """``k_diffusion.sampling`` and ``.external``, without the packages that only the rest of k-diffusion needs.

    The package's own ``__init__`` imports all of it, so that an empty one takes its place; torchvision gets a
    stand-in, which none of the functions used here calls.
    """
    spec = importlib.machinery.PathFinder.find_spec("k_diffusion")
    assert spec is not None
    assert spec.submodule_search_locations
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["k_diffusion"] = package
    if importlib.util.find_spec("torchvision") is None:
        functional = types.ModuleType("torchvision.transforms.functional")
        transforms = types.ModuleType("torchvision.transforms")
        torchvision = types.ModuleType("torchvision")
        transforms.functional = functional  # type: ignore[attr-defined]
        torchvision.transforms = transforms  # type: ignore[attr-defined]
        stand_ins = {module.__name__: module for module in (torchvision, transforms, functional)}
        sys.modules.update(stand_ins)
    else:
        stand_ins = {}
    try:
        return SimpleNamespace(
            sampling=importlib.import_module("k_diffusion.sampling"),
            external=importlib.import_module("k_diffusion.external"),
        )
    finally:
        for name in stand_ins:
            del sys.modules[name]


@pytest.fixture(scope="session")
def alphas_cumprod() -> Tensor:
    """Those of Stable Diffusion 1, 2 and XL (scaled linear betas)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


@pytest.fixture(scope="session")
def table(alphas_cumprod: Tensor) -> Tensor:
    """The training sigmas of Stable Diffusion."""
    return training_sigmas(alphas_cumprod)


class SmallNetwork(nn.Module):
    """A two-layer convolutional network that predicts noise, with fixed random weights and guidance."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(11)
        self.table = table
        self.calls = 0
        self.first = nn.Conv2d(5, 12, 3, padding=1)
        self.second = nn.Conv2d(12, 4, 3, padding=1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.15
        self.uncond_denoised = torch.zeros(0)

    def noise(self, x: Tensor, sigma: Tensor, prompt: float) -> Tensor:
        time = sigma_to_timestep(sigma, self.table) / len(self.table)
        scaled = x / (sigma**2 + 1).sqrt()
        inputs = torch.cat([scaled, (time + prompt).expand(len(x), 1, *x.shape[2:])], dim=1)
        return 0.9 * scaled * sigma / (sigma**2 + 1).sqrt() + self.second(self.first(inputs).tanh())

    @torch.no_grad()
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        uncond = x - sigma * self.noise(x, sigma, 0.0)
        cond = x - sigma * self.noise(x, sigma, 1.0)
        self.uncond_denoised = uncond
        return uncond + 2.0 * (cond - uncond)


@pytest.fixture
def network(table: Tensor) -> SmallNetwork:
    """A denoiser of latents with 4 channels."""
    return SmallNetwork(table)


class RecordedNoise:
    """One stream of noise for everything: give the same seed to both sides of a comparison.

    Brownian increments are drawn from the stream too: what is compared is how a sampler uses them.
    """

    def __init__(self, seed: int = 5) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self.draws = 0

    def ancestral(self, x: Tensor) -> Tensor:
        self.draws += 1
        return torch.randn(x.shape, generator=self._generator)

    def brownian(self, x: Tensor, sigma_min: float, sigma_max: float) -> BrownianNoise:
        return lambda sigma, sigma_next: self.ancestral(x)


@pytest.fixture
def recorded_noise() -> Callable[[], RecordedNoise]:
    """Makes streams that all begin alike."""
    return RecordedNoise


class ShippedDenoiser:
    """The shipped UNet with its text encoder and classifier-free guidance."""

    def __init__(self, prompt: str, guidance_scale: float) -> None:
        from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        scheduler = EulerDiscreteScheduler.from_pretrained(DEMO_MODEL / "scheduler")
        self.table = training_sigmas(scheduler.alphas_cumprod)
        self.prediction_type = scheduler.config["prediction_type"]
        self.unet = UNet2DConditionModel.from_pretrained(
            DEMO_MODEL / "unet", torch_dtype=torch.float32
        ).eval()
        tokenizer = CLIPTokenizer.from_pretrained(DEMO_MODEL / "tokenizer")
        encoder = CLIPTextModel.from_pretrained(DEMO_MODEL / "text_encoder", dtype=torch.float32).eval()
        tokens = tokenizer(
            ["", prompt], padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
        )
        with torch.no_grad():
            self.states = encoder(tokens.input_ids).last_hidden_state
        self.guidance_scale = guidance_scale
        self.uncond_denoised = torch.zeros(0)

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        scale = (sigma**2 + 1).sqrt()
        states = self.states.repeat_interleave(len(x), 0)
        timestep = sigma_to_timestep(sigma, self.table)
        output = self.unet((x / scale).repeat(2, 1, 1, 1), timestep, states).sample
        if self.prediction_type == "v_prediction":
            both = x.repeat(2, 1, 1, 1) / scale**2 - output * sigma / scale
        else:
            both = x.repeat(2, 1, 1, 1) - output * sigma
        uncond, cond = both.chunk(2)
        self.uncond_denoised = uncond
        return uncond + self.guidance_scale * (cond - uncond)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = self.unet.config["sample_size"]
        return self.unet.config["in_channels"], size, size


@pytest.fixture(scope="session")
def shipped() -> ShippedDenoiser:
    """The model that ships with the service."""
    return ShippedDenoiser("pretty dog", 4.0)


class GaussianDenoiser:
    """The exact denoiser of data that is normal with a known deviation: every sampler's answer can be computed."""

    deviation = 0.8

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x * self.deviation**2 / (self.deviation**2 + sigma**2)

    def flow(self, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """Where the probability flow ODE leads ``x`` from ``sigma`` to ``sigma_next``."""
        variance = self.deviation**2
        return x * math.sqrt((variance + sigma_next**2) / (variance + sigma**2))


@pytest.fixture
def gaussian() -> GaussianDenoiser:
    """A denoiser with a known answer."""
    return GaussianDenoiser()


@pytest.fixture(scope="session")
def batched() -> Callable[[Denoiser], Callable[..., Tensor]]:
    """Turns a denoiser into what k-diffusion calls: one sigma per image."""

    def wrap(denoiser: Denoiser) -> Callable[..., Tensor]:
        return lambda x, sigma, **_: denoiser(x, sigma.flatten()[0])

    return wrap
