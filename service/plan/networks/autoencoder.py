"""diffusers' ``AutoencoderKL`` and ``AutoencoderTiny``: between latents and pixels, one image at a time."""

from collections.abc import Mapping
from typing import Any

from service.plan.networks.blocks import downsample, image_attention, resnet, upsample
from service.plan.tape import CPU, Kernels, Tape, Tensor


def decode_peak(
    config: Mapping[str, Any], height: int, width: int, itemsize: int, *, kernels: Kernels = CPU
) -> int:
    """Bytes alive at most while the latent of one image of height × width pixels is decoded."""
    tape = Tape(itemsize, kernels)
    if _is_tiny(config):
        _tiny_decoder(tape, config, height, width)
    else:
        _kl_decoder(tape, config, height, width)
    return tape.peak


def encode_peak(
    config: Mapping[str, Any], height: int, width: int, itemsize: int, *, kernels: Kernels = CPU
) -> int:
    """Bytes alive at most while one image of height × width pixels is encoded."""
    tape = Tape(itemsize, kernels)
    if _is_tiny(config):
        _tiny_encoder(tape, config, height, width)
    else:
        _kl_encoder(tape, config, height, width)
    return tape.peak


def latent_factor(config: Mapping[str, Any]) -> int:
    """Pixels per latent cell and side."""
    blocks = config.get("decoder_block_out_channels") or config["block_out_channels"]
    return int(2 ** (len(blocks) - 1))


def _is_tiny(config: Mapping[str, Any]) -> bool:
    return "decoder_block_out_channels" in config


def _cells(config: Mapping[str, Any], height: int, width: int) -> list[int]:
    """Cells of an image at each level, the latent's first."""
    factor = latent_factor(config)
    h, w = -(-height // factor), -(-width // factor)
    found = []
    while factor >= 1:
        found.append(h * w)
        h, w, factor = 2 * h, 2 * w, factor // 2
    return found


def _kl_decoder(tape: Tape, config: Mapping[str, Any], height: int, width: int) -> None:
    channels = [int(each) for each in config["block_out_channels"]][::-1]
    cells = _cells(config, height, width)
    latent = tape.new(int(config["latent_channels"]), cells[0], channels_last=False)
    if config.get("use_post_quant_conv", True):
        tape.convolution(latent, latent.channels, cells[0], kernel=1)
    sample = _kl_middle(tape, tape.convolution(latent, channels[0], cells[0]))
    for level, width_ in enumerate(channels):
        # The decoder's own name keeps the block's input alive.
        h = sample
        for _ in range(int(config.get("layers_per_block", 1)) + 1):
            made = resnet(tape, h, width_)
            if h is not sample:
                tape.free(h)
            h = made
        if level < len(channels) - 1:
            h = tape.then(h, upsample(tape, h, cells[level + 1]))
        sample = tape.then(sample, h)
    _to_image(tape, sample, int(config.get("out_channels", 3)))


def _kl_middle(tape: Tape, sample: Tensor) -> Tensor:
    h = resnet(tape, sample, sample.channels)
    h = tape.then(h, image_attention(tape, h))
    h = tape.then(h, resnet(tape, h, sample.channels))
    return tape.then(sample, h)


def _to_image(tape: Tape, sample: Tensor, channels: int) -> None:
    h = tape.then(sample, tape.group_norm(sample))
    h = tape.then(h, tape.like(h))
    image = tape.then(h, tape.convolution(h, channels, h.cells))
    _to_pixels(tape, image)


def _to_pixels(tape: Tape, image: Tensor) -> None:
    """Single precision, clamped, shifted, scaled, rounded, and bytes at the end."""
    whole = tape.like(image, itemsize=4)
    clamped = tape.like(whole)
    scaled = tape.like(whole)
    tape.free(whole, clamped, scaled)


def _kl_encoder(tape: Tape, config: Mapping[str, Any], height: int, width: int) -> None:
    channels = [int(each) for each in config["block_out_channels"]]
    cells = _cells(config, height, width)[::-1]
    # The picture as it came, at single precision, and in the network's.
    tape.new(int(config.get("in_channels", 3)), cells[0], itemsize=4, channels_last=False)
    image = tape.new(int(config.get("in_channels", 3)), cells[0], channels_last=False)
    sample = tape.convolution(image, channels[0], cells[0])
    for level, width_ in enumerate(channels):
        h = sample
        for _ in range(int(config.get("layers_per_block", 1))):
            made = resnet(tape, h, width_)
            if h is not sample:
                tape.free(h)
            h = made
        if level < len(channels) - 1:
            made = downsample(tape, h, cells[level + 1], pads=True)
            if h is not sample:
                tape.free(h)
            h = made
        sample = tape.then(sample, h)
    sample = _kl_middle(tape, sample)
    h = tape.then(sample, tape.group_norm(sample))
    h = tape.then(h, tape.like(h))
    tape.then(h, tape.convolution(h, 2 * int(config["latent_channels"]), h.cells))


def _tiny_decoder(tape: Tape, config: Mapping[str, Any], height: int, width: int) -> None:
    channels = [int(each) for each in config["decoder_block_out_channels"]]
    blocks = [int(each) for each in config["num_decoder_blocks"]]
    cells = _cells(config, height, width)
    latent = tape.new(int(config["latent_channels"]), cells[0], channels_last=False)
    latent = tape.then(latent, tape.like(latent))
    x = tape.then(latent, tape.convolution(latent, channels[0], cells[0]))
    x = tape.then(x, tape.like(x))
    for level, count in enumerate(blocks):
        for _ in range(count):
            x = tape.then(x, _tiny_block(tape, x))
        if level < len(blocks) - 1:
            x = tape.then(x, tape.new(x.channels, cells[level + 1], channels_last=x.channels_last))
        last = level == len(blocks) - 1
        wanted = int(config.get("out_channels", 3)) if last else channels[level]
        x = tape.then(x, tape.convolution(x, wanted, x.cells))
    image = tape.then(x, tape.like(x))
    image = tape.then(image, tape.like(image))
    _to_pixels(tape, image)


def _tiny_block(tape: Tape, x: Tensor) -> Tensor:
    """Three convolutions with an activation between, the input added, an activation."""
    h = tape.convolution(x, x.channels, x.cells)
    for _ in range(2):
        h = tape.then(h, tape.like(h))
        h = tape.then(h, tape.convolution(h, x.channels, x.cells))
    h = tape.then(h, tape.like(h))
    return tape.then(h, tape.like(h))


def _tiny_encoder(tape: Tape, config: Mapping[str, Any], height: int, width: int) -> None:
    channels = [int(each) for each in config["encoder_block_out_channels"]]
    blocks = [int(each) for each in config["num_encoder_blocks"]]
    cells = _cells(config, height, width)[::-1]
    image = tape.new(int(config.get("in_channels", 3)), cells[0], channels_last=False)
    # Shifted to 0..1; the call of the layers keeps it alive.
    image = tape.then(image, tape.like(image))
    x = image
    for level, count in enumerate(blocks):
        made = tape.convolution(x, channels[level], cells[level])
        if x is not image:
            tape.free(x)
        x = made
        for _ in range(count):
            x = tape.then(x, _tiny_block(tape, x))
    tape.convolution(x, int(config["latent_channels"]), x.cells)
