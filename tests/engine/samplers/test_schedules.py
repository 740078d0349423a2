"""Schedules against k-diffusion, SciPy and NVIDIA's numbers, and what holds for all of them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from service.catalogue.samplers import AUTOMATIC, SAMPLERS, SCHEDULERS, Sampler, resolve
from service.core.errors import UnknownName
from service.core.generation import SamplingShape
from service.engine.samplers.schedules import (
    Walk,
    bent_table,
    sigma_to_timestep,
    sigmas,
    timestep_to_sigma,
    training_sigmas,
    walk,
)

NAMES = [scheduler.name for scheduler in SCHEDULERS]
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
TABLE = training_sigmas((1 - BETAS).cumprod(0))


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs.float(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 10, 20, 50])
def test_like_k_diffusion(kdiff: SimpleNamespace, alphas_cumprod: Tensor, table: Tensor, n: int) -> None:
    low, high = float(table[0]), float(table[-1])
    theirs = kdiff.sampling
    model = kdiff.external.DiscreteEpsDDPMDenoiser(None, alphas_cumprod, quantize=False)
    assert_same(table, model.sigmas)
    assert_same(sigmas("uniform", n, table), model.get_sigmas(n))
    assert_same(sigmas("automatic", n, table), model.get_sigmas(n))
    assert_same(sigmas("normal", n, table), model.get_sigmas(n))
    assert_same(sigmas("karras", n, table), theirs.get_sigmas_karras(n, low, high))
    assert_same(
        sigmas("karras", n, table, SamplingShape(rho=3.0)), theirs.get_sigmas_karras(n, low, high, rho=3.0)
    )
    assert_same(sigmas("exponential", n, table), theirs.get_sigmas_exponential(n, low, high))
    assert_same(sigmas("polyexponential", n, table), theirs.get_sigmas_polyexponential(n, low, high))
    bent = theirs.get_sigmas_polyexponential(n, 0.1, 10.0, rho=1.7)
    assert_same(
        sigmas("polyexponential", n, table, SamplingShape(rho=1.7, sigma_min=0.1, sigma_max=10.0)), bent
    )
    times = torch.linspace(999, 0, n + 1)[:-1]
    assert_same(sigmas("sgm_uniform", n, table), theirs.append_zero(model.t_to_sigma(times)))


@pytest.mark.parametrize("quantize", [False, True])
def test_sigma_and_timestep_like_k_diffusion(
    kdiff: SimpleNamespace, alphas_cumprod: Tensor, table: Tensor, quantize: bool
) -> None:
    model = kdiff.external.DiscreteEpsDDPMDenoiser(None, alphas_cumprod, quantize=quantize)
    values = torch.linspace(0.02, 16, 500)
    ours = sigma_to_timestep(values, table, quantize=quantize)
    torch.testing.assert_close(ours, model.sigma_to_t(values).float(), rtol=1e-4, atol=2e-3)
    assert sigma_to_timestep(torch.tensor(1.0), table).shape == ()
    times = torch.linspace(0, 999, 777)
    assert_same(timestep_to_sigma(times, table), model.t_to_sigma(times))


def test_timesteps_of_the_table_are_their_index(table: Tensor) -> None:
    assert torch.allclose(sigma_to_timestep(table, table), torch.arange(1000.0), atol=0.02)
    assert torch.equal(sigma_to_timestep(table, table, quantize=True), torch.arange(1000.0))


def test_align_your_steps(table: Tensor) -> None:
    """The published lists at ten steps (eleven levels), their ends and geometric means otherwise."""
    published = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029, 0]
    assert_same(sigmas("align_your_steps", 11, table), torch.tensor(published))
    xl = sigmas("align_your_steps", 11, table, sdxl=True)
    assert_same(xl[:4], torch.tensor([14.615, 6.315, 3.771, 2.181]))
    finer = sigmas("align_your_steps", 21, table)
    assert_same(finer[:-1:2], torch.tensor(published[:-1]))
    assert float(finer[1]) == pytest.approx((14.615 * 6.475) ** 0.5, rel=1e-5)
    assert_same(sigmas("align_your_steps", 1, table), torch.tensor([14.615, 0]))


@pytest.mark.parametrize("n", [1, 4, 20])
def test_beta_quantiles(table: Tensor, n: int) -> None:
    low, high = float(table[0]), float(table[-1])
    for alpha, beta in ((0.6, 0.6), (0.5, 0.9)):
        quantiles = [stats.beta.ppf(1 - i / max(n - 1, 1), alpha, beta) for i in range(n)]
        expected = torch.tensor([low + value * (high - low) for value in quantiles] + [0.0])
        assert_same(sigmas("beta", n, table, SamplingShape(beta_alpha=alpha, beta_beta=beta)), expected)


def test_those_that_pick_from_the_table(table: Tensor) -> None:
    assert_same(sigmas("simple", 4, table), torch.cat([table[[999, 749, 499, 249]], torch.zeros(1)]))
    assert_same(sigmas("simple", 3, table), torch.cat([table[[999, 666, 333]], torch.zeros(1)]))
    assert_same(sigmas("ddim", 4, table), torch.cat([table[[751, 501, 251, 1]], torch.zeros(1)]))
    assert_same(sigmas("ddim", 3, table), torch.cat([table[[667, 334, 1]], torch.zeros(1)]))
    assert_same(sigmas("ddim", 1, table), torch.tensor([float(table[999]), 0]))


def test_kl_optimal_ends_at_the_lowest_sigma(table: Tensor) -> None:
    levels = sigmas("kl_optimal", 10, table)
    assert_same(levels[[0, -1]], table[[999, 0]])
    middle = torch.atan(levels)
    assert_same(middle[1:] - middle[:-1], ((middle[-1] - middle[0]) / 10).expand(10))


@given(
    name=st.sampled_from(NAMES),
    n=st.integers(1, 1500),
    sigma_min=st.sampled_from([None, 0.0, 0.05, 0.3]),
    sigma_max=st.sampled_from([None, 0.0, 5.0, 14.0]),
    sdxl=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_every_schedule_descends(
    name: str, n: int, sigma_min: float | None, sigma_max: float | None, sdxl: bool
) -> None:
    levels = sigmas(
        name, n, TABLE, SamplingShape(sigma_min=sigma_min or 0.0, sigma_max=sigma_max or 0.0), sdxl=sdxl
    )
    assert levels.shape == (n + 1,)
    assert levels.dtype == torch.float32
    assert levels.isfinite().all()
    assert (levels[1:] <= levels[:-1]).all()
    assert levels[-2] > 0
    assert (levels[-1] == 0) == (name != "kl_optimal")


def test_unknown_scheduler_is_refused(table: Tensor) -> None:
    with pytest.raises(UnknownName, match="cosine"):
        sigmas("cosine", 3, table)


@pytest.mark.parametrize("n", [1, 2, 7, 20])
@pytest.mark.parametrize(
    "sampler", [each for each in SAMPLERS if not each.own_schedule], ids=lambda each: each.name
)
def test_each_sampler_gets_its_levels(table: Tensor, sampler: Sampler, n: int) -> None:
    walked = walk(sampler, AUTOMATIC, n, table)
    assert walked.sigmas.shape == (n + 1,)
    assert (walked.sigmas[1:] < walked.sigmas[:-1]).all()
    assert walked.mixed_at is None
    if n > 2:
        tail = walk(sampler, AUTOMATIC, n, table, encoded=n - 2)
        assert_same(tail.sigmas, walked.sigmas[1:])
        assert tail.mixed_at == float(walked.sigmas[1])
        assert tail.ends == walked.ends


def test_which_levels_samplers_get(table: Tensor) -> None:
    def levels(name: str, n: int = 10, **options: Any) -> Tensor:
        return walk(*resolve(name, None, strict=True), n, table, SamplingShape(**options)).sigmas

    assert_same(levels("DPM++ 2M"), sigmas("karras", 10, table))
    assert_same(levels("DPM++ 2M SDE"), sigmas("exponential", 10, table))
    assert_same(levels("Euler a"), sigmas("uniform", 10, table))
    assert_same(levels("Euler a Karras"), sigmas("karras", 10, table))
    longer = sigmas("karras", 11, table)
    assert_same(levels("DPM2"), torch.cat([longer[:10], longer[-1:]]))
    assert_same(levels("DPM++ 2M", discard_next_to_last_sigma=True), levels("DPM2"))
    assert_same(levels("LCM", 2), torch.tensor([float(table[999]), float(table[19]), 0.0]))
    old = levels("DPM++ 2M", old_karras_ends=True)
    assert_same(old[[0, -2]], torch.tensor([10.0, 0.1]))


def test_the_timesteps_of_ddim_plms_and_unipc_are_those_of_a1111(table: Tensor) -> None:
    def walked(name: str, n: int, encoded: int | None = None, **options: Any) -> Walk:
        return walk(*resolve(name, None, strict=True), n, table, SamplingShape(**options), encoded=encoded)

    assert_same(walked("DDIM", 5).sigmas, table[[801, 601, 401, 201, 1]])
    assert_same(walked("DDIM Karras", 7).sigmas, table[[995, 853, 711, 569, 427, 285, 143, 1]])
    assert_same(walked("PLMS", 1).sigmas, table[[1]])
    assert_same(walked("DDIM", 4, discard_next_to_last_sigma=True).sigmas, walked("DDIM", 5).sigmas)
    # From a picture: mixed at the timestep above those that are walked.
    partly = walked("DDIM", 5, encoded=3)
    assert_same(partly.sigmas, table[[401, 201, 1]])
    assert partly.mixed_at == float(table[601])
    assert_same(walked("PLMS", 1, encoded=0).sigmas, table[[1]])
    # UniPC spaces anew: as many steps as there are timesteps.
    assert_same(walked("UniPC", 9).sigmas, timestep_to_sigma(torch.linspace(999, 0, 11), table))
    assert_same(walked("UniPC", 5, encoded=3).sigmas, timestep_to_sigma(torch.linspace(401, 0, 4), table))
    for spacing in ("time_quadratic", "logSNR"):
        spaced = walked("UniPC", 10, unipc_spacing=spacing).sigmas
        assert_same(spaced[[0, -1]], table[[999, 0]])
        assert not torch.allclose(spaced, walked("UniPC", 10).sigmas, rtol=0.01)


def test_zero_terminal_snr_and_half_precision(table: Tensor) -> None:
    bent = bent_table(table, SamplingShape(zero_terminal_snr=True))
    assert_same(bent[:1], table[:1])
    assert float(bent[-1]) == pytest.approx((1 / 4.8973451890853435e-08 - 1) ** 0.5, rel=1e-3)
    assert (bent[1:] > bent[:-1]).all()
    rounded = bent_table(table, SamplingShape(half_alphas=True))
    assert not torch.equal(rounded, table)
    torch.testing.assert_close(rounded, table, rtol=0.1, atol=0)
    assert bent_table(table, SamplingShape()) is table
