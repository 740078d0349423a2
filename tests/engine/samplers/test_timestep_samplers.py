"""DDIM, PLMS, UniPC and LCM against diffusers' schedulers, which work in the variance-preserving scale.

"DDIM CFG++" has no counterpart in diffusers; it is compared with the paper's formulas, in that scale.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, PNDMScheduler, UniPCMultistepScheduler
from diffusers.schedulers import scheduling_lcm
from torch import Tensor

from service.engine.samplers import Denoiser, SamplerOptions, sample
from service.engine.samplers.schedules import timestep_to_sigma
from tests.engine.samplers.levels import levels_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TRAINED: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LEADING: dict[str, Any] = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}


def start(levels: Tensor, shape: tuple[int, ...] = (2, 4, 8, 8)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(9)) * levels[0]


def run_scheduler(
    scheduler: Any, denoiser: Denoiser, x: Tensor, table: Tensor, **step_arguments: Any
) -> Tensor:
    """The loop of diffusers' pipelines, around a denoiser of VE latents."""
    first = timestep_to_sigma(scheduler.timesteps[0].float(), table)
    latent = x / (first**2 + 1).sqrt()
    for timestep in scheduler.timesteps:
        sigma = timestep_to_sigma(timestep.float(), table)
        ve = latent * (sigma**2 + 1).sqrt()
        predicted = (ve - denoiser(ve, sigma)) / sigma
        arguments = {key: value() for key, value in step_arguments.items()}
        latent = scheduler.step(predicted, timestep, latent, **arguments).prev_sample
    return latent


def nothing(step: int, x: Tensor, denoised: Tensor) -> None:
    pass


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = 2e-5) -> None:
    difference = float((ours - theirs).abs().max())
    assert difference <= tolerance * max(1.0, float(theirs.abs().max())), f"they differ by {difference}"


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("steps", [4, 10, 20])
def test_ddim(
    network: Denoiser, table: Tensor, recorded_noise: Callable[[], Any], steps: int, eta: float
) -> None:
    scheduler = DDIMScheduler(clip_sample=False, **LEADING, **TRAINED)
    scheduler.set_timesteps(steps)
    levels = levels_of("DDIM", steps, table)
    x, stream = start(levels), recorded_noise()
    theirs = run_scheduler(
        scheduler,
        network,
        x,
        table,
        eta=lambda: eta,
        variance_noise=lambda: stream.ancestral(x) if eta else None,
    )
    ours = sample("DDIM", network, x, levels, recorded_noise(), SamplerOptions(eta=eta), nothing)
    assert_close(ours, theirs)


