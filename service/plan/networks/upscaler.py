"""ESRGAN's family of upscalers: pieces of 256 pixels a side, so that a large picture takes what one piece does."""

from collections.abc import Mapping
from dataclasses import dataclass

from service.plan.tape import CPU, Kernels, Tape

TILE = 256
"""Side in pixels of a piece, as the engine cuts them."""


@dataclass(frozen=True, slots=True)
class Upscaler:
    """What of an upscaling network decides its memory. ``growth`` 0: plain convolutions without dense blocks."""

    width: int = 64
    growth: int = 32
    scale: int = 4
    doublings: int = 2

    @classmethod
    def of_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> "Upscaler":
        """From the shapes of a file's tensors."""
        dense = next(
            (s for n, s in shapes.items() if n.endswith(("rdb1.conv1.weight", "RDB1.conv1.0.weight"))), None
        )
        four = [shape for shape in shapes.values() if len(shape) == 4]
        if dense is None:
            last = four[-1][0] if four else 48
            return cls(four[0][0] if four else 64, 0, round((last / 3) ** 0.5) or 1, 0)
        return cls(dense[1], dense[0])


def upscaler_peak(
    network: Upscaler, height: int, width: int, itemsize: int, *, kernels: Kernels = CPU
) -> int:
    """Bytes alive at most while one piece of a picture of height × width goes through; the picture is elsewhere."""
    tape = Tape(itemsize, kernels)
    cells = min(height, TILE) * min(width, TILE)
    tape.new(3, cells, channels_last=False)
    x = tape.convolution(tape.new(3, cells, channels_last=False), network.width, cells)
    if not network.growth:
        x = tape.then(x, tape.like(x))
        x = tape.then(x, tape.convolution(x, 3 * network.scale**2, cells))
        tape.new(3, cells * network.scale**2)
        tape.new(3, cells * network.scale**2)
        return tape.peak
    block, outer = tape.like(x), tape.like(x)
    seen = [tape.new(network.growth, cells) for _ in range(4)]
    joined = tape.new(network.width + 4 * network.growth, cells)
    tape.free(tape.convolution(joined, network.width, cells), joined, *seen, block, outer)
    x = tape.then(x, tape.like(x))
    for _ in range(network.doublings):
        cells *= 4
        larger = tape.new(network.width, cells)
        made = tape.convolution(larger, network.width, cells)
        active = tape.like(made)
        tape.free(x, larger, made)
        x = active
    h = tape.convolution(x, network.width, cells)
    h = tape.then(h, tape.like(h))
    image = tape.convolution(h, 3, cells)
    tape.free(x, h, image)
    return tape.peak
