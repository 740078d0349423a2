"""A tape of tensors: what is alive while a network runs, and how much it is at most.

PyTorch in eager mode frees a tensor when the last name for it goes. So the memory of a network's activations follows
from its code and the shapes alone. The modules in ``networks`` walk through the networks as diffusers' code does and
tell a tape each tensor that is made and dropped; nothing is computed, and torch is not needed.

What kernels take beside their outputs is told too, as far as the allocator sees it: the copy of an input whose layout
is not that of the convolution's weights, and a library's workspace.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, slots=True)
class Kernels:
    """How the kernels of a device take memory.

    ``round_to``: each tensor takes a multiple of so many bytes. ``norm_is_contiguous``: group norm makes contiguous
    tensors, and a copy of an input that is channels-last (CUDA). ``workspace`` × (input + output), ``workspace_limit``
    at most, is what a convolution takes beside them; ``reorders`` the weights once more, in an order of its own (CPU).
    """

    channels_last: bool = True
    round_to: int = 1
    norm_is_contiguous: bool = False
    workspace: float = 0.0
    workspace_limit: int = 0
    reorders: bool = False


CPU = Kernels(reorders=True)
"""What PyTorch's own allocator counts on a CPU: oneDNN's other scratch memory is its own affair."""

CUDA = Kernels(round_to=512, norm_is_contiguous=True, workspace=0.5, workspace_limit=256 * 1024**2)


@dataclass(eq=False, slots=True)
class Tensor:
    """A tensor that is alive: ``channels`` × ``cells`` (rows × height × width) numbers of ``itemsize`` bytes."""

    channels: int
    cells: int
    itemsize: int
    channels_last: bool
    size: int = 0


class Tape:
    """Counts bytes that are alive; ``peak`` is their maximum. ``itemsize`` is that of the network's precision."""

    def __init__(self, itemsize: int, kernels: Kernels = CPU) -> None:
        self.itemsize = itemsize
        self.kernels = kernels
        self.alive = 0
        self.peak = 0

    def new(
        self, channels: int, cells: int, *, itemsize: int = 0, channels_last: bool | None = None
    ) -> Tensor:
        """A tensor is made. ``channels_last`` None: the layout that convolutions make."""
        layout = self.kernels.channels_last if channels_last is None else channels_last
        made = Tensor(channels, cells, itemsize or self.itemsize, layout)
        rounding = self.kernels.round_to
        made.size = ceil(channels * cells * made.itemsize / rounding) * rounding
        self._take(made.size)
        return made

    def free(self, *tensors: Tensor) -> None:
        """Their last name is gone."""
        for tensor in tensors:
            self.alive -= tensor.size
            tensor.size = 0

    @contextmanager
    def lent(self, size: int) -> Iterator[None]:
        """``size`` bytes are taken while this lasts."""
        self._take(size)
        try:
            yield
        finally:
            self.alive -= size

    def _take(self, size: int) -> None:
        self.alive += size
        self.peak = max(self.peak, self.alive)

    # --- layers: each makes its output and leaves its input alive ------------------------------------

    def like(self, x: Tensor, *, itemsize: int = 0) -> Tensor:
        """An elementwise operation: another tensor of the same shape and layout."""
        return self.new(x.channels, x.cells, itemsize=itemsize or x.itemsize, channels_last=x.channels_last)

    def convolution(self, x: Tensor, channels: int, cells: int, *, kernel: int = 3) -> Tensor:
        """A convolution with a kernel of ``kernel`` × ``kernel``; an input of the other layout is copied first."""
        kernels = self.kernels
        copied = x.size if kernels.channels_last and not x.channels_last else 0
        beside = x.channels * channels * kernel**2 * self.itemsize if kernels.reorders else 0
        with self.lent(copied):
            made = self.new(channels, cells)
            beside += min(int(kernels.workspace * (x.size + made.size)), kernels.workspace_limit)
            with self.lent(beside):
                return made

    def group_norm(self, x: Tensor) -> Tensor:
        """Group normalisation."""
        if not self.kernels.norm_is_contiguous:
            return self.like(x)
        with self.lent(x.size if x.channels_last else 0):
            return self.new(x.channels, x.cells, channels_last=False)

    def linear(self, x: Tensor, channels: int) -> Tensor:
        """A linear layer over tokens, (rows, tokens, channels): tokens are dense, as channels-last images are."""
        return self.new(channels, x.cells, channels_last=True)

    def then(self, x: Tensor, made: Tensor) -> Tensor:
        """``x = f(x)``: ``made`` is there, and the tensor that had the name is dropped."""
        self.free(x)
        return made
