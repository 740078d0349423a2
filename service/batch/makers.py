"""What makes the pictures of a row, and what it becomes: the same for this process' engine and for a service."""

import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import orjson
import pybase64

from service.batch.rows import Kind

_MAGIC: Final = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp"}


@dataclass(frozen=True, slots=True)
class Picture:
    """One file of an answer."""

    data: bytes
    suffix: str
    seed: int
    grid: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """What a row became. ``seconds`` is the time on the device by stage, with ``total`` and ``queue``."""

    pictures: tuple[Picture, ...]
    model: str
    seconds: Mapping[str, float] = field(default_factory=dict)


class RowFailed(Exception):
    """A row that cannot be made; others can. ``code`` is one of the error tree's."""

    def __init__(self, sentence: str, code: str) -> None:
        super().__init__(sentence)
        self.code = code


class Maker(Protocol):
    """Makes rows, several at a time if it is asked to."""

    async def make(self, kind: Kind, body: Mapping[str, Any]) -> Made:
        """The pictures of ``body``. Raises :class:`RowFailed` or :class:`BatchStopped`."""

    async def model(self) -> str:
        """The checkpoint that a row without one gets: name and short hash, as infotexts have them."""

    async def memory(self) -> Mapping[str, float]:
        """GiB of the device (used, total); empty where there is none."""


def made(answer: Mapping[str, Any], seconds: Mapping[str, float]) -> Made:
    """What A1111's ``answer`` holds. Raises :class:`RowFailed` where it is none, or has no pictures."""
    try:
        info = orjson.loads(answer["info"])
        grids = int(info["index_of_first_image"])
        seeds = list(info["all_seeds"])
        pictures = tuple(
            Picture(
                data := pybase64.b64decode(text, validate=True),
                _suffix(data),
                seeds[max(0, number - grids)] if seeds else int(info["seed"]),
                number < grids,
            )
            for number, text in enumerate(answer["images"])
        )
    except (orjson.JSONDecodeError, binascii.Error, KeyError, IndexError, TypeError, ValueError) as error:
        raise RowFailed(f"The answer is not A1111's: {type(error).__name__}: {error}.", "backend") from None
    if not pictures:
        raise RowFailed("The answer has no pictures.", "backend")
    return Made(pictures, model_name(info.get("sd_model_name"), info.get("sd_model_hash")), seconds)


def _suffix(data: bytes) -> str:
    return next((suffix for magic, suffix in _MAGIC.items() if data.startswith(magic)), "bin")


def model_name(name: str | None, short_hash: str | None) -> str:
    """A checkpoint as infotexts and manifests name it."""
    return " ".join(filter(None, (name, f"[{short_hash}]" if short_hash else "")))
