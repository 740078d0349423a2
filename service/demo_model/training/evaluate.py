"""How good the model is, in numbers, and a sheet of pictures to look at.

Everything goes through `StableDiffusionPipeline` as a user would load it: 512x512, 20 steps, guidance 7.
"""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image, ImageDraw
from rich.progress import track

from .data import Placement, Subject, composite, soft_background
from .matching import Matcher, colour_name
from .selection import OFTEN

STEPS, GUIDANCE = 20, 7.0
BACKGROUNDS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SHEET = (
    "a pretty dog", "puppy on a blue background", "kitty", "a lion on a green background", "a panda", "a red apple",
    "a green apple on a yellow background", "pizza", "a hamburger on a red background", "strawberry", "a doughnut",
    "a birthday cake on a pink background", "a rocket", "a rocket on a black background", "a fire engine", "a bicycle",
    "a sailboat on a cyan background", "an airplane", "a butterfly", "an octopus on a purple background", "a whale",
    "an owl", "a penguin on a white background", "a rooster", "a sunflower", "a cactus on an orange background",
    "a mushroom", "a palm tree", "a rainbow", "a snowman on a blue background", "fire", "the sun with a face",
    "a crown on a black background", "a light bulb", "a guitar", "a camera", "an alarm clock on a green background",
    "a gem stone", "a teddy bear", "a soccer ball", "a robot", "a ghost on a purple background", "an alien",
    "a smiling face with sunglasses", "a castle", "an umbrella on a gray background", "a wrapped gift", "a key",
)  # fmt: skip
_SYNONYMS = (
    "puppy", "kitty", "pretty dog", "bunny", "doggy", "piggy", "ladybug", "burger", "bike", "ship", "present", "phone",
)  # fmt: skip


@dataclass
class Report:
    """The figures of one evaluation; shares are 0 to 1."""

    subjects: int
    pictures: int
    right: float
    right_in_five: float
    right_by_group: dict[str, float]
    synonyms: float
    synonyms_tried: int
    backgrounds: float
    backgrounds_by_colour: dict[str, float]
    sizes: dict[str, float]
    layout_kept: float
    seeds_difference: float
    same_seed_same_bytes: bool
    seconds_a_picture: float
    missed: list[str]


def chosen(subjects: Sequence[Subject], count: int) -> list[int]:
    """Rows of the subjects that are measured: those that training favours, or a fixed sample of them."""
    rows = [row for row, subject in enumerate(subjects) if subject.name in OFTEN]
    return rows if count >= len(rows) else sorted(random.Random(1).sample(rows, count))


