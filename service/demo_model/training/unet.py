"""The UNet: latents of composites, embeddings of captions, and v-prediction on them until the time is up.

Latents are encoded once into a bank (and a few are replaced at every step, so the set never stops growing), captions
are embedded once, so that a training step costs the UNet alone.
"""

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import AutoencoderTiny, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from . import text
from .attention import Pointer
from .autoencoder import CHANNELS, FACTOR
from .captions import Captioner, draw_colour
from .clock import Average, Schedule, Ticker, set_rate
from .data import CENTRED, COLOURS, composite, named_background, soft_background
from .optimiser import Muon, split

SIDE = 512 // FACTOR
CONFIG: dict[str, Any] = {
    "sample_size": SIDE,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "block_out_channels": (32, 64, 160, 160),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": text.WIDTH,
    "attention_head_dim": 4,
    "use_linear_projection": True,
    "norm_num_groups": 16,
    # The prompt as a whole also scales and shifts every residual block, beside the time: a picture of one subject
    # needs to know what it is everywhere, and learns that many times sooner than through cross-attention alone.
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 8,
    "time_embedding_dim": 512,
    "resnet_time_scale_shift": "scale_shift",
}
COLOUR_NAMES: tuple[str | None, ...] = (None, *COLOURS)
_DROPPED = 0.12
_NEGATIVES = 64
_PURE_NOISE = 0.12
_POINTING = 0.1


def pure_share(spent: float) -> float:
    """Share of samples that start from noise without a trace of the picture, `spent` being that of the time (0 to 1).

    All at first: without noise in the target, drawing from the text alone is plain regression and quickly learnt.
    """
    return max(_PURE_NOISE, 1 - 4 * spent)


def scheduler() -> EulerDiscreteScheduler:
    """The noise schedule of Stable Diffusion with v-prediction, and the sampler a pipeline starts with."""
    return EulerDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="linspace",
        steps_offset=1,
    )


def build() -> UNet2DConditionModel:
    """A new UNet of 10.4 million parameters."""
    return cast(UNet2DConditionModel, UNet2DConditionModel(**CONFIG).to(memory_format=torch.channels_last))


