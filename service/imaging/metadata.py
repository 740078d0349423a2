"""What an image file says about itself: its infotext and its other texts."""

from dataclasses import dataclass

from PIL import Image

from service.imaging.formats import EXIF_IFD, PARAMETERS, USER_COMMENT
from service.imaging.png import is_keyword


@dataclass(frozen=True, slots=True)
class Metadata:
    """``infotext`` ("" if there is none) and a file's other texts by name, as A1111's png-info tells them."""

    infotext: str
    items: dict[str, str]


def read_metadata(image: Image.Image) -> Metadata:
    """Read the texts that :func:`service.imaging.decode.open_image` kept.

    They are PNG's text chunks, Exif's UserComment (JPEG, WebP) and plain comments (GIF, JPEG). Damaged ones
    count as none.
    """
    texts = {str(key): _text(str(key), value) for key, value in image.info.items()}
    items = {key: value for key, value in texts.items() if value is not None and is_keyword(key)}
    infotext = items.pop(PARAMETERS, "")
    if comment := _user_comment(image):
        infotext = comment
    elif not infotext:
        infotext = items.pop("comment", "")
    return Metadata(infotext, items)


def _text(key: str, value: object) -> str | None:
    if key == "comment" and isinstance(value, bytes):
        return value.decode("utf-8", "ignore")
    return str(value) if isinstance(value, str) else None  # Pillow's iTXt is a str with a language to it


def _user_comment(image: Image.Image) -> str:
    try:
        comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT)
    except Exception:  # Pillow raises nearly everything on damaged Exif
        return ""
    if isinstance(comment, str):
        return comment
    return decode_user_comment(comment) if isinstance(comment, bytes) else ""


def decode_user_comment(comment: bytes) -> str:
    """The text of Exif's UserComment: eight bytes that name the encoding, then the text in it."""
    code, body = comment[:8], comment[8:]
    if code == b"UNICODE\0":
        # The standard leaves the byte order open and writers differ. The ASCII in the text gives it away.
        big = body[0::2].count(0) >= body[1::2].count(0)
        return body.decode("utf-16-be" if big else "utf-16-le", "replace").rstrip("\0")
    if code in (b"ASCII\0\0\0", b"\0" * 8):
        return body.decode("utf-8", "replace").rstrip("\0")
    return comment.decode("utf-8", "ignore").rstrip("\0")
