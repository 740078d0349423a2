"""Blocks that UNets and autoencoders share: residual blocks, attention, transformers, and changes of size.

Each function takes a tensor that its caller keeps, and returns a new one. What is alive when, follows diffusers 0.42:
a name in a calling function keeps a tensor alive, and so does a local one until it is bound again.
"""

from dataclasses import dataclass

from service.plan.tape import Tape, Tensor


@dataclass(frozen=True, slots=True)
class Slicing:
    """How attention and feed-forward layers are cut: into pieces of ``tokens`` (0: all at once)."""

    tokens: int = 0


WHOLE = Slicing()


def resnet(tape: Tape, x: Tensor, channels: int, *, time: str = "none") -> Tensor:
    """``ResnetBlock2D``: norm, convolution, time, norm, convolution, and the input added."""
    h = tape.group_norm(x)
    h = tape.then(h, tape.like(h))
    h = tape.then(h, tape.convolution(h, channels, x.cells))
    if time == "default":
        h = tape.then(h, tape.like(h))
    h = tape.then(h, tape.group_norm(h))
    if time == "scale_shift":
        scaled = tape.like(h)
        shifted = tape.like(h)
        tape.free(h, scaled)
        h = shifted
    h = tape.then(h, tape.like(h))
    h = tape.then(h, tape.convolution(h, channels, x.cells))
    shortcut = tape.convolution(x, channels, x.cells, kernel=1) if x.channels != channels else None
    first = shortcut or x
    total = tape.like(first)
    out = tape.like(total)
    tape.free(total, h)
    if shortcut is not None:
        tape.free(shortcut)
    return out


def upsample(tape: Tape, x: Tensor, cells: int) -> Tensor:
    """``Upsample2D``: nearest neighbours, then a convolution."""
    larger = tape.new(x.channels, cells, channels_last=x.channels_last)
    return tape.then(larger, tape.convolution(larger, x.channels, cells))


def downsample(tape: Tape, x: Tensor, cells: int, *, pads: bool) -> Tensor:
    """``Downsample2D``: a convolution of stride 2; with ``pads`` the image is extended in a tensor of its own."""
    if not pads:
        return tape.convolution(x, x.channels, cells)
    padded = tape.like(x)
    return tape.then(padded, tape.convolution(padded, x.channels, cells))


def attention(tape: Tape, x: Tensor, context: tuple[int, int] | None, slicing: Slicing = WHOLE) -> Tensor:
    """Attention of tokens over themselves or over ``context`` (width, tokens of all rows), without its residual.

    PyTorch's fused kernels keep no scores: what counts are queries, keys, values and what comes out.
    """
    channels, cells = x.channels, x.cells
    if slicing.tokens and slicing.tokens < cells:
        return _sliced_attention(tape, x, context, slicing)
    query = tape.linear(x, channels)
    keys = cells if context is None else context[1]
    key, value = tape.new(channels, keys, channels_last=True), tape.new(channels, keys, channels_last=True)
    h = tape.linear(query, channels)
    h = tape.then(h, tape.linear(h, channels))
    h = tape.then(h, tape.like(h))
    tape.free(query, key, value)
    return h


def _sliced_attention(tape: Tape, x: Tensor, context: tuple[int, int] | None, slicing: Slicing) -> Tensor:
    """Keys and values of all tokens, queries piece by piece, written into the output."""
    keys = x.cells if context is None else context[1]
    key, value = (
        tape.new(x.channels, keys, channels_last=True),
        tape.new(x.channels, keys, channels_last=True),
    )
    out = tape.like(x)
    query = tape.new(x.channels, slicing.tokens, channels_last=True)
    h = tape.like(query)
    piece = tape.like(h)
    tape.free(query, h, piece, key, value)
    return out


def feed_forward(tape: Tape, x: Tensor, slicing: Slicing = WHOLE) -> Tensor:
    """GEGLU and a linear layer: twice four times the width, its gate through GELU, their product, and back."""
    cells = min(x.cells, slicing.tokens) if slicing.tokens else x.cells
    out = tape.like(x) if cells < x.cells else None
    both = tape.new(8 * x.channels, cells, channels_last=True)
    gate = tape.new(4 * x.channels, cells, channels_last=True)
    product = tape.like(gate)
    tape.free(both, gate)
    made = tape.new(x.channels, cells, channels_last=True)
    tape.free(product)
    if out is None:
        return made
    tape.free(made)
    return out


def transformer(
    tape: Tape,
    x: Tensor,
    layers: int,
    context: tuple[int, int],
    *,
    linear: bool,
    slicing: Slicing = WHOLE,
) -> Tensor:
    """``Transformer2DModel`` on images: norm, projection, ``layers`` blocks, projection, and the input added."""
    channels, cells = x.channels, x.cells
    h = tape.group_norm(x)
    if not linear:
        h = tape.then(h, tape.convolution(h, channels, cells, kernel=1))
    if not h.channels_last:  # tokens are a view of a channels-last image, else a copy
        h = tape.then(h, tape.new(channels, cells, channels_last=True))
    if linear:
        h = tape.then(h, tape.linear(h, channels))
    for _ in range(layers):
        h = tape.then(h, _block(tape, h, context, slicing))
    if linear:
        h = tape.then(h, tape.linear(h, channels))
    h = tape.then(h, tape.new(channels, cells, channels_last=False))
    if not linear:
        h = tape.then(h, tape.convolution(h, channels, cells, kernel=1))
    return tape.then(h, tape.like(h))


def _block(tape: Tape, x: Tensor, context: tuple[int, int], slicing: Slicing) -> Tensor:
    """``BasicTransformerBlock``: attention over itself, over the text, and a feed-forward layer, each with a norm."""
    normed = tape.like(x)
    attended = attention(tape, normed, None, slicing)
    h = tape.like(x)
    second = tape.like(h)
    tape.free(normed)
    crossed = attention(tape, second, context, slicing)
    tape.free(attended)
    h = tape.then(h, tape.like(h))
    third = tape.like(h)
    tape.free(second)
    fed = feed_forward(tape, third, slicing)
    out = tape.like(h)
    tape.free(fed, third, crossed, h)
    return out


def image_attention(tape: Tape, x: Tensor) -> Tensor:
    """The attention in the middle of an autoencoder: one head over all cells of an image, its input added."""
    with tape.lent(x.size):
        normed = tape.new(x.channels, x.cells, channels_last=False)
    # The norm's output is not dense as tokens are: each projection copies it.
    made = []
    for _ in range(3):
        with tape.lent(normed.size):
            made.append(tape.linear(normed, x.channels))
    h = tape.linear(normed, x.channels)
    h = tape.then(h, tape.linear(h, x.channels))
    h = tape.then(h, tape.new(x.channels, x.cells, channels_last=True))
    h = tape.then(h, tape.like(h))
    tape.free(normed, *made)
    return h
