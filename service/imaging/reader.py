"""The pictures of one request, read together: all of them are counted before the first is decoded."""

from collections.abc import Sequence
from typing import Final

from PIL import Image

from service.core.budget import Claim
from service.core.errors import BadImage
from service.imaging import decode

WORKING: Final = 16
"""Bytes a pixel that decoding takes, and bringing to size: the file's mode, RGB, a turned copy, a resized one."""

KEPT: Final = 6
"""Bytes a pixel that stay until the request is answered: the picture itself, and what it is made into."""


class PictureReader:
    """Reads pictures of at most ``most_each`` pixels, ``most_together`` in all, within the memory of ``claim``."""

    def __init__(self, most_each: int, most_together: int, claim: Claim) -> None:
        self._most_each = most_each
        self._most_together = most_together
        self._claim = claim
        self._pixels = 0
        self._bytes = 0

    def read(self, texts: Sequence[str], names: Sequence[str]) -> list[Image.Image]:
        """The pictures of ``texts`` (base64), told as ``names`` in errors.

        Raises :class:`BadImage`, and what :meth:`Claim.take` raises.
        """
        opened: list[Image.Image] = []
        for text, name in zip(texts, names, strict=True):
            self._hold(3 * len(text))  # the file, and at worst two copies of its text
            image = decode.open_header(decode.decode_base64(text, name), self._most_each, name)
            self._claim.give_back("pixels", 2 * len(text))
            self._bytes -= 2 * len(text)
            self._pixels += image.width * image.height
            if self._pixels > self._most_together:
                raise BadImage(
                    f"The pictures of this request have more than {self._most_together:,} pixels together "
                    f"(SD_MAX_REQUEST_PIXELS; counted up to {name}): send smaller or fewer ones."
                )
            opened.append(image)
        self._hold(sum(image.width * image.height for image in opened) * WORKING)
        return [decode.load(image, self._most_each, name) for image, name in zip(opened, names, strict=True)]

    def done(self) -> None:
        """Reading is over: what it took beside the pictures themselves is free again."""
        self._claim.give_back("pixels", self._bytes - self._pixels * KEPT)

    def _hold(self, amount: int) -> None:
        self._claim.take("pixels", amount)
        self._bytes += amount
