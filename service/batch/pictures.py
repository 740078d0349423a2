"""Pictures that rows name: paths inside one folder, read when the row's turn comes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pybase64

from service.batch.rows import PICTURES
from service.core.errors import BadImage

_AS_THEY_ARE: Final = ("data:", "http://", "https://")


class PictureFolder:
    """The folder that picture paths are relative to, and must not leave."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def find(self, text: str, field: str) -> Path:
        """The file that ``text`` names. Raises :class:`BadImage` for what is outside, or no file."""
        try:
            path = (self._root / text).resolve()
            inside, there = path.is_relative_to(self._root), path.is_file()
        except (OSError, ValueError):
            inside, there = True, False
        if not inside:
            raise BadImage(
                f"{field}: {text[:200]!r} leaves the folder {self._root}: put the picture into it, or choose another "
                "with --pictures."
            )
        if not there:
            raise BadImage(
                f"{field}: there is no picture {text[:200]!r} in {self._root}. (Base64 is written as a data: URL.)"
            )
        return path

    def check(self, body: Mapping[str, Any]) -> None:
        """Raise :class:`BadImage` unless all pictures of ``body`` are there."""
        for field, text in _texts(body):
            if not text.startswith(_AS_THEY_ARE):
                self.find(text, field)

    def inlined(self, body: Mapping[str, Any], most: float) -> dict[str, Any]:
        """``body`` with pictures in place of their paths; together at most ``most`` bytes. Raises BadImage."""
        read = dict(body)
        for field in PICTURES:
            value = body.get(field)
            if isinstance(value, str):
                read[field] = self._read(value, field, most)
            elif isinstance(value, list):
                read[field] = [self._read(one, field, most) if isinstance(one, str) else one for one in value]
        return read

    def _read(self, text: str, field: str, most: float) -> str:
        if text.startswith(_AS_THEY_ARE):
            return text
        path = self.find(text, field)
        try:
            if path.stat().st_size > most:
                raise BadImage(
                    f"{field}: {text!r} has more than {most / 1e6:g} MB (SD_MAX_BODY_MB): make it smaller."
                )
            return pybase64.b64encode_as_string(path.read_bytes())
        except OSError as error:
            raise BadImage(f"{field}: {text!r} can't be read: {error.strerror}.") from None


def _texts(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    for field in PICTURES:
        value = body.get(field)
        values = value if isinstance(value, list) else [value]
        found += [(field, one) for one in values if isinstance(one, str)]
    return found