@pytest.mark.parametrize("eta", [0.0, 0.8])
def test_ddim_cfgpp(
    network: Any, table: Tensor, alphas_cumprod: Tensor, recorded_noise: Callable[[], Any], eta: float
) -> None:
    """Algorithm 2 of the CFG++ paper, with DDIM's noise added."""
    steps = 10
    levels = levels_of("DDIM CFG++", steps, table)
    x, stream = start(levels), recorded_noise()
    ours = sample("DDIM CFG++", network, x, levels, recorded_noise(), SamplerOptions(eta=eta), nothing)

    timesteps = [*(i * 1000 // steps + 1 for i in reversed(range(steps))), 0]
    latent = x / (levels[0] ** 2 + 1).sqrt()
    for now, then in pairwise(timesteps):
        a, a_next = alphas_cumprod[now], alphas_cumprod[then]
        x0 = network(latent / a.sqrt(), ((1 - a) / a).sqrt())
        unconditional = (latent - a.sqrt() * network.uncond_denoised) / (1 - a).sqrt()
        deviation = eta * ((1 - a_next) / (1 - a) * (1 - a / a_next)).sqrt()
        latent = a_next.sqrt() * x0 + (1 - a_next - deviation**2).sqrt() * unconditional
        if eta:
            latent = latent + deviation * stream.ancestral(x)
    assert_close(ours, latent)


def test_ddim_cfgpp_needs_the_unconditional_prediction(table: Tensor, gaussian: Denoiser) -> None:
    levels = levels_of("DDIM CFG++", 3, table)
    with pytest.raises(TypeError, match="uncond_denoised"):
        sample("DDIM CFG++", gaussian, start(levels), levels, None, SamplerOptions(), nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [2, 4, 10, 20])
def test_plms(network: Denoiser, table: Tensor, recorded_noise: Callable[[], Any], steps: int) -> None:
    scheduler = PNDMScheduler(skip_prk_steps=True, **LEADING, **TRAINED)
    scheduler.set_timesteps(steps)
    levels = levels_of("PLMS", steps, table)
    x = start(levels)
    theirs = run_scheduler(scheduler, network, x, table)
    assert_close(sample("PLMS", network, x, levels, recorded_noise(), SamplerOptions(), nothing), theirs)


@pytest.mark.parametrize("lower_order_final", [True, False])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 3, 9, 27])
def test_unipc(
    network: Denoiser,
    table: Tensor,
    recorded_noise: Callable[[], Any],
    steps: int,
    order: int,
    variant: Any,
    lower_order_final: bool,
) -> None:
    """Step counts that divide 999: diffusers rounds timesteps, we interpolate."""
    scheduler = UniPCMultistepScheduler(
        solver_order=order,
        solver_type=variant,
        lower_order_final=lower_order_final,
        final_sigmas_type="sigma_min",
        timestep_spacing="linspace",
        **TRAINED,
    )
    scheduler.set_timesteps(steps)
    levels = levels_of("UniPC", steps, table)
    x = start(levels)
    theirs = run_scheduler(scheduler, network, x, table)
    options = SamplerOptions(
        unipc_order=order, unipc_variant=variant, unipc_lower_order_final=lower_order_final
    )
    ours = sample("UniPC", network, x, levels, recorded_noise(), options, nothing)
    # The linear systems of diffusers are solved in float32, and extrapolation enlarges what that loses.
    assert_close(ours, theirs, 2e-4)


@pytest.mark.parametrize(
    "timesteps", [[999, 759, 499, 259], [999, 19], [999, 799, 599, 399, 219, 119, 59, 19]]
)
def test_lcm(
    network: Denoiser,
    table: Tensor,
    recorded_noise: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
    timesteps: list[int],
) -> None:
    scheduler = LCMScheduler(clip_sample=False, set_alpha_to_one=True, **TRAINED)
    scheduler.set_timesteps(timesteps=timesteps)
    stream = recorded_noise()
    levels = torch.cat([table[timesteps], torch.zeros(1)])
    x = start(levels)
    monkeypatch.setattr(scheduling_lcm, "randn_tensor", lambda shape, **_: stream.ancestral(x))
    theirs = run_scheduler(scheduler, network, x, table)
    ours = sample("LCM", network, x, levels, recorded_noise(), SamplerOptions(table=table), nothing)
    assert_close(ours, theirs)


def test_lcm_needs_the_table(network: Denoiser, recorded_noise: Callable[[], Any]) -> None:
    levels = torch.tensor([14.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="table"):
        sample("LCM", network, start(levels), levels, recorded_noise(), SamplerOptions(), nothing)


@pytest.mark.parametrize("name", ["DDIM", "PLMS", "UniPC"])
def test_on_the_shipped_model(shipped: Any, recorded_noise: Callable[[], Any], name: str) -> None:
    """Within 1e-3 of diffusers, with guidance."""
    steps = 9 if name == "UniPC" else 8
    schedulers: dict[str, Any] = {
        "DDIM": DDIMScheduler(clip_sample=False, **LEADING, **TRAINED),
        "PLMS": PNDMScheduler(skip_prk_steps=True, **LEADING, **TRAINED),
        "UniPC": UniPCMultistepScheduler(
            solver_order=3, solver_type="bh1", final_sigmas_type="sigma_min", **TRAINED
        ),
    }
    scheduler = schedulers[name]
    scheduler.set_timesteps(steps)
    levels = levels_of(name, steps, shipped.table)
    x = start(levels, (1, *shipped.latent_shape))
    theirs = run_scheduler(scheduler, shipped, x, shipped.table)
    ours = sample(name, shipped, x, levels, recorded_noise(), SamplerOptions(), nothing)
    assert_close(ours, theirs, 1e-3)
