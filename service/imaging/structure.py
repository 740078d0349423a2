"""What the structure of a file would make a decoder do, found out before one sees it.

Few pixels do not make a file harmless. A JPEG of 100 KiB may order a thousand passes over all of its blocks,
the entries of a TIFF may each refer to the same megabytes, and a GIF's comment is put together in quadratic
time. These checks are linear in the size of the file and let pass whatever cameras and image programs write.
"""

import re
import struct
from typing import Final

from service.core.errors import BadImage

_MOST_PARTS: Final = 65_536  # chunks, segments, blocks; a PNG of 500 MB in the usual 8 KiB chunks
_LONGEST_GAP: Final = 65_536  # bytes that belong to no part
_MOST_PROFILES: Final = 4
_JPEG_MARKER: Final = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # not: stuffed zero, restart, fill byte
_JPEG_BARE: Final = b"\x01\xd8"
_MOST_SCANS: Final = 50  # progressive encoders write some ten
_GIF_BLOCK: Final = re.compile(rb"[!,;]")
_GIF_COMMENT: Final = 0xFE
_LONGEST_COMMENT: Final = 65_536
_TIFF_POINTERS: Final = (34665, 34853, 40965)  # Exif, GPS, interoperability
_TIFF_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_TIFF_BYTES: Final = (1, 2, 7)  # kept as bytes; numbers become one Python object each
_MOST_NUMBERS: Final = 262_144
_MOST_ENTRIES: Final = 4_096


def check_structure(data: bytes, name: str = "image") -> None:
    """Raise :class:`BadImage`, in a sentence about ``name``, if decoding ``data`` could cost more than its
    pixels.

    Formats that hold no such danger, and what is no image at all, pass.
    """
    if data.startswith(b"\x89PNG"):
        _check_png(data, name)
    elif data.startswith(b"\xff\xd8"):
        _check_jpeg(data, name)
    elif data.startswith(b"GIF8"):
        _check_gif(data, name)
    elif data.startswith(b"BM"):
        if int.from_bytes(data[14:18], "little") >= 40 and data[30:34] in (b"\1\0\0\0", b"\2\0\0\0"):
            raise BadImage(f"{name} is a run-length encoded BMP, which is not read here: save it as PNG.")
    elif data[:2] in (b"II", b"MM"):
        if 43 in data[2:4]:
            raise BadImage(f"{name} is a BigTIFF, which is not read here: save it as PNG.")
        if not is_sound_tiff(data):
            raise BadImage(f"{name} is a TIFF with too many or overlapping entries: save it as PNG.")


def is_sound_tiff(data: bytes) -> bool:
    """Whether reading all entries of ``data``, a TIFF file or an Exif block without its prefix, is linear
    work.

    False if there are very many of them, if one holds very many numbers, or if together they refer to more
    bytes than there are. Damage of other kinds is left for the reader to find.
    """
    order = "<" if data.startswith(b"II") else ">"
    waiting, seen = _numbers(order + "I", data, 4), set[int]()
    entries = volume = 0
    while waiting:
        offset = waiting.pop()
        if offset in seen:
            continue
        seen.add(offset)
        count = next(iter(_numbers(order + "H", data, offset)), 0)
        entries += count
        if entries > _MOST_ENTRIES:
            return False
        start = offset + 2
        table = data[start : start + 12 * count]
        for tag, kind, number, value in struct.iter_unpack(order + "HHII", table[: len(table) // 12 * 12]):
            volume += _TIFF_SIZES.get(kind, 0) * number
            if number > _MOST_NUMBERS and kind not in _TIFF_BYTES:
                return False
            if tag in _TIFF_POINTERS:
                if kind not in (4, 13) or number != 1:
                    return False
                waiting.append(value)
        waiting += [following for following in _numbers(order + "I", data, start + 12 * count) if following]
    return volume <= len(data)


def _numbers(format: str, data: bytes, offset: int) -> list[int]:
    """The number at ``offset``, or none where ``data`` has ended."""
    end = offset + struct.calcsize(format)
    return list(struct.unpack(format, data[offset:end])) if end <= len(data) else []


def _check_png(data: bytes, name: str) -> None:
    position, profiles = 8, 0
    for _ in range(_MOST_PARTS):
        header = data[position : position + 8]
        if len(header) < 8 or header[4:] == b"IEND":
            return
        profiles += header[4:] == b"iCCP"
        if profiles > _MOST_PROFILES:
            break
        position += 12 + int.from_bytes(header[:4], "big")
    raise _too_many_parts(name)


def _check_jpeg(data: bytes, name: str) -> None:
    position = scans = exifs = parts = 0
    while marker := _JPEG_MARKER.search(data, position):
        parts += 1
        if parts > _MOST_PARTS or (not scans and marker.start() - position > _LONGEST_GAP):
            raise _too_many_parts(name)
        kind, position = marker[1], marker.end()
        if kind == b"\xd9":
            return
        if kind in _JPEG_BARE:
            continue
        exifs += kind == b"\xe1" and data[position + 2 : position + 8] == b"Exif\0\0"
        scans += kind == b"\xda"
        if exifs > 1:
            raise BadImage(f"{name} has more than one block of Exif data: save it without metadata.")
        if scans > _MOST_SCANS:
            raise BadImage(
                f"{name} is a JPEG of more than {_MOST_SCANS} scans: save it as baseline JPEG or PNG."
            )
        position += next(iter(_numbers(">H", data, position)), 0)


def _check_gif(data: bytes, name: str) -> None:
    """Add up the comments before the first frame, the only one that is read."""
    flags = data[10] if len(data) > 10 else 0
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    comments = parts = 0
    while block := _GIF_BLOCK.search(data, position):
        if block.start() - position > _LONGEST_GAP:
            raise _too_many_parts(name)
        if block[0] != b"!":
            return
        position, parts = block.end() + 1, parts + 1
        is_comment = data[block.end() : position] == bytes((_GIF_COMMENT,))
        while position < len(data) and (length := data[position]):
            position += 1 + length
            parts += 1
            comments += length if is_comment else 0
            if parts > _MOST_PARTS:
                raise _too_many_parts(name)
            if comments > _LONGEST_COMMENT:
                raise BadImage(f"{name} is a GIF with a comment of more than 64 KiB: save it without.")
        position += 1


def _too_many_parts(name: str) -> BadImage:
    return BadImage(f"{name} is broken into a senseless number of parts: save it anew as PNG or JPEG.")
