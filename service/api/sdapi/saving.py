"""``save_images``: files on disk beside the answer, laid out and named as A1111 does.

``<SD_OUTPUT_DIR>/txt2img-images/2024-05-31/00000-1234.png`` with a running number and the seed, grids in
``txt2img-grids/…/grid-0000.png``. No part of a path comes from the client.
"""

import base64
import re
import time
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_NUMBER: Final = re.compile(r"(?:grid-)?(\d+)")
_ATTEMPTS: Final = 100


def save(folder: Path, kind: str, images: list[str], seeds: list[int], suffix: str) -> list[Path]:
    """Write ``images`` (base64) of ``kind`` (txt2img, img2img) below ``folder``; ``seeds`` are theirs, in order.

    A disk that cannot be written costs the files, not the answer: that is logged, and the paths so far returned.
    """
    place = folder / f"{kind}-images" / time.strftime("%Y-%m-%d")
    names = [f"{{number:05}}-{seed}.{suffix}" for seed in seeds]
    return _write(place, list(zip(names, images, strict=True)))


def save_grid(folder: Path, kind: str, image: str, suffix: str) -> list[Path]:
    """Write a grid (base64); see :func:`save`."""
    place = folder / f"{kind}-grids" / time.strftime("%Y-%m-%d")
    return _write(place, [(f"grid-{{number:04}}.{suffix}", image)])


def _write(place: Path, files: list[tuple[str, str]]) -> list[Path]:
    written: list[Path] = []
    try:
        place.mkdir(parents=True, exist_ok=True)
        number = _next_number(place)
        for pattern, image in files:
            path, number = _create(place, pattern, number, base64.b64decode(image))
            written.append(path)
            number += 1
    except OSError as error:
        log.error("an image could not be saved", folder=str(place), error=str(error))
    return written


def _next_number(place: Path) -> int:
    numbers = [int(found[1]) for path in place.iterdir() if (found := _NUMBER.match(path.name))]
    return max(numbers, default=-1) + 1


def _create(place: Path, pattern: str, number: int, data: bytes) -> tuple[Path, int]:
    """The file with the first free number; another process may write into the same folder."""
    for attempt in range(number, number + _ATTEMPTS):
        path = place / pattern.format(number=attempt)
        try:
            stream = path.open("xb")
        except FileExistsError:
            continue
        try:
            with stream:
                stream.write(data)
        except OSError:  # the disk is full: half a picture is none
            path.unlink(missing_ok=True)
            raise
        return path, attempt
    raise FileExistsError(f"no free number for {pattern} from {number} on")
