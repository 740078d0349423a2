"""Each image has its own reproducible stream of noise."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.engine.generation.noise import NoiseSource, slerp

SHAPE = (4, 6, 8)


def seeded(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_initial_noise_is_the_first_draw_of_the_seed() -> None:
    noise = NoiseSource([1, 2]).initial(SHAPE)
    assert torch.equal(noise, torch.stack([seeded(1, *SHAPE), seeded(2, *SHAPE)]))


def test_streams_go_on_and_do_not_depend_on_the_batch() -> None:
    both, alone = NoiseSource([1, 2]), NoiseSource([2])
    assert torch.equal(both.initial(SHAPE)[1:], alone.initial(SHAPE))
    x = torch.zeros(2, *SHAPE)
    first, second = both.ancestral(x), both.ancestral(x)
    assert not torch.equal(first, second)
    assert torch.equal(first[1:], alone.ancestral(x[1:]))
    assert torch.equal(second[1:], alone.ancestral(x[1:]))


def test_eta_noise_seed_delta_changes_all_but_the_initial_noise() -> None:
    plain, shifted = NoiseSource([3]), NoiseSource([3], eta_noise_seed_delta=10)
    assert torch.equal(plain.initial(SHAPE), shifted.initial(SHAPE))
    x = torch.zeros(1, *SHAPE)
    assert torch.equal(shifted.ancestral(x)[0], seeded(13, *SHAPE))
    assert not torch.equal(plain.ancestral(x)[0], seeded(13, *SHAPE))


def test_a_batch_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="seeds"):
        NoiseSource([1, 2]).ancestral(torch.zeros(3, *SHAPE))


def test_variation_seed() -> None:
    source = {"subseeds": [9], "subseed_strength": 0.0}
    assert torch.equal(NoiseSource([1]).initial(SHAPE, **source)[0], seeded(1, *SHAPE))  # type: ignore[arg-type]
    whole = NoiseSource([1]).initial(SHAPE, subseeds=[9], subseed_strength=1.0)[0]
    assert torch.allclose(whole, seeded(9, *SHAPE), atol=1e-5)
    half = NoiseSource([1]).initial((4, 64, 64), subseeds=[9], subseed_strength=0.5)
    assert float(half.std()) == pytest.approx(1, abs=0.03)
    same = NoiseSource([1]).initial(SHAPE, subseeds=[1], subseed_strength=0.3)[0]
    assert torch.allclose(same, seeded(1, *SHAPE), atol=1e-5)


def test_slerp_turns_by_the_angle() -> None:
    """Along the height: at right angles, half-way is the diagonal of the same length."""
    low, high = torch.zeros(1, 2, 1), torch.zeros(1, 2, 1)
    low[0, 0, 0], high[0, 1, 0] = 2.0, 2.0
    assert slerp(0.5, low, high).flatten().tolist() == pytest.approx([math.sqrt(2), math.sqrt(2)])
    third = slerp(1 / 3, low, high).flatten().tolist()
    assert third == pytest.approx([2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6)])


@given(height=st.integers(1, 5), strength=st.floats(0, 1), seeds=st.tuples(st.integers(), st.integers()))
@settings(max_examples=60, deadline=None)
def test_noise_is_always_finite(height: int, strength: float, seeds: tuple[int, int]) -> None:
    """Any integer is a seed, and a latent may be one row high, where all columns are parallel."""
    noise = NoiseSource([seeds[0]]).initial((4, height, 3), subseeds=[seeds[1]], subseed_strength=strength)
    assert noise.isfinite().all()


@pytest.mark.parametrize(("width", "height"), [(8, 6), (4, 4), (12, 10), (4, 10), (12, 4), (7, 5), (9, 7)])
def test_seed_resize_keeps_the_middle(width: int, height: int) -> None:
    noise = NoiseSource([5]).initial(SHAPE, seed_resize_from=(width, height))[0]
    original = seeded(5, 4, height, width)
    common_width, common_height = min(width, 8) // 2, min(height, 6) // 2
    # A window around the middle holds the noise that the seed has at the other size.
    dy, dx = (6 - height) // 2, (8 - width) // 2
    top, left = max(dy, 0) + 1, max(dx, 0) + 1
    window = noise[:, top : top + common_height, left : left + common_width]
    source = original[:, top - dy : top - dy + common_height, left - dx : left - dx + common_width]
    assert torch.equal(window, source)
    if width < 8:
        assert torch.equal(noise[:, :, -1], seeded(5, *SHAPE)[:, :, -1])


def test_seed_resize_of_nothing_changes_nothing() -> None:
    for size in (None, (0, 0), (-1, 5)):
        assert torch.equal(NoiseSource([5]).initial(SHAPE, seed_resize_from=size)[0], seeded(5, *SHAPE))


def test_brownian_paths_are_consistent() -> None:
    """Increments of neighbouring intervals add up, belong to the seed, and have unit variance."""
    x = torch.zeros(2, 4, 16, 16)
    path = NoiseSource([1, 2]).brownian(x, 0.03, 14.6)
    alone = NoiseSource([2]).brownian(x[1:], 0.03, 14.6)
    high, middle, low = torch.tensor(9.0), torch.tensor(4.0), torch.tensor(1.0)
    whole = path(high, low) * math.sqrt(8)
    parts = path(high, middle) * math.sqrt(5) + path(middle, low) * math.sqrt(3)
    assert torch.allclose(whole, parts, atol=1e-3)
    assert torch.equal(path(high, low)[1:], alone(high, low))
    assert torch.equal(path(low, high), -path(high, low))
    assert float(path(high, low).std()) == pytest.approx(1, abs=0.08)
    assert torch.equal(path(low, low), torch.zeros_like(x))


def test_brownian_beyond_its_ends_is_quiet() -> None:
    """Warnings are errors in this test run."""
    path = NoiseSource([-3, 2**70]).brownian(torch.zeros(2, 4, 2, 2), 0.029167, 14.614643)
    assert path(torch.tensor(14.6147), torch.tensor(0.0291)).isfinite().all()
    assert path(torch.tensor(1.0000001), torch.tensor(1.0)).isfinite().all()


def test_nvidias_numbers() -> None:
    """What torch.randn draws on CUDA from these seeds, as anybody with such a card can see."""
    drawn = {seed: NoiseSource([seed], source="NV").initial((3, 1, 1)).flatten() for seed in (0, 42)}
    torch.testing.assert_close(drawn[42], torch.tensor([0.1940, 2.1614, -0.1721]), atol=1e-4, rtol=0)
    torch.testing.assert_close(drawn[0], torch.tensor([-0.9247, -0.4253, -2.6438]), atol=1e-4, rtol=0)
    source = NoiseSource([42, 7], source="NV")
    x = source.initial((4, 16, 16))
    assert abs(float(x.mean())) < 0.1
    assert float(x.std()) == pytest.approx(1, abs=0.1)
    assert not torch.equal(source.ancestral(x), source.ancestral(x))
    assert torch.equal(NoiseSource([7], source="NV").initial((4, 16, 16))[0], x[1])
