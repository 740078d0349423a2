"""Upscaling networks of the ESRGAN family: RRDBNet (ESRGAN, Real-ESRGAN) and SRVGGNetCompact ("realesr-general").

Wang et al. 2018, arXiv:1809.00219; Wang et al. 2021, arXiv:2107.10833. Which of them a file holds, its scale and its
size follow from the shapes of its tensors. Two names for RRDBNet's layers are in use, that of the paper's first code
(``model.1.sub.0.RDB1.conv1.0``) and that of BasicSR (``body.0.rdb1.conv1``).

Not spandrel, which reads many more kinds: it needs torchvision, which would tie the lock to one build of PyTorch.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, pixel_unshuffle

from service.catalogue.weights import TensorEntry, read_header
from service.core.errors import ModelLoadError
from service.core.pixels import Pixels
from service.engine.device import Device
from service.engine.weights.tensors import fill, read_tensors, without_memory

TILE: Final = 256
"""Side in pixels of the pieces that go through a network at once: the memory of a large image is that of one."""

OVERLAP: Final = 16
"""Pixels that neighbouring pieces share, faded from one into the other: beyond it their surroundings hardly act."""


class _Dense(nn.Module):
    """Five convolutions, each of which sees what all before it made; a fifth of the result is added."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for number in range(4):
            self.add_module(f"conv{number + 1}", nn.Conv2d(width + number * growth, growth, 3, 1, 1))
        self.conv5 = nn.Conv2d(width + 4 * growth, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) to the same."""
        seen = [x]
        for number in range(1, 5):
            seen.append(leaky_relu(self.get_submodule(f"conv{number}")(torch.cat(seen, 1)), 0.2))
        return torch.as_tensor(self.conv5(torch.cat(seen, 1)) * 0.2 + x)


class _Block(nn.Module):
    """Residual in residual: three dense blocks, of which again a fifth is added."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_Dense(width, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) to the same."""
        return torch.as_tensor(self.rdb3(self.rdb2(self.rdb1(x))) * 0.2 + x)


