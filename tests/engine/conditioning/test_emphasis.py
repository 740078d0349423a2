"""What weights do to hidden states."""

import pytest
import torch

from service.core.errors import UnknownName
from service.engine.conditioning.emphasis import EMPHASIS_MODES, apply_emphasis, emphasis_mode


@pytest.fixture
def states() -> torch.Tensor:
    return torch.randn(77, 16, generator=torch.Generator().manual_seed(1)) + 0.5


@pytest.fixture
def weights() -> torch.Tensor:
    weights = torch.ones(77)
    weights[3:6] = 1.4
    weights[8] = -0.5
    return weights


def test_original_weighs_and_keeps_the_mean(states: torch.Tensor, weights: torch.Tensor) -> None:
    result = apply_emphasis(states, weights, "Original")
    weighted = states * weights[:, None]
    torch.testing.assert_close(result, weighted * states.mean() / weighted.mean())
    torch.testing.assert_close(result.mean(), states.mean())


def test_no_norm_weighs_only(states: torch.Tensor, weights: torch.Tensor) -> None:
    torch.testing.assert_close(apply_emphasis(states, weights, "No norm"), states * weights[:, None])


@pytest.mark.parametrize("mode", ["Ignore", "None"])
def test_the_other_modes_leave_the_states_alone(
    mode: str, states: torch.Tensor, weights: torch.Tensor
) -> None:
    assert torch.equal(apply_emphasis(states, weights, mode), states)


@pytest.mark.parametrize("mode", EMPHASIS_MODES)
def test_weights_of_one_change_no_bit(mode: str, states: torch.Tensor) -> None:
    assert torch.equal(apply_emphasis(states, torch.ones(77), mode), states)


def test_a_mean_of_nothing_is_not_restored(weights: torch.Tensor) -> None:
    assert torch.equal(apply_emphasis(torch.zeros(77, 4), weights, "Original"), torch.zeros(77, 4))
    balanced = torch.nn.functional.layer_norm(torch.randn(77, 64), (64,))
    for half in (balanced, balanced.half(), torch.tensor([1.0, -1.0]).repeat(77, 2)):
        torch.testing.assert_close(
            apply_emphasis(half, weights, "Original"), (half.float() * weights[:, None]).to(half)
        )


def test_a_mean_that_changes_its_sign_is_not_restored() -> None:
    states = torch.full((77, 4), 0.1)
    states[1] = 10.0
    weights = torch.ones(77)
    weights[1] = -2.0
    torch.testing.assert_close(apply_emphasis(states, weights, "Original"), states * weights[:, None])


def test_half_precision_stays_and_stays_finite(states: torch.Tensor) -> None:
    result = apply_emphasis((states * 100).half(), torch.full((77,), 100.0), "Original")
    assert result.dtype == torch.float16
    assert result.isfinite().all()


def test_modes_are_found_in_any_case_and_unknown_ones_listed() -> None:
    assert emphasis_mode("no NORM") == "No norm"
    with pytest.raises(UnknownName, match="Original, No norm, Ignore, None"):
        emphasis_mode("loud")
