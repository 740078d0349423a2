"""What holds for every sampler: steps, cancellation, batches, convergence, the right distribution."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from service.catalogue.samplers import SAMPLERS
from service.core.errors import Cancelled, ModelError, UnknownName
from service.core.generation import SamplingShape
from service.engine.generation.noise import NoiseSource
from service.engine.samplers import SAMPLERS as FUNCTIONS
from service.engine.samplers import Denoiser, SamplerOptions, sample
from service.engine.samplers.schedules import sigmas
from tests.engine.samplers.levels import levels_of

NAMES = [sampler.name for sampler in SAMPLERS]
SPANNING = ("DPM fast", "DPM adaptive")
BY_NAME = {sampler.name: sampler for sampler in SAMPLERS}


def nothing(step: int, x: Tensor, denoised: Tensor) -> None:
    pass


def test_every_listed_sampler_has_a_function() -> None:
    assert list(FUNCTIONS) == NAMES


def test_unknown_sampler_is_refused(gaussian: Denoiser) -> None:
    with pytest.raises(UnknownName, match="DPM\\+\\+ 2M"):
        sample(
            "Euler b",
            gaussian,
            torch.zeros(1, 4, 2, 2),
            torch.ones(2),
            NoiseSource([1]),
            SamplerOptions(),
            nothing,
        )


@pytest.mark.parametrize("steps", [1, 2, 3, 21, 36])
@pytest.mark.parametrize("name", NAMES)
def test_steps_are_counted(network: Denoiser, table: Tensor, name: str, steps: int) -> None:
    levels = levels_of(name, steps, table)
    assert len(levels) == steps + 1
    seen: list[int] = []
    noise = NoiseSource([1, 2])
    x = noise.initial((4, 4, 4)) * levels[0]
    result = sample(
        name, network, x, levels, noise, SamplerOptions(table=table), lambda step, *_: seen.append(step)
    )
    assert result.isfinite().all()
    assert result.shape == x.shape
    if name in SPANNING:
        assert seen == sorted(set(seen))
        assert name == "DPM adaptive" or seen[-1] == steps - 1
    else:
        assert seen == list(range(steps))


@pytest.mark.parametrize("name", NAMES)
def test_what_on_step_is_told(network: Denoiser, table: Tensor, name: str) -> None:
    """The last latent that it gets is the result, but for the final change of scale; predictions differ from it."""
    levels = levels_of(name, 6, table)
    noise = NoiseSource([4])
    told: list[tuple[Tensor, Tensor]] = []
    x = noise.initial((4, 4, 4)) * levels[0]
    options = SamplerOptions(table=table, eta=0.0)
    result = sample(
        name, network, x, levels, noise, options, lambda _, x, denoised: told.append((x, denoised))
    )
    last = told[-1][0]
    scale = float((levels[-1] ** 2 + 1).sqrt()) if BY_NAME[name].own_schedule else 1.0
    assert torch.allclose(last / scale, result, atol=1e-6)
    assert all(x.shape == denoised.shape == result.shape for x, denoised in told)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SPANNING])
def test_second_order_samplers_ask_twice(network: Any, table: Tensor, name: str) -> None:
    levels = levels_of(name, 6, table)
    noise = NoiseSource([4])
    sample(
        name,
        network,
        noise.initial((4, 4, 4)) * levels[0],
        levels,
        noise,
        SamplerOptions(table=table),
        nothing,
    )
    # The step to sigma 0 needs one call; PLMS asks twice in its first step.
    assert network.calls == {True: 11, False: 6}[BY_NAME[name].second_order] + (name == "PLMS")


@pytest.mark.parametrize("name", NAMES)
def test_cancelling_stops_at_once(network: Any, table: Tensor, name: str) -> None:
    def cancel(step: int, x: Tensor, denoised: Tensor) -> None:
        raise Cancelled("stop")

    levels = levels_of(name, 12, table)
    noise = NoiseSource([4])
    with pytest.raises(Cancelled):
        sample(
            name,
            network,
            noise.initial((4, 4, 4)) * levels[0],
            levels,
            noise,
            SamplerOptions(table=table),
            cancel,
        )
    assert network.calls <= 3


@pytest.mark.parametrize("name", [name for name in NAMES if name != "DPM adaptive"])
def test_a_batch_makes_what_single_images_make(network: Denoiser, table: Tensor, name: str) -> None:
    levels = levels_of(name, 7, table)

    def make(seeds: list[int]) -> Tensor:
        noise = NoiseSource(seeds, eta_noise_seed_delta=31337)
        x = noise.initial((4, 4, 6)) * levels[0]
        return sample(name, network, x, levels, noise, SamplerOptions(table=table, s_churn=5.0), nothing)

    batch = make([5, 6, 7])
    singles = torch.cat([make([5]), make([6]), make([7])])
    assert torch.allclose(batch, singles, atol=1e-4)
    assert not torch.allclose(batch[:1], batch[1:2], atol=0.1)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("LCM", "Restart")])
def test_converges_to_the_exact_solution(gaussian: Any, table: Tensor, name: str) -> None:
    """Without fresh noise samplers follow the ODE, whose solution for normal data is known.

    LCM jumps to the data instead, and Restart always adds noise.
    """
    options = SamplerOptions(eta=0.0, table=table)
    errors = []
    for steps in (20, 80):
        levels = levels_of(name, steps, table)
        x = NoiseSource([8]).initial((4, 8, 8)) * levels[0]
        denoiser = Unguided(gaussian)
        result = sample(name, denoiser, x, levels, Silence(), options, nothing)
        spanning = name in SPANNING
        end = float(table[0]) if spanning else float(levels[-1])
        exact = gaussian.flow(x, float(levels[0]), end)
        if BY_NAME[name].own_schedule:
            exact = exact / math.sqrt(1 + end**2)
        errors.append(float((result - exact).abs().max()))
    if name == "DPM adaptive":
        assert errors[1] < 0.1  # its tolerance, whatever the number of steps
    else:
        assert errors[1] < 0.05
        assert errors[1] < errors[0] * 0.7 or errors[1] < 2e-3


@pytest.mark.parametrize("name", [name for name in NAMES if "eta" in BY_NAME[name].parameters] + ["Restart"])
def test_fresh_noise_keeps_the_distribution(gaussian: Any, table: Tensor, name: str) -> None:
    """Stochastic samplers turn noise into normal data of the right deviation."""
    levels = levels_of(name, 60, table)
    noise = NoiseSource([8])
    x = noise.initial((4, 48, 48)) * levels[0]
    options = SamplerOptions(eta=1.0, table=table)
    result = sample(name, Unguided(gaussian), x, levels, noise, options, nothing)
    assert abs(float(result.std()) / gaussian.deviation - 1) < 0.06
    assert abs(float(result.mean())) < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_parameters_in_the_catalogue_are_those_that_matter(
    network: Denoiser, table: Tensor, name: str
) -> None:
    levels = levels_of(name, 24, table)

    def make(**changes: float) -> Tensor:
        noise = NoiseSource([4])
        x = noise.initial((4, 4, 4)) * levels[0]
        return sample(name, network, x, levels, noise, SamplerOptions(table=table, **changes), nothing)  # type: ignore[arg-type]

    plain = make()
    for parameter, value in {"eta": 0.37, "s_churn": 4.0, "s_noise": 0.5}.items():
        base = {"s_churn": 4.0} if parameter == "s_noise" else {}
        changed = make(**base, **({parameter: value}))
        same = torch.equal(changed, make(**base) if base else plain)
        assert same == (parameter not in BY_NAME[name].parameters)


@pytest.mark.parametrize("name", NAMES)
def test_repeated_noise_levels_do_no_harm(network: Denoiser, table: Tensor, name: str) -> None:
    levels = sigmas("polyexponential", 60, table, SamplingShape(rho=9.0))
    noise = NoiseSource([4])
    x = noise.initial((4, 4, 4)) * levels[0]
    assert sample(name, network, x, levels, noise, SamplerOptions(table=table), nothing).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_tail_of_the_schedule(network: Denoiser, table: Tensor, name: str) -> None:
    """As img2img does, down to a single step."""
    levels = levels_of(name, 10, table)
    noise = NoiseSource([4])
    initial = noise.initial((4, 4, 4))
    for t_enc in (0, 1, 7, 9):
        tail = levels[10 - t_enc - 1 :]
        whole = (float(levels[levels > 0].min()), float(levels.max()))
        options = SamplerOptions(table=table, brownian_range=whole)
        assert sample(name, network, 0.3 + initial * tail[0], tail, noise, options, nothing).isfinite().all()


def test_dpm_adaptive_gives_up_on_numbers_that_are_not_finite(table: Tensor) -> None:
    levels = levels_of("DPM adaptive", 10, table)
    with pytest.raises(ModelError, match="not finite"):
        sample(
            "DPM adaptive",
            lambda x, sigma: x * math.nan,
            torch.ones(1, 4, 2, 2),
            levels,
            NoiseSource([1]),
            SamplerOptions(table=table),
            nothing,
        )


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_vary_coeff_integrates_polynomials_exactly(table: Tensor, order: int) -> None:
    """With predictions that are a polynomial in log SNR of a degree below the order, each step is exact.

    The first predictor has one prediction alone; its corrector has two, and is exact for degree 1. Hence the
    polynomials have a degree of order - 1, at most 1.
    """
    slope = 0.3 if order > 1 else 0.0

    def polynomial(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.full_like(x, 0.7) - slope * sigma.log()

    levels = levels_of("UniPC", 6, table).double()
    x = torch.zeros(1, 1, 1, 1)
    options = SamplerOptions(unipc_order=order, unipc_variant="vary_coeff", unipc_lower_order_final=False)
    result = sample("UniPC", polynomial, x, levels, NoiseSource([1]), options, nothing)

    # x(l) = exp(-(l - l0)) x0 + integral of exp(-(l - u)) D(u) du, for D(u) = a + b u: D - b - (D0 - b) exp(-(l - l0))
    end, begin = -float(levels[-1].log()), -float(levels[0].log())
    exact = 0.7 + slope * end - slope - (0.7 + slope * begin - slope) * math.exp(-(end - begin))
    exact /= math.sqrt(1 + float(levels[-1]) ** 2)
    assert float(result) == pytest.approx(exact, abs=3e-4)


class Silence:
    """Noise for runs that need none: it fails where it would matter."""

    def ancestral(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def brownian(self, x: Tensor, sigma_min: float, sigma_max: float) -> Callable[[Tensor, Tensor], Tensor]:
        def refuse(sigma: Tensor, sigma_next: Tensor) -> Tensor:
            return torch.full_like(x, math.nan)

        return refuse


class Unguided:
    """A denoiser without guidance: both halves predict the same."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self.uncond_denoised = torch.zeros(0)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.uncond_denoised = self._denoiser(x, sigma)
        return self.uncond_denoised
