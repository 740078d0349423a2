"""What trains the shipped model, where a mistake would only show hours later."""

import torch
from diffusers import UNet2DConditionModel

from service.demo_model.training.attention import Pointer, own_cells
from service.demo_model.training.text import LAYOUT
from service.demo_model.training.unet import pure_share


def tiny() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def test_each_place_has_the_cell_it_lies_in_for_its_own() -> None:
    assert torch.equal(own_cells(16), torch.eye(16, dtype=torch.bool))
    fine = own_cells(64).reshape(8, 8, 4, 4)
    assert fine.sum(dim=(2, 3)).eq(1).all()
    assert fine[5, 2, 2, 1]
    coarse = own_cells(4).reshape(2, 2, 4, 4)
    assert coarse[0, 1].nonzero().tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]
    assert own_cells(36).reshape(6, 6, 16).any(dim=-1).all()


def test_watching_attention_changes_nothing_of_what_a_unet_computes() -> None:
    torch.manual_seed(0)
    model = tiny().eval()
    given = torch.randn(2, 4, 16, 16), torch.tensor([10, 900]), torch.randn(2, 77, 32)
    with torch.no_grad():
        before = model(*given).sample
        pointer = Pointer(model)
        assert torch.allclose(model(*given).sample, before, atol=1e-5)
    assert pointer.astray() > 1


def test_attention_learns_to_read_its_own_cell() -> None:
    torch.manual_seed(0)
    model = tiny()
    pointer = Pointer(model)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    states = torch.randn(1, 77, 32)
    for step in range(60):
        model(torch.randn(1, 4, 16, 16), 999, states)
        astray = pointer.astray()
        if step == 0:
            first = astray.item()
        optimiser.zero_grad()
        astray.backward()
        optimiser.step()
    assert astray.item() < 0.75 * first
    assert LAYOUT == 16


def test_training_starts_from_pure_noise_and_comes_to_all_noise_levels() -> None:
    shares = [pure_share(spent / 10) for spent in range(11)]
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
    assert 0.05 < shares[-1] == shares[3] < 0.2
