"""The text encoder: a small CLIPTextModel that learns, before there is a UNet, what captions mean.

It is trained to tell from its hidden states which subject and which background colour a caption names, and what the
subject looks like (the principal components of its thumbnail), at the end token and at every padding position
after it. The last 16 positions, which are padding in all but very long prompts, also tell what a cell of a grid of
4x4 over the picture looks like: the principal components of its latents. To learn a picture by heart is quick work for
regression and slow work for diffusion; so the UNet only has to learn how to use what cross-attention finds there.
Afterwards it is frozen, so the UNet's training can use embeddings made once.
"""

import os
import random
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import AutoencoderTiny
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .captions import Captioner, draw_colour
from .clock import Schedule, Ticker, set_rate
from .data import CENTRED, COLOURS, composite
from .optimiser import Muon, split
from .tokenizer import LENGTH

WIDTH = 256
_LOOKS = 96
GRID = 4
LAYOUT = GRID * GRID
_CODES = 160


def build(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A new text encoder of about 3.4 million parameters."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def looks(pictures: torch.Tensor) -> torch.Tensor:
    """What each subject looks like in 96 numbers of deviation 1: principal components of 16x16 thumbnails."""
    small = torch.cat([F.adaptive_avg_pool2d(part.float() / 255, 16) for part in pictures.split(64)]).flatten(
        1
    )
    small = small - small.mean(dim=0)
    _, _, directions = torch.linalg.svd(small, full_matrices=False)
    projected = small @ directions[:_LOOKS].T
    return cast(torch.Tensor, projected / projected.std(dim=0))


@torch.no_grad()
def layouts(pictures: torch.Tensor, autoencoder: AutoencoderTiny) -> torch.Tensor:
    """What each cell of a 4x4 grid over each subject looks like, (subjects, 16, 160).

    Principal components of its 8x8 latents on a grey background, scaled so that the first matter more, but not by
    all of their size.
    """
    parts = []
    for start in Ticker.over("layouts", range(0, len(pictures), 4)):
        some = pictures[start : start + 4]
        drawn = composite(some, [CENTRED] * len(some), [(128, 128, 128)] * len(some), 512)
        parts.append(autoencoder.encode(drawn.contiguous(memory_format=torch.channels_last)).latents)
    latents = torch.cat(parts).contiguous()
    count, channels, side, _ = latents.shape
    cells = latents.reshape(count, channels, GRID, side // GRID, GRID, side // GRID)
    flat = cells.permute(0, 2, 4, 1, 3, 5).reshape(count * LAYOUT, -1)
    flat = flat - flat.mean(dim=0)
    _, _, directions = torch.linalg.svd(flat, full_matrices=False)
    codes = flat @ directions[:_CODES].T
    deviation = codes.std(dim=0)
    codes = codes / deviation * (deviation / deviation[0]).sqrt()
    return cast(torch.Tensor, (codes / codes.std()).reshape(count, LAYOUT, _CODES))


class _Heads(torch.nn.Module):
    def __init__(self, subjects: int) -> None:
        super().__init__()
        self.subject = torch.nn.Linear(WIDTH, subjects + 1)
        self.colour = torch.nn.Linear(WIDTH, len(COLOURS) + 1)
        self.looks = torch.nn.Linear(WIDTH, _LOOKS)
        self.layout = torch.nn.Linear(WIDTH, _CODES)


def train(
    captioner: Captioner,
    pictures: torch.Tensor,
    layout: torch.Tensor,
    tokenizer: CLIPTokenizer,
    checkpoint: Path,
    minutes: float,
    seed: int = 0,
    batch: int = 64,
) -> CLIPTextModel:
    """Trains for `minutes` and writes `checkpoint` at the end. Short sequences mostly, whole ones now and then.

    `layout` is what `layouts` makes of `pictures`.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model, count = build(tokenizer).train(), len(captioner.subjects)
    heads, appearance = _Heads(count), looks(pictures)
    # What names no subject looks like the mean of all.
    layout = torch.cat([layout, torch.zeros(1, LAYOUT, _CODES)])
    parameters = [*model.parameters(), *heads.parameters()]
    matrices, others = split(model, "embedding")
    optimisers = (
        Muon(matrices, 0.01, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW([*others, *heads.parameters()], lr=1e-3, weight_decay=0.01, betas=(0.9, 0.98)),
    )
    schedules = (Schedule(0.015, 1e-4, 60), Schedule(2e-3, 2e-5, 60))
    colours = [None, *COLOURS]
    ticker = Ticker("text encoder", minutes)
    for spent in ticker:
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            set_rate(optimiser, schedule.rate(ticker.step, spent))
        whole = ticker.step % 8 == 7
        size = batch // 3 if whole else batch
        rows = [rng.randrange(count) if rng.random() < 0.96 else count for _ in range(size)]
        named = [draw_colour(rng) for _ in range(size)]
        texts = [
            captioner.noise(colour, rng)
            if row == count
            else captioner.caption(row, colour, rng, 0.5 if whole else 0.08)
            for row, colour in zip(rows, named, strict=True)
        ]
        encoded = tokenizer(texts, truncation=True, max_length=LENGTH).input_ids
        length = LENGTH if whole else min(LENGTH, max(map(len, encoded)) + 2, 26) + LAYOUT
        tokens, places, ends = [], [], []
        for sequence in encoded:
            if len(sequence) > length:
                sequence = [*sequence[: length - 1], sequence[-1]]
            pads = length - len(sequence)
            tokens.append(sequence + [tokenizer.pad_token_id] * pads)
            between = max(0, min(pads - LAYOUT, LENGTH - LAYOUT - len(sequence)))
            last = pads - between
            places.append(
                [
                    *range(len(sequence)),
                    *sorted(rng.sample(range(len(sequence), LENGTH - last), between)),
                    *range(LENGTH - last, LENGTH),
                ]
            )
            ends.append(len(sequence) - 1)
        hidden = model(torch.tensor(tokens), position_ids=torch.tensor(places)).last_hidden_state
        batch_rows = torch.arange(size)
        loss = torch.zeros(())
        figures: dict[str, float] = {}
        target, shade = torch.tensor(rows), torch.tensor([colours.index(colour) for colour in named])
        drawn = target < count
        for at in (torch.tensor(ends), torch.tensor([rng.randint(end, length - 1) for end in ends])):
            state = hidden[batch_rows, at]
            logits = heads.subject(state)
            which = F.cross_entropy(logits, target)
            colour_loss = F.cross_entropy(heads.colour(state), shade)
            look = F.mse_loss(heads.looks(state[drawn]), appearance[target[drawn]])
            loss = loss + which + colour_loss + look
            figures = {
                "subject": (logits.argmax(-1) == target).float().mean().item(),
                "colour": (heads.colour(state).argmax(-1) == shade).float().mean().item(),
                "look": look.item(),
            }
        told = torch.tensor([length - 1 - end >= LAYOUT for end in ends])
        cells = F.mse_loss(heads.layout(hidden[told, -LAYOUT:]), layout[target[told]])
        loss = loss + 4 * cells
        figures["cells"] = cells.item()
        for value in parameters:
            value.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        ticker.note(**figures)
    torch.save(model.state_dict(), checkpoint.with_suffix(".new"))
    os.replace(checkpoint.with_suffix(".new"), checkpoint)
    return load(tokenizer, checkpoint)


def load(tokenizer: CLIPTokenizer, checkpoint: Path) -> CLIPTextModel:
    """The trained encoder, frozen."""
    model = build(tokenizer)
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    return cast(CLIPTextModel, model.eval().requires_grad_(False))


@torch.no_grad()
def embed(model: CLIPTextModel, tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Hidden states (texts, 77, width) as a pipeline computes them, in half precision."""
    parts = []
    for start in range(0, len(texts), 64):
        tokens = tokenizer(
            texts[start : start + 64],
            truncation=True,
            max_length=LENGTH,
            padding="max_length",
            return_tensors="pt",
        )
        parts.append(model(tokens.input_ids).last_hidden_state.half())
    return torch.cat(parts)