class LatentBank:
    """Encoded composites: `latents` (entries, 8, side, side) in half precision, the subject and colour of each."""

    def __init__(
        self,
        pictures: torch.Tensor,
        autoencoder: AutoencoderTiny,
        rng: random.Random,
        canvas: int = 512,
    ) -> None:
        self.pictures, self.autoencoder, self.rng, self.canvas = pictures, autoencoder, rng, canvas
        self.latents = torch.zeros(0, CHANNELS, canvas // FACTOR, canvas // FACTOR, dtype=torch.float16)
        self.subject: list[int] = []
        self.colour: list[int] = []
        self._next = 0

    @torch.no_grad()
    def _encode(self, rows: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        colours = [COLOUR_NAMES.index(draw_colour(self.rng)) for _ in rows]
        grounds = []
        for colour in colours:
            name = COLOUR_NAMES[colour]
            grounds.append(soft_background(self.rng) if name is None else named_background(self.rng, name))
        places = [CENTRED] * len(rows)
        drawn = composite(self.pictures[list(rows)], places, grounds, self.canvas)
        drawn = drawn.contiguous(memory_format=torch.channels_last)
        return self.autoencoder.encode(drawn).latents.half().contiguous(), colours

    def fill(self, entries: int) -> None:
        """Adds entries: all subjects in turn."""
        rows = [place % len(self.pictures) for place in range(entries)]
        self.rng.shuffle(rows)
        parts = [self.latents]
        for start in Ticker.over("latents", range(0, len(rows), 4)):
            encoded, colours = self._encode(rows[start : start + 4])
            parts.append(encoded)
            self.subject += rows[start : start + 4]
            self.colour += colours
        self.latents = torch.cat(parts)

    def refresh(self, count: int) -> None:
        """Replaces the oldest entries by new composites."""
        places = [(self._next + offset) % len(self.subject) for offset in range(count)]
        self._next += count
        rows = self.rng.choices(range(len(self.pictures)), k=count)
        encoded, colours = self._encode(rows)
        self.latents[places] = encoded
        for place, row in zip(places, rows, strict=True):
            self.subject[place] = row
        for place, colour in zip(places, colours, strict=True):
            self.colour[place] = colour

    def save(self, path: Path) -> None:
        """Writes the bank to a file."""
        torch.save({"latents": self.latents, "subject": self.subject, "colour": self.colour}, path)

    def load(self, path: Path) -> None:
        """Reads what `save` wrote."""
        state = torch.load(path, weights_only=True)
        self.latents, self.subject, self.colour = state["latents"], state["subject"], state["colour"]


class CaptionPool:
    """Embedded captions: a few for each subject and background colour, the empty one, and some that name nothing."""

    def __init__(
        self,
        captioner: Captioner,
        model: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        rng: random.Random,
        plain: int = 10,
        coloured: int = 2,
        stored: Path | None = None,
    ) -> None:
        self.index: dict[tuple[int, int], list[int]] = {}
        texts: list[str] = []
        for row in range(len(captioner.subjects)):
            for colour, name in enumerate(COLOUR_NAMES):
                count = plain if name is None else coloured
                self.index[row, colour] = list(range(len(texts), len(texts) + count))
                texts += [captioner.caption(row, name, rng, 0.1) for _ in range(count)]
        self.nothing = range(len(texts), len(texts) + _NEGATIVES)
        texts += [captioner.noise(None, rng) for _ in self.nothing]
        self.rng = rng
        if stored is not None and stored.exists():
            self.states = torch.load(stored, weights_only=True)
        else:
            parts = [
                text.embed(model, tokenizer, texts[start : start + 64])
                for start in Ticker.over("captions", range(0, len(texts), 64))
            ]
            self.states = torch.cat(parts)
            if stored is not None:
                torch.save(self.states, stored)
        self.empty = text.embed(model, tokenizer, [""])[0]

    def pick(self, subject: int, colour: int) -> torch.Tensor:
        """Hidden states (77, width) of one caption; sometimes of one that names nothing, for guidance."""
        if (chance := self.rng.random()) < _DROPPED:
            return self.empty if chance < 0.7 * _DROPPED else self.states[self.rng.choice(self.nothing)]
        # A caption need not say the colour: a fifth of the coloured pictures go by their subject alone.
        if colour and self.rng.random() < 0.2:
            colour = 0
        return self.states[self.rng.choice(self.index[subject, colour])]


def train(
    bank: LatentBank,
    others: Callable[[], Sequence[LatentBank]],
    pool: CaptionPool,
    checkpoint: Path,
    minutes: float,
    scaling: float,
    on_save: Callable[[], None] | None = None,
    seed: int = 0,
    batch: int = 24,
    refresh: int = 4,
    peak: float = 0.01,
) -> None:
    """Trains until `minutes` have passed in all, resuming from `checkpoint` (written every four minutes).

    `bank` holds latents of 512x512; those of other sizes come from `others` when three quarters of the time are over
    and take one step in six from then on. Every `refresh`-th step encodes a new composite.
    """
    torch.manual_seed(seed)
    model = build().train()
    average, pointer = Average(model, 0.995), Pointer(model)
    matrices, vectors = split(model, "conv_in", "conv_out", "time_embedding", "add_embedding.pool.pos")
    optimisers = (
        Muon(matrices, 0.01, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(vectors, 1e-3, betas=(0.9, 0.98), weight_decay=0.0),
    )
    ticker = Ticker("unet", minutes)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.values = state["average"]
        for optimiser, kept in zip(optimisers, state.get("optimisers", ()), strict=False):
            optimiser.load_state_dict(kept)
        ticker = Ticker("unet", minutes, state["minutes"], state["step"])
    torch.manual_seed(seed + 1000 * ticker.step)
    rng = random.Random(seed + ticker.step)
    schedules = (Schedule(peak, peak * 0.02, 60), Schedule(peak * 0.05, peak * 0.001, 60))
    kept_share = scheduler().alphas_cumprod
    parameters = list(model.parameters())
    sizes: list[LatentBank] = []
    running, saved = 1.0, ticker.spent_minutes

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
        if on_save is not None:
            on_save()

    for spent in ticker:
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            set_rate(optimiser, schedule.rate(ticker.step, spent))
        if spent > 0.75 and not sizes:
            sizes = list(others())
        other = bool(sizes) and ticker.step % 6 == 0
        source = rng.choice(sizes) if other else bank
        if ticker.step % refresh == 0 and not other:
            bank.refresh(1)
        rows = [rng.randrange(len(source.subject)) for _ in range(batch)]
        clean = source.latents[rows].float() * scaling
        states = torch.stack([pool.pick(source.subject[row], source.colour[row]) for row in rows]).float()
        noise = torch.randn_like(clean)
        # More weight on high noise, where the text decides what there will be.
        steps = (torch.rand(batch) ** 0.55 * 1000).long().clamp(max=999)
        share = kept_share[steps]
        # Sampling starts from noise without a trace of a picture; the schedule's last step still holds one.
        pure = torch.rand(batch) < pure_share(spent)
        steps = torch.where(pure, 999, steps)
        share = torch.where(pure, 0.0, share)[:, None, None, None]
        noisy = share.sqrt() * clean + (1 - share).sqrt() * noise
        target = share.sqrt() * noise - (1 - share).sqrt() * clean
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        loss = F.mse_loss(model(noisy, steps, states).sample, target)
        astray = pointer.astray()
        model.zero_grad(set_to_none=True)
        (loss + _POINTING * astray).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        average.update(model, ticker.step)
        running = 0.98 * running + 0.02 * loss.item()
        ticker.note(loss=running, astray=astray.item())
        if ticker.spent_minutes - saved > 4:
            save()
            saved = ticker.spent_minutes
    save()


def load(checkpoint: Path) -> UNet2DConditionModel:
    """The averaged UNet of a checkpoint, in evaluation mode."""
    model = build()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["average"])
    return cast(UNet2DConditionModel, model.eval().requires_grad_(False))
