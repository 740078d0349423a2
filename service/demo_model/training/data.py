"""The pictures and their words: openly licensed emoji art, fetched with npm into a cache folder.

Pictures are `@lobehub/fluent-emoji-3d` (MIT, 256x256 RGBA WebP); names and keywords are `emojibase-data` (MIT).
Nothing of either is committed: only what a model learnt from them.
"""

import json
import random
import re
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

from .selection import SUBJECTS

PICTURES = ("@lobehub/fluent-emoji-3d", "1.1.0")
WORDS = ("emojibase-data", "17.0.0")

NATIVE = 256
"""Side of a training picture in pixels."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (245, 140, 35),
    "yellow": (250, 215, 50),
    "green": (50, 160, 75),
    "blue": (45, 95, 210),
    "purple": (130, 60, 180),
    "pink": (250, 150, 195),
    "white": (255, 255, 255),
    "black": (12, 12, 12),
    "gray": (128, 128, 128),
    "brown": (125, 80, 45),
    "cyan": (70, 205, 220),
}
"""Background colours that captions name, as sRGB."""

_GROUPS = {0: "face", 3: "nature", 4: "food", 5: "travel", 6: "activity", 7: "object"}


@dataclass(frozen=True)
class Subject:
    """One thing the model can draw: its picture's file and the words for it."""

    hexcode: str
    emoji: str
    name: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    file: str


def fetch(cache: Path) -> None:
    """Downloads both packages with `npm pack` into `cache` and unpacks them; does nothing where that is done."""
    cache.mkdir(parents=True, exist_ok=True)
    for name, version in (PICTURES, WORDS):
        target = _folder(cache, name)
        if (target / "package.json").exists():
            continue
        spec = f"{name}@{version}"
        npm = shutil.which("npm")
        if npm is None:
            raise RuntimeError("npm was not found: install Node.js, which fetches the training pictures.")
        out = subprocess.run(  # noqa: S603 (names and versions are the constants above)
            [npm, "pack", "--silent", spec], cwd=cache, check=True, capture_output=True, text=True
        )
        with tarfile.open(cache / out.stdout.strip().splitlines()[-1]) as archive:
            archive.extractall(target.parent, filter="data")


def _folder(cache: Path, name: str) -> Path:
    return cache / name.split("/")[-1] / "package"


def _clean(text: str) -> str:
    text = re.sub(
        r"\s*[|:(].*$", "", text.replace("’", "'").replace("“", "").replace("”", "").replace("⊛ ", "")
    )
    return text.strip().lower()


def load_subjects(cache: Path) -> list[Subject]:
    """The subjects chosen for training, in emoji order (deterministic)."""
    words = _folder(cache, WORDS[0])
    entries: list[dict[str, Any]] = json.loads((words / "en/data.json").read_text())
    meta: dict[str, dict[str, str]] = json.loads((words / "meta/groups.json").read_text())
    files = {path.stem: path.name for path in (_folder(cache, PICTURES[0]) / "assets").iterdir()}
    found: dict[str, Subject] = {}
    for entry in sorted(entries, key=lambda item: int(item.get("order", 10**6))):
        name, code = _clean(str(entry["label"])), str(entry["hexcode"]).lower()
        group = _GROUPS.get(entry.get("group", -1), "people")
        subgroup = meta["subgroups"].get(str(entry.get("subgroup")), "")
        file = files.get(code) or files.get(code.replace("-fe0f", "")) or files.get(code + "-fe0f")
        if file is None or name in found or name not in SUBJECTS:
            continue
        tags = tuple(dict.fromkeys(tag for tag in map(_clean, entry.get("tags", ())) if tag and tag != name))
        found[name] = Subject(code, str(entry["emoji"]), name, tags, group, subgroup, file)
    return list(found.values())


def load_pictures(cache: Path, subjects: Sequence[Subject]) -> torch.Tensor:
    """Premultiplied RGBA pictures, uint8 of shape (subjects, 4, 256, 256); kept as one file in the cache."""
    stored = cache / f"pictures-{len(subjects)}.npy"
    if not stored.exists():
        pictures = np.zeros((len(subjects), 4, NATIVE, NATIVE), np.uint8)
        for row, subject in enumerate(subjects):
            with Image.open(_folder(cache, PICTURES[0]) / "assets" / subject.file) as opened:
                image = opened.convert("RGBA")
            if image.size != (NATIVE, NATIVE):
                image = image.resize((NATIVE, NATIVE), Image.Resampling.LANCZOS)
            pixels = np.asarray(image, np.float32).copy()
            pixels[..., :3] *= pixels[..., 3:] / 255
            pictures[row] = np.rint(pixels).astype(np.uint8).transpose(2, 0, 1)
        np.save(stored, pictures)
    return torch.from_numpy(np.load(stored))


@dataclass(frozen=True)
class Placement:
    """Where one picture lies on a canvas whose side is 1: size of its side, centre, mirrored or not."""

    size: float
    x: float
    y: float
    mirrored: bool

    @staticmethod
    def draw(rng: random.Random) -> "Placement":
        """A random placement as training uses it: most of the canvas, roughly in the middle."""
        size = rng.uniform(0.68, 0.9)
        slack = (1 - size) / 2 + 0.02
        return Placement(
            size, 0.5 + rng.uniform(-slack, slack), 0.5 + rng.uniform(-slack, slack), rng.random() < 0.5
        )


CENTRED = Placement(0.8, 0.5, 0.5, False)
"""The placement that the UNet learns: each further one would be another picture to learn by heart."""


def composite(
    pictures: torch.Tensor,
    placements: Sequence[Placement],
    backgrounds: Sequence[tuple[int, int, int]],
    canvas: int,
    windows: Sequence[tuple[int, int]] | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Draws pictures on flat colours.

    `pictures`: uint8 (batch, 4, 256, 256) premultiplied. `canvas`: side in pixels. With `windows` (left, top of
    each) only a square of `window` pixels of the canvas is rendered. Returns float (batch, 3, side, side) in [-1, 1].
    """
    side = window or canvas
    grids = []
    for row, place in enumerate(placements):
        left, top = windows[row] if windows else (0, 0)
        steps = torch.arange(side, dtype=torch.float32) + 0.5
        x = ((steps + left) / canvas - place.x) / place.size * 2
        y = ((steps + top) / canvas - place.y) / place.size * 2
        if place.mirrored:
            x = -x
        grids.append(torch.stack((x.expand(side, side), y[:, None].expand(side, side)), dim=-1))
    sampled = F.grid_sample(
        pictures.float(), torch.stack(grids), mode="bilinear", padding_mode="zeros", align_corners=False
    )
    colour = torch.tensor(list(backgrounds), dtype=torch.float32)[:, :, None, None]
    flat = sampled[:, :3] + colour * (1 - sampled[:, 3:] / 255)
    return (flat / 127.5 - 1).clamp(-1, 1)


def named_background(rng: random.Random, name: str) -> tuple[int, int, int]:
    """A shade of a named colour: a few units around it."""
    red, green, blue = COLOURS[name]
    return _jitter(rng, red, 8), _jitter(rng, green, 8), _jitter(rng, blue, 8)


def _jitter(rng: random.Random, value: int, by: int) -> int:
    return min(255, max(0, value + rng.randint(-by, by)))


def soft_background(rng: random.Random) -> tuple[int, int, int]:
    """A pastel of any hue, as used where a caption names no background."""
    import colorsys

    red, green, blue = colorsys.hls_to_rgb(rng.random(), rng.uniform(0.74, 0.93), rng.uniform(0.25, 0.8))
    return int(red * 255), int(green * 255), int(blue * 255)