def article(name: str) -> str:
    """A prompt of a subject's name."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


class Painter:
    """Draws prompts in batches with a loaded pipeline."""

    def __init__(self, folder: Path, batch: int = 8) -> None:
        self.pipe = cast(Any, StableDiffusionPipeline).from_pretrained(
            folder, torch_dtype=torch.float32, local_files_only=True
        )
        self.pipe.set_progress_bar_config(disable=True)
        self.batch = batch

    def paint(
        self, prompts: Sequence[str], seeds: Sequence[int], side: int = 512, title: str = "drawing"
    ) -> list[npt.NDArray[np.uint8]]:
        """RGB pictures (side, side, 3) of the prompts."""
        made: list[npt.NDArray[np.uint8]] = []
        for start in track(range(0, len(prompts), self.batch), description=title):
            part, part_seeds = prompts[start : start + self.batch], seeds[start : start + self.batch]
            images = self.pipe(
                list(part),
                height=side,
                width=side,
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                generator=[torch.Generator().manual_seed(seed) for seed in part_seeds],
            ).images
            made += [np.asarray(image) for image in images]
        return made


def evaluate(
    folder: Path,
    subjects: Sequence[Subject],
    pictures: torch.Tensor,
    count: int = 360,
    seeds: int = 3,
    synonyms: int = 120,
) -> Report:
    """Measures the model in `folder` against the training pictures."""
    painter, matcher, rng = Painter(folder), Matcher(pictures), random.Random(0)
    rows = chosen(subjects, count)

    begun = time.monotonic()
    prompts = [article(subjects[row].name) for row in rows for _ in range(seeds)]
    numbers = [seed for _ in rows for seed in range(seeds)]
    drawn = painter.paint(prompts, numbers, title="subjects")
    seconds = (time.monotonic() - begun) / len(drawn)
    hits: dict[str, list[bool]] = {}
    close, missed, differences = [], [], []
    for place, row in enumerate(rows):
        found = [matcher.match(image).rows for image in drawn[place * seeds : (place + 1) * seeds]]
        right = [near[0] == row for near in found]
        close += [row in near for near in found]
        hits.setdefault(subjects[row].group, []).extend(right)
        if sum(right) * 2 < seeds:
            missed.append(f"{subjects[row].name} → {subjects[found[0][0]].name}")
        if seeds > 1:
            first, other = (drawn[place * seeds + offset].astype(np.float32) for offset in (0, 1))
            differences.append(float(np.abs(first - other).mean() / 255))
    every = [value for values in hits.values() for value in values]

    meant: dict[str, set[int]] = {}
    for row, subject in enumerate(subjects):
        for word in (subject.name, *subject.tags):
            meant.setdefault(word, set()).add(row)
    words = [word for word in _SYNONYMS if word in meant]
    pool = sorted(
        {tag for row in rows for tag in subjects[row].tags if len(meant[tag]) <= 3 and len(tag) > 2}
    )
    words += rng.sample(pool, max(0, min(synonyms - len(words), len(pool))))
    drawn = painter.paint([article(word) for word in words], list(range(len(words))), title="synonyms")
    agreed = [matcher.match(image).rows[0] in meant[word] for word, image in zip(words, drawn, strict=True)]

    things = rng.sample(rows, 8)
    asked = [(colour, row) for colour in BACKGROUNDS for row in things]
    drawn = painter.paint(
        [f"{article(subjects[row].name)} on a {colour} background" for colour, row in asked],
        list(range(len(asked))),
        title="backgrounds",
    )
    painted: dict[str, list[bool]] = {}
    for (colour, _), image in zip(asked, drawn, strict=True):
        painted.setdefault(colour, []).append(colour_name(matcher.match(image).background) == colour)

    sizes = {}
    sample = rng.sample(rows, min(16, len(rows)))
    for side in (256, 768):
        drawn = painter.paint([article(subjects[row].name) for row in sample], sample, side, f"{side}x{side}")
        sizes[f"{side}x{side}"] = _share(
            [matcher.match(image).rows[0] == row for row, image in zip(sample, drawn, strict=True)]
        )

    one, two = (painter.paint([prompts[0]], [7], title="same seed")[0].tobytes() for _ in range(2))
    return Report(
        subjects=len(rows),
        pictures=len(every),
        right=_share(every),
        right_in_five=_share(close),
        right_by_group={name: _share(values) for name, values in hits.items()},
        synonyms=_share(agreed),
        synonyms_tried=len(words),
        backgrounds=_share([value for values in painted.values() for value in values]),
        backgrounds_by_colour={name: _share(values) for name, values in painted.items()},
        sizes=sizes,
        layout_kept=_layout(painter, subjects, pictures, sample[:12]),
        seeds_difference=float(np.mean(differences)) if differences else 0.0,
        same_seed_same_bytes=one == two,
        seconds_a_picture=seconds,
        missed=missed,
    )


def _layout(
    painter: Painter, subjects: Sequence[Subject], pictures: torch.Tensor, rows: Sequence[int]
) -> float:
    """Mean correlation of 16x16 thumbnails between a picture and what img2img at strength 0.5 makes of it."""
    again = StableDiffusionImg2ImgPipeline(**painter.pipe.components, requires_safety_checker=False)
    again.set_progress_bar_config(disable=True)
    rng, alike = random.Random(4), []
    for row in rows:
        start = composite(pictures[row : row + 1], [Placement.draw(rng)], [soft_background(rng)], 512)
        made = again(
            article(subjects[row].name),
            image=start.add(1).div(2),
            strength=0.5,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(row),
            output_type="pt",
        ).images
        small = [F.adaptive_avg_pool2d(one, 16).flatten() for one in (start.add(1).div(2), made)]
        alike.append(float(torch.corrcoef(torch.stack(small))[0, 1]))
    return round(float(np.mean(alike)), 4)


def _share(values: Sequence[bool]) -> float:
    return round(sum(values) / max(1, len(values)), 4)


def sheet(
    folder: Path, target: Path, prompts: Sequence[str] = SHEET, tile: int = 176, columns: int = 8
) -> None:
    """Draws the prompts and writes them as one WebP picture with their captions."""
    drawn = Painter(folder).paint(prompts, list(range(len(prompts))), title="sheet")
    lines = -(-len(prompts) // columns)
    page = Image.new("RGB", (columns * tile, lines * (tile + 16)), "white")
    pen = ImageDraw.Draw(page)
    for place, (prompt, image) in enumerate(zip(prompts, drawn, strict=True)):
        left, top = place % columns * tile, place // columns * (tile + 16)
        small = Image.fromarray(image).resize((tile, tile), Image.Resampling.LANCZOS)
        page.paste(small, (left, top))
        pen.text((left + 3, top + tile + 2), prompt if len(prompt) < 32 else prompt[:30] + "…", fill="black")
    page.save(target, quality=85)


def write(report: Report, target: Path) -> None:
    """Writes the report as JSON."""
    target.write_text(json.dumps(report.__dict__, indent=2, ensure_ascii=False) + "\n", "utf-8")
