"""diffusers' ``UNet2DConditionModel``: the network that denoises."""

from collections.abc import Mapping
from typing import Any

from service.plan.networks.blocks import WHOLE, Slicing, downsample, resnet, transformer, upsample
from service.plan.tape import CPU, Kernels, Tape, Tensor


def unet_peak(
    config: Mapping[str, Any],
    rows: int,
    height: int,
    width: int,
    itemsize: int,
    *,
    tokens: int = 77,
    kernels: Kernels = CPU,
    slicing: Slicing = WHOLE,
) -> int:
    """Bytes alive at most in one call on ``rows`` latents of height × width cells, its inputs not counted.

    ``tokens`` is the length of the text's encoding (77 for each chunk of the prompt).
    """
    tape = Tape(itemsize, kernels)
    channels = [int(each) for each in config["block_out_channels"]]
    count = len(channels)
    layers = _each(config.get("layers_per_block", 2), count)
    transformers = _each(config.get("transformer_layers_per_block", 1), count)
    context = (0, rows * tokens)
    linear = bool(config.get("use_linear_projection", False))
    time = str(config.get("resnet_time_scale_shift", "default"))
    sizes = [(height, width)]
    for _ in range(count - 1):
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    cells = [rows * h * w for h, w in sizes]

    given = tape.new(int(config["in_channels"]), cells[0], channels_last=False)
    sample = tape.convolution(given, channels[0], cells[0])
    skips = [sample]
    for level, kind in enumerate(config["down_block_types"]):
        attends = "CrossAttn" in kind
        for _ in range(layers[level]):
            h = resnet(tape, sample, channels[level], time=time)
            if attends:
                h = tape.then(
                    h, transformer(tape, h, transformers[level], context, linear=linear, slicing=slicing)
                )
            sample = h
            skips.append(sample)
        if level < count - 1:
            sample = downsample(tape, sample, cells[level + 1], pads=False)
            skips.append(sample)

    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn"):
        h = resnet(tape, sample, channels[-1], time=time)
        h = tape.then(h, transformer(tape, h, transformers[-1], context, linear=linear, slicing=slicing))
        # The block's input is the last of the skips, which stays.
        sample = tape.then(h, resnet(tape, h, channels[-1], time=time))

    held: list[Tensor] = []
    reverse = config.get("reverse_transformer_layers_per_block") or transformers[::-1]
    for index, kind in enumerate(config["up_block_types"]):
        level = count - 1 - index
        wanted = layers[level] + 1
        tape.free(*held)
        held = skips[-wanted:]
        del skips[-wanted:]
        # The caller's name keeps the block's input alive until the block is done.
        entered, h = sample, sample
        for skip in reversed(held):
            joined = tape.new(
                h.channels + skip.channels, h.cells, channels_last=h.channels_last and skip.channels_last
            )
            if h is not entered:
                tape.free(h)
            h = tape.then(joined, resnet(tape, joined, channels[level], time=time))
            if "CrossAttn" in kind:
                h = tape.then(
                    h, transformer(tape, h, _int(reverse[index]), context, linear=linear, slicing=slicing)
                )
        if level > 0:
            h = tape.then(h, upsample(tape, h, cells[level - 1]))
        tape.free(entered)
        sample = h
    h = tape.then(sample, tape.group_norm(sample))
    h = tape.then(h, tape.like(h))
    tape.convolution(h, int(config["out_channels"]), cells[0])
    return tape.peak


def _each(value: Any, count: int) -> list[int]:
    return [int(each) for each in value] if isinstance(value, list | tuple) else [int(value)] * count


def _int(value: Any) -> int:
    return int(value)