class RRDBNet(nn.Module):
    """(n, 3, h, w) in 0..1 to ``scale`` times the size. ``shuffle`` > 1: the input is folded into channels first."""

    def __init__(self, width: int, growth: int, blocks: int, doublings: int, shuffle: int) -> None:
        super().__init__()
        self.shuffle, self.doublings = shuffle, doublings
        self.scale = 2**doublings // shuffle
        self.conv_first = nn.Conv2d(3 * shuffle**2, width, 3, 1, 1)
        self.body = nn.Sequential(*(_Block(width, growth) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, 1, 1)
        for number in range(1, doublings + 1):
            self.add_module(f"conv_up{number}", nn.Conv2d(width, width, 3, 1, 1))
        self.conv_hr = nn.Conv2d(width, width, 3, 1, 1)
        self.conv_last = nn.Conv2d(width, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The image enlarged; h and w are multiples of ``shuffle``."""
        if self.shuffle > 1:
            x = pixel_unshuffle(x, self.shuffle)
        x = self.conv_first(x)
        x = x + self.conv_body(self.body(x))
        for number in range(1, self.doublings + 1):
            larger = interpolate(x, scale_factor=2, mode="nearest")
            x = leaky_relu(self.get_submodule(f"conv_up{number}")(larger), 0.2)
        return torch.as_tensor(self.conv_last(leaky_relu(self.conv_hr(x), 0.2)))


class SRVGGNet(nn.Module):
    """(n, 3, h, w) in 0..1 to ``scale`` times the size: plain convolutions, and one shuffle of pixels at the end."""

    def __init__(self, width: int, convolutions: int, scale: int) -> None:
        super().__init__()
        self.scale, self.shuffle = scale, 1
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1), nn.PReLU(width)]
        for _ in range(convolutions):
            layers += [nn.Conv2d(width, width, 3, 1, 1), nn.PReLU(width)]
        layers.append(nn.Conv2d(width, 3 * scale**2, 3, 1, 1))
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """The image enlarged: what the network makes is added to the nearest pixels."""
        made = nn.functional.pixel_shuffle(self.body(x), self.scale)
        return torch.as_tensor(made + interpolate(x, scale_factor=self.scale, mode="nearest"))


@dataclass(frozen=True, slots=True)
class Plan:
    """The network that a file holds, without memory, and the names of its tensors in the file: ours by theirs."""

    kind: str
    network: RRDBNet | SRVGGNet
    names: Mapping[str, str]

    @property
    def scale(self) -> int:
        """Times that it enlarges each side."""
        return self.network.scale


def plan(path: Path, entries: Mapping[str, TensorEntry]) -> Plan:
    """What the file at ``path`` holds. Raises :class:`ModelLoadError` where it is none of the family."""
    prefix = next(
        (p for p in ("params_ema.", "params.", "module.") if any(n.startswith(p) for n in entries)), ""
    )
    shapes = {n.removeprefix(prefix): e.shape for n, e in entries.items() if n.startswith(prefix)}
    renamed = _basicsr_names(shapes)
    names = {renamed[name]: f"{prefix}{name}" for name in shapes}
    shapes = {renamed[name]: shape for name, shape in shapes.items()}
    try:
        with without_memory():
            network = _compact(shapes) if "body.0.weight" in shapes else _rrdb(shapes)
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError, ZeroDivisionError):
        raise ModelLoadError(
            f"{path.name} is no upscaler of the ESRGAN family (RRDBNet, SRVGGNetCompact)."
        ) from None
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if expected != shapes:
        wrong = sorted(expected.keys() ^ shapes.keys()) or [n for n in expected if expected[n] != shapes[n]]
        raise ModelLoadError(
            f"{path.name} looks like an upscaler of the ESRGAN family, but its tensor {wrong[0]!r} does not fit."
        )
    return Plan("ESRGAN" if isinstance(network, RRDBNet) else "RealESRGAN", network, names)


def _rrdb(shapes: Mapping[str, tuple[int, ...]]) -> RRDBNet:
    width, channels = shapes["conv_first.weight"][:2]
    shuffle = {3: 1, 12: 2, 48: 4}[channels]
    doublings = sum(1 for name in shapes if re.fullmatch(r"conv_up\d+\.weight", name))
    blocks = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("body."))
    return RRDBNet(width, shapes["body.0.rdb1.conv1.weight"][0], blocks, doublings, shuffle)


def _compact(shapes: Mapping[str, tuple[int, ...]]) -> SRVGGNet:
    last = max(int(name.split(".")[1]) for name in shapes)
    outputs = shapes[f"body.{last}.weight"][0]
    scale = round((outputs / 3) ** 0.5)
    return SRVGGNet(shapes["body.0.weight"][0], last // 2 - 1, scale)


def _basicsr_names(names: Iterable[str]) -> dict[str, str]:
    """BasicSR's names of tensors by the names in the file, which may be those of ESRGAN's own two releases."""
    found: dict[str, str] = {}
    numbered = sorted({int(name.split(".")[1]) for name in names if re.fullmatch(r"model\.\d+\.\w+", name)})
    # One convolution, then one after each enlargement, then two.
    layers = [
        "conv_first",
        *(f"conv_up{number}" for number in range(1, len(numbered) - 2)),
        "conv_hr",
        "conv_last",
    ]
    for name in names:
        new = name
        if match := re.fullmatch(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.(weight|bias)", name):
            new = f"body.{match[1]}.rdb{match[2]}.conv{match[3]}.{match[4]}"
        elif match := re.fullmatch(r"model\.1\.sub\.\d+\.(weight|bias)", name):
            new = f"conv_body.{match[1]}"
        elif (match := re.fullmatch(r"model\.(\d+)\.(weight|bias)", name)) and len(numbered) >= 3:
            new = f"{layers[numbered.index(int(match[1]))]}.{match[2]}"
        elif match := re.fullmatch(r"RRDB_trunk\.(\d+)\.RDB(\d)\.(conv\d\.\w+)", name):
            new = f"body.{match[1]}.rdb{match[2]}.{match[3]}"
        else:
            new = re.sub(r"^trunk_conv\.", "conv_body.", new)
            new = re.sub(r"^upconv(\d)\.", r"conv_up\1.", new)
            new = re.sub(r"^HRconv\.", "conv_hr.", new)
        found[name] = new
    return found


def load(path: Path, device: torch.device, dtype: torch.dtype) -> RRDBNet | SRVGGNet:
    """The network in ``path``, on ``device``. Raises :class:`ModelLoadError`."""
    entries, _ = read_header(path)
    made = plan(path, entries)
    ours = {theirs: name for name, theirs in made.names.items()}
    tensors = (
        (ours[name], tensor)
        for name, tensor in read_tensors(path, Device(device, dtype, 0), ours.__contains__)
    )
    fill(made.network, tensors, f"upscaler {path.name}")
    return made.network.eval().requires_grad_(False)


def enlarge(
    network: RRDBNet | SRVGGNet,
    image: Pixels,
    check: Callable[[], None],
    tile: int = TILE,
    overlap: int = OVERLAP,
) -> Pixels:
    """``image`` enlarged by the network's scale, piece by piece; ``check`` is called before each and may raise."""
    parameter = next(network.parameters())
    height, width = image.shape[:2]
    scale = network.scale
    whole = np.zeros((height * scale, width * scale, 3), np.float32)
    weight = np.zeros((height * scale, width * scale, 1), np.float32)
    for top, bottom in _pieces(height, tile, overlap, network.shuffle):
        for left, right in _pieces(width, tile, overlap, network.shuffle):
            check()
            made = _run(network, image[top:bottom, left:right], parameter)
            rows = slice(top * scale, top * scale + made.shape[0])
            columns = slice(left * scale, left * scale + made.shape[1])
            fade = (
                _ramp(made.shape[0], overlap * scale)[:, None] * _ramp(made.shape[1], overlap * scale)[None]
            )
            whole[rows, columns] += made * fade[..., None]
            weight[rows, columns] += fade[..., None]
    return np.asarray((whole / weight).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _run(network: RRDBNet | SRVGGNet, piece: Pixels, like: Tensor) -> np.ndarray:
    height, width = piece.shape[:2]
    x = (
        torch.from_numpy(np.ascontiguousarray(piece)).to(like.device).permute(2, 0, 1)[None].to(like.dtype)
        / 255
    )
    # Sides that do not fold evenly are extended by their edge.
    more = (0, -width % network.shuffle, 0, -height % network.shuffle)
    if any(more):
        x = nn.functional.pad(x, more, mode="replicate")
    made = network(x)[0, :, : height * network.scale, : width * network.scale]
    return np.asarray(made.float().clamp(0, 1).permute(1, 2, 0).cpu().numpy())


def _pieces(length: int, tile: int, overlap: int, fold: int) -> list[tuple[int, int]]:
    """Where pieces of about ``tile`` begin and end that cover ``length``; they begin where pixels fold evenly."""
    if length <= tile:
        return [(0, length)]
    starts = range(0, length - tile, tile - overlap)
    return [*((start, start + tile) for start in starts), ((length - tile) // fold * fold, length)]


def _ramp(length: int, overlap: int) -> np.ndarray:
    """Weights along one side of a piece: rising over ``overlap`` at both ends, never 0."""
    distance = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1.0
    return np.asarray((distance / (overlap + 1)).clip(max=1.0), np.float32)
