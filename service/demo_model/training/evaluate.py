"""How good the model is, in numbers, and a sheet of pictures to look at.

Everything goes through `StableDiffusionPipeline` as a user would load it: 512x512, 20 steps, guidance 7.
"""

import json
import multiprocessing
import random
import time
from collections.abc import Callable, Sequence
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

from .captions import Captioner
from .data import Placement, Subject, composite, soft_background
from .matching import Matcher, colour_name

STEPS, GUIDANCE = 20, 7.0
BACKGROUNDS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SHEET = (
    "a pretty dog", "puppy on a blue background", "kitty", "a lion on a green background", "a panda", "a unicorn",
    "a fox on a white background", "a frog on a pink background", "a red apple", "a red apple on a blue background",
    "a banana on a black background", "a strawberry", "a watermelon on a yellow background", "a lemon", "pizza",
    "a hamburger on a red background", "a doughnut", "a birthday cake on a cyan background", "ice cream", "a carrot",
    "a rocket", "a rocket on a black background", "a fire engine", "a bicycle", "a sailboat on a cyan background",
    "an airplane", "a car", "a butterfly", "an octopus on a purple background", "a whale", "an owl",
    "a penguin on a white background", "a ladybug on a green background", "a turtle", "a sunflower", "a rose",
    "a cactus on an orange background", "a mushroom", "a rainbow", "a snowman on a blue background", "fire",
    "the sun with a face", "a crown on a black background", "a light bulb", "a guitar", "a soccer ball",
    "a smiling face with sunglasses", "a ghost on a purple background",
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
    missed: list[str]


@dataclass(frozen=True)
class Job:
    """One picture to draw and judge: `right` are the rows it may be nearest to, `label` groups the results."""

    kind: str
    label: str
    prompt: str
    seed: int
    right: frozenset[int]
    side: int = 512


@dataclass(frozen=True)
class Result:
    """What came of a job: the nearest training pictures, the background's name, a 64x64 thumbnail."""

    job: Job
    near: tuple[int, ...]
    colour: str
    thumbnail: npt.NDArray[np.uint8]

    @property
    def hit(self) -> bool:
        """Whether the nearest training picture is one of those meant."""
        return self.near[0] in self.job.right


def chosen(subjects: Sequence[Subject], count: int) -> list[int]:
    """Rows of the subjects that are measured: all, or a fixed sample of them."""
    rows = list(range(len(subjects)))
    return rows if count >= len(rows) else sorted(random.Random(1).sample(rows, count))


def article(name: str) -> str:
    """A prompt of a subject's name."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


class Painter:
    """Draws prompts in batches with a loaded pipeline."""

    def __init__(self, folder: Path, batch: int = 8) -> None:
        self.pipe = cast(Any, StableDiffusionPipeline).from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
        self.pipe.set_progress_bar_config(disable=True)
        self.batch = batch

    def paint(
        self, prompts: Sequence[str], seeds: Sequence[int], side: int = 512
    ) -> list[npt.NDArray[np.uint8]]:
        """RGB pictures (side, side, 3) of the prompts."""
        made: list[npt.NDArray[np.uint8]] = []
        for start in range(0, len(prompts), self.batch):
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


_desk: tuple[Painter, Matcher] | None = None


def _sit_down(folder: Path, pictures: torch.Tensor) -> None:
    global _desk
    torch.set_num_threads(1)
    _desk = Painter(folder), Matcher(pictures)


def _judge(jobs: Sequence[Job]) -> list[Result]:
    assert _desk is not None
    painter, matcher = _desk
    results = []
    for job, image in zip(
        jobs,
        painter.paint([job.prompt for job in jobs], [job.seed for job in jobs], jobs[0].side),
        strict=True,
    ):
        match = matcher.match(image)
        small = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BOX))
        results.append(Result(job, match.rows, colour_name(match.background), small))
    return results


def plan(subjects: Sequence[Subject], rows: Sequence[int], seeds: int, synonyms: int) -> list[Job]:
    """Everything that is drawn and judged, what is needed most first; other seeds of the subjects come last."""
    rng = random.Random(0)
    meant: dict[str, set[int]] = {}
    for row, synonyms_of in enumerate(Captioner(subjects).synonyms):
        for word, _ in synonyms_of:
            meant.setdefault(word, set()).add(row)
    meant["pretty dog"] = meant["dog"]
    words = [word for word in _SYNONYMS if meant.get(word, set()) & set(rows)]
    names = {subject.name for subject in subjects}
    pool = {word for word, found in meant.items() if len(found) <= 3 and len(word) > 2}
    others = sorted(pool - names - set(words))
    words += rng.sample(others, max(0, min(synonyms - len(words), len(others))))
    things, sample = (rng.sample(list(rows), min(size, len(rows))) for size in (8, 12))

    def subject_jobs(seed: int) -> list[Job]:
        return [
            Job("subject", subjects[row].group, article(subjects[row].name), seed, frozenset((row,)))
            for row in rows
        ]

    jobs = subject_jobs(0)
    jobs += [
        Job(
            "background",
            colour,
            f"{article(subjects[row].name)} on a {colour} background",
            seed,
            frozenset((row,)),
        )
        for seed, (colour, row) in enumerate((colour, row) for colour in BACKGROUNDS for row in things)
    ]
    jobs += [
        Job("synonym", word, article(word), seed, frozenset(meant[word])) for seed, word in enumerate(words)
    ]
    jobs += [
        Job("size", f"{side}x{side}", article(subjects[row].name), row, frozenset((row,)), side)
        for side in (256, 768)
        for row in sample
    ]
    for seed in range(1, seeds):
        jobs += subject_jobs(seed)
    return jobs


def evaluate(
    folder: Path,
    subjects: Sequence[Subject],
    pictures: torch.Tensor,
    count: int = 1000,
    seeds: int = 3,
    synonyms: int = 80,
    minutes: float = 60,
    workers: int = 2,
) -> Report:
    """Measures the model in `folder` against the training pictures; stops taking up work after `minutes`."""
    rows = chosen(subjects, count)
    jobs = plan(subjects, rows, seeds, synonyms)
    batches: list[list[Job]] = []
    for job in jobs:
        if not batches or len(batches[-1]) == 8 or batches[-1][0].side != job.side:
            batches.append([])
        batches[-1].append(job)
    end = time.monotonic() + 60 * minutes
    results: list[Result] = []
    with multiprocessing.get_context("spawn").Pool(workers, _sit_down, (folder, pictures)) as staff:
        for part in track(staff.imap(_judge, batches), total=len(batches), description="drawing"):
            results += part
            if time.monotonic() > end:
                break
    by_kind: dict[str, list[Result]] = {}
    for result in results:
        by_kind.setdefault(result.job.kind, []).append(result)
    drawn = by_kind["subject"]

    pairs: dict[str, list[Result]] = {}
    for result in drawn:
        pairs.setdefault(result.job.prompt, []).append(result)
    differences = [
        float(np.abs(first.thumbnail.astype(np.float32) - second.thumbnail).mean() / 255)
        for first, second, *_ in (several for several in pairs.values() if len(several) > 1)
    ]
    missed = [
        f"{prompt} → {subjects[several[0].near[0]].name}"
        for prompt, several in pairs.items()
        if sum(result.hit for result in several) * 2 < len(several)
    ]
    painter = Painter(folder)
    one, two = (painter.paint(["a pretty dog"], [7])[0].tobytes() for _ in range(2))
    return Report(
        subjects=len(pairs),
        pictures=len(drawn),
        right=_share([result.hit for result in drawn]),
        right_in_five=_share([bool(result.job.right & set(result.near)) for result in drawn]),
        right_by_group=_by_label(drawn, lambda result: result.hit),
        synonyms=_share([result.hit for result in by_kind.get("synonym", [])]),
        synonyms_tried=len(by_kind.get("synonym", [])),
        backgrounds=_share([result.colour == result.job.label for result in by_kind.get("background", [])]),
        backgrounds_by_colour=_by_label(
            by_kind.get("background", []), lambda result: result.colour == result.job.label
        ),
        sizes=_by_label(by_kind.get("size", []), lambda result: result.hit),
        layout_kept=_layout(painter, subjects, pictures, rows[:: max(1, len(rows) // 8)][:8]),
        seeds_difference=round(float(np.mean(differences)), 4) if differences else 0.0,
        same_seed_same_bytes=one == two,
        missed=missed,
    )


def _by_label(results: Sequence[Result], right: Callable[[Result], bool]) -> dict[str, float]:
    labels = sorted({result.job.label for result in results})
    return {
        label: _share([right(result) for result in results if result.job.label == label]) for label in labels
    }


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
    drawn = Painter(folder).paint(prompts, list(range(len(prompts))))
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
