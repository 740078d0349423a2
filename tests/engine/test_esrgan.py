"""Upscalers: every spelling of the networks is read, pieces fit together, and cancelling works between them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.catalogue.weights import read_header
from service.core.cancel import CancelToken
from service.core.errors import Cancelled, ModelLoadError, UnknownName
from service.core.jobs import Enlargement
from service.core.pixels import Pixels
from service.engine import esrgan
from service.engine.esrgan import RRDBNet, SRVGGNet
from service.engine.shelves.upscalers import UpscalerShelf
from tests.engine.ldm_files import CPU

LAST = {4: (3, 6, 8, 10), 2: (3, 5, 7), 1: (2, 4)}
"""Numbers of the convolutions behind the body in ESRGAN's first release, by scale."""


def rrdb(doublings: int = 2, shuffle: int = 1) -> RRDBNet:
    torch.manual_seed(0)
    return (
        RRDBNet(width=8, growth=4, blocks=2, doublings=doublings, shuffle=shuffle)
        .eval()
        .requires_grad_(False)
    )


def first_release(network: RRDBNet) -> dict[str, Tensor]:
    """The names of ESRGAN's first release."""
    layers = [*(f"conv_up{n}" for n in range(1, network.doublings + 1)), "conv_hr", "conv_last"]
    numbers = dict(zip(layers, LAST[network.scale], strict=True))
    tensors = {}
    for name, tensor in network.state_dict().items():
        layer, kind = name.rsplit(".", 1)
        if found := re.fullmatch(r"body\.(\d+)\.rdb(\d)\.conv(\d)", layer):
            layer = f"model.1.sub.{found[1]}.RDB{found[2]}.conv{found[3]}.0"
        elif layer == "conv_body":
            layer = f"model.1.sub.{len(network.body)}"
        else:
            layer = "model.0" if layer == "conv_first" else f"model.{numbers[layer]}"
        tensors[f"{layer}.{kind}"] = tensor
    return tensors


def second_release(network: RRDBNet) -> dict[str, Tensor]:
    """The names of ESRGAN's second release."""
    names = {
        "conv_body": "trunk_conv",
        "conv_up": "upconv",
        "conv_hr": "HRconv",
        "body.": "RRDB_trunk.",
        ".rdb": ".RDB",
    }
    tensors = {}
    for name, tensor in network.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        tensors[name] = tensor
    return tensors


def picture(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("doublings", "shuffle", "scale"), [(2, 1, 4), (1, 1, 2), (0, 1, 1), (2, 2, 2), (2, 4, 1)]
)
def test_every_spelling_is_the_same_network(tmp_path: Path, doublings: int, shuffle: int, scale: int) -> None:
    network = rrdb(doublings, shuffle)
    assert network.scale == scale
    basicsr = dict(network.state_dict())
    spellings = [
        basicsr,
        {f"params_ema.{name}": tensor for name, tensor in basicsr.items()},
        second_release(network),
    ]
    if shuffle == 1:
        spellings.append(first_release(network))
    for spelling in spellings:
        path = tmp_path / "net.safetensors"
        save_file(spelling, path)
        plan = esrgan.plan(path, read_header(path)[0])
        assert (plan.scale, plan.kind) == (scale, "ESRGAN")
        loaded = esrgan.load(path, torch.device("cpu"), torch.float32)
        for name, tensor in network.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor)


def test_the_compact_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = SRVGGNet(width=8, convolutions=3, scale=4).eval()
    path = tmp_path / "general.safetensors"
    save_file({f"params.{name}": tensor for name, tensor in network.state_dict().items()}, path)
    loaded = esrgan.load(path, torch.device("cpu"), torch.float32)
    x = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(loaded(x), network(x))
    assert loaded(x).shape == (1, 3, 32, 32)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    tensors = dict(rrdb().state_dict())
    for wrong, why in (
        ({"x": torch.ones(1)}, "no upscaler of the ESRGAN family"),
        ({**tensors, "conv_hr.weight": torch.ones(4, 8, 3, 3)}, "conv_hr.weight"),
        ({name: tensor for name, tensor in tensors.items() if name != "conv_body.bias"}, "conv_body.bias"),
        ({**tensors, "layers.0.attn": torch.ones(1)}, r"layers\.0\.attn"),
    ):
        save_file(wrong, path)
        with pytest.raises(ModelLoadError, match=why):
            esrgan.plan(path, read_header(path)[0])


class Nearest(SRVGGNet):
    """A network whose own part is nothing: what comes out is the image, each pixel repeated."""

    def __init__(self) -> None:
        super().__init__(width=4, convolutions=0, scale=2)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (33, 90), (16, 16), (97, 50)])
def test_pieces_cover_the_image_without_a_seam(height: int, width: int) -> None:
    image = picture(height, width)
    with torch.inference_mode():
        larger = esrgan.enlarge(Nearest(), image, lambda: None, tile=32, overlap=8)
    assert np.array_equal(larger, image.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("shuffle", [1, 2])
def test_pieces_make_nearly_what_the_whole_makes(shuffle: int) -> None:
    network, image = rrdb(2, shuffle), picture(75, 61)
    nn.init.constant_(network.conv_last.bias, 0.5)  # type: ignore[arg-type]
    with torch.inference_mode():
        whole = esrgan.enlarge(network, image, lambda: None, tile=128)
        pieces = esrgan.enlarge(network, image, lambda: None, tile=48, overlap=16)
    assert whole.shape == (75 * network.scale, 61 * network.scale, 3)
    assert whole.std() > 0
    assert np.abs(whole.astype(int) - pieces.astype(int)).max() <= 2


def test_the_shelf_lists_what_loads_and_reaches_any_size(tmp_path: Path) -> None:
    save_file(dict(rrdb(1).state_dict()), tmp_path / "Two.safetensors")
    save_file({"x": torch.ones(1)}, tmp_path / "none.safetensors")
    (tmp_path / "old.pth").write_bytes(b"pickle")
    shelf = UpscalerShelf(tmp_path)
    assert [info.name for info in shelf.all()] == ["None", "Lanczos", "Nearest", "Two"]
    assert (shelf.all()[-1].scale, shelf.all()[-1].kind) == (2, "ESRGAN")
    token = CancelToken()
    passes = []

    def check() -> None:
        passes.append(1)
        token.raise_if_cancelled()

    with torch.inference_mode():
        assert shelf.enlarge(picture(20, 30), Enlargement("two", 100, 70), CPU, check).shape == (70, 100, 3)
        assert len(passes) == 2, "2 × 2 is enough"
        assert shelf.enlarge(picture(20, 30), Enlargement("lanczos", 33, 22), CPU, check).shape == (22, 33, 3)
        with pytest.raises(UnknownName, match="Lanczos, Nearest, Two"):
            shelf.enlarge(picture(20, 30), Enlargement("nobody", 33, 22), CPU, check)
        token.cancel("disconnect")
        with pytest.raises(Cancelled):
            shelf.enlarge(picture(20, 30), Enlargement("Two", 100, 70), CPU, check)
