"""The autoencoder: pictures to latents at factor 16 and back.

An `AutoencoderTiny` (no normalisation layers, so flat colours stay flat and crops behave like whole pictures),
trained on random crops with an L1 loss on pixels, on gradients and on a blurred copy. Noise on the latents makes
their space smooth and the decoder forgiving; a moment penalty makes every channel mean 0 and deviation 1, so that
`scaling_factor` is 1 within a few percent.
"""

import os
import random
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import AutoencoderTiny

from .clock import Average, Schedule, Ticker, set_rate
from .data import COLOURS, Placement, composite, named_background, soft_background
from .optimiser import Muon, split

FACTOR = 16
CHANNELS = 8
CONFIG: dict[str, Any] = {
    "encoder_block_out_channels": (48,) * 5,
    "decoder_block_out_channels": (48,) * 5,
    "num_encoder_blocks": (0, 0, 1, 2, 3),
    "num_decoder_blocks": (4, 4, 2, 1, 0),
    "latent_channels": CHANNELS,
}


def build() -> AutoencoderTiny:
    """A new autoencoder, initialised to be nearly linear: the last layer of each residual block starts small."""
    model = AutoencoderTiny(**CONFIG)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)
    for layer in model.modules():
        if type(layer).__name__ == "AutoencoderTinyBlock":
            convolutions = cast(torch.nn.Sequential, layer.conv)
            torch.nn.init.kaiming_normal_(cast(torch.nn.Conv2d, convolutions[0]).weight, nonlinearity="relu")
            torch.nn.init.kaiming_normal_(cast(torch.nn.Conv2d, convolutions[2]).weight, nonlinearity="relu")
            with torch.no_grad():
                cast(torch.nn.Conv2d, convolutions[4]).weight.mul_(0.1)
    return cast(AutoencoderTiny, model.to(memory_format=torch.channels_last))


@torch.no_grad()
def calibrate(model: AutoencoderTiny, pictures: torch.Tensor) -> None:
    """Scales each top-level convolution so that its outputs start with deviation 1 (the last one: 0.25 around 0.5)."""
    signal = pictures
    for part, last in ((model.encoder, 1.0), (model.decoder, 0.25)):
        signal = signal.add(1).div(2) if part is model.encoder else torch.tanh(signal / 3) * 3
        layers = list(part.layers)
        for layer in layers:
            if isinstance(layer, torch.nn.Conv2d):
                final = layer is layers[-1]
                layer.weight.mul_((last if final else 1.0) / layer(signal).std())
                if layer.bias is not None:
                    centre = 0.5 if final and part is model.decoder else 0.0
                    layer.bias.add_(centre - layer(signal).mean(dim=(0, 2, 3)))
            signal = layer(signal)


def crops(
    pictures: torch.Tensor, rng: random.Random, batch: int, side: int, canvas: int = 512
) -> torch.Tensor:
    """Random crops (batch, 3, side, side) around random pictures on random flat colours."""
    rows = [rng.randrange(len(pictures)) for _ in range(batch)]
    places = [Placement.draw(rng) for _ in range(batch)]
    names = list(COLOURS)
    grounds = []
    for _ in range(batch):
        kind = rng.random()
        if kind < 0.35:
            grounds.append(named_background(rng, rng.choice(names)))
        elif kind < 0.65:
            grounds.append(soft_background(rng))
        else:
            grounds.append((rng.randrange(256), rng.randrange(256), rng.randrange(256)))
    limit = canvas - side
    windows = []
    for place in places:
        reach = place.size * 0.5
        left = (place.x + rng.uniform(-reach, reach)) * canvas - side / 2
        top = (place.y + rng.uniform(-reach, reach)) * canvas - side / 2
        windows.append((int(min(limit, max(0, left))), int(min(limit, max(0, top)))))
    return composite(pictures[rows], places, grounds, canvas, windows, side)


def _edges(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return picture[..., 1:, :] - picture[..., :-1, :], picture[..., 1:] - picture[..., :-1]


def loss_between(made: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 of pixels, of finite differences at two scales, and of 8x8 means (twice: flat colours)."""
    half_made, half = F.avg_pool2d(made, 2), F.avg_pool2d(target, 2)
    total = F.l1_loss(made, target) + 2 * F.l1_loss(F.avg_pool2d(half_made, 4), F.avg_pool2d(half, 4))
    for one, other in ((made, target), (half_made, half)):
        for first, second in zip(_edges(one), _edges(other), strict=True):
            total = total + 0.75 * F.l1_loss(first, second)
    return total


def train(pictures: torch.Tensor, checkpoint: Path, minutes: float, seed: int = 0) -> AutoencoderTiny:
    """Trains until `minutes` have passed in all, resuming from `checkpoint` (written every two minutes)."""
    torch.manual_seed(seed)
    model = build()
    rng = random.Random(seed)
    if not checkpoint.exists():
        calibrate(model, crops(pictures, rng, 16, 128))
    matrices, vectors = split(model)
    optimisers = (Muon(matrices, 0.01), torch.optim.Adam(vectors, 1e-3, betas=(0.9, 0.99)))
    average = Average(model, 0.995)
    ticker = Ticker("autoencoder", minutes)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.values = state["average"]
        for optimiser, kept in zip(optimisers, state.get("optimisers", ()), strict=False):
            optimiser.load_state_dict(kept)
        ticker = Ticker("autoencoder", minutes, state["minutes"], state["step"])
    schedules = (Schedule(0.01, 4e-4, 20), Schedule(1e-3, 4e-5, 20))
    rng = random.Random(seed + ticker.step)
    saved = ticker.spent_minutes

    def save() -> None:
        state = {
            "model": model.state_dict(),
            "average": average.values,
            "optimisers": [optimiser.state_dict() for optimiser in optimisers],
            "minutes": ticker.spent_minutes,
            "step": ticker.step,
        }
        torch.save(state, checkpoint.with_suffix(".new"))
        os.replace(checkpoint.with_suffix(".new"), checkpoint)

    for spent in ticker:
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            set_rate(optimiser, schedule.rate(ticker.step, spent))
        side = 96 if spent < 0.7 else 160
        target = crops(
            pictures, rng, 20 if side == 96 else 8, side, rng.choice((256, 384, 512, 512, 512, 640))
        )
        target = target.contiguous(memory_format=torch.channels_last)
        latents = model.encode(target).latents
        noise = torch.randn_like(latents) * (torch.rand(len(latents), 1, 1, 1) * 0.2)
        made = model.decode(latents + noise).sample
        mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
        moments = mean.square().mean() + (deviation - 1).square().mean()
        loss = loss_between(made, target) + 0.05 * moments
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        average.update(model, ticker.step)
        if ticker.step % 10 == 0:
            ticker.note(l1=F.l1_loss(made, target).item(), loss=loss.item(), moments=moments.item())
        if ticker.spent_minutes - saved > 2:
            save()
            saved = ticker.spent_minutes
    save()
    return load(checkpoint)


def load(checkpoint: Path) -> AutoencoderTiny:
    """The averaged autoencoder of a checkpoint, in evaluation mode."""
    model = build()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["average"])
    return cast(AutoencoderTiny, model.eval().requires_grad_(False))
