"""Files whose structure, not their size in pixels, is the attack; and honest ones that resemble them."""

import contextlib
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from service.core.errors import BadImage
from service.imaging.decode import open_image, to_rgb
from service.imaging.metadata import read_metadata
from service.imaging.structure import check_structure, is_sound_tiff

LIMIT = 1_000_000
ORIENTATION, EXIF, GPS = 0x0112, 34665, 34853
SHORT, LONG, RATIONAL, UNDEFINED = 3, 4, 5, 7

Entry = tuple[int, int, int, int]


def saved(format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 90)).save(buffer, format, **options)
    return buffer.getvalue()


def tiff(*directories: list[Entry], order: str = "<", tail: int = 0) -> bytes:
    """A chain of directories of (tag, type, count, value) entries, without any pixels."""
    data = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    for number, entries in enumerate(directories):
        data += struct.pack(order + "H", len(entries))
        data += b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
        last = number + 1 == len(directories)
        data += struct.pack(order + "I", 0 if last else len(data) + 4)
    return data + bytes(tail)


def png_with_exif(block: bytes) -> bytes:
    data = saved("PNG")
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    return data[:33] + chunk + data[33:]


# --- JPEG ------------------------------------------------------------------------------------------------


def test_a_jpeg_of_a_thousand_scans() -> None:
    data = saved("JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    few = data[:-2] + last_scan * 20 + data[-2:]
    check_structure(few)
    with pytest.raises(BadImage, match="more than 50 scans"):
        open_image(data[:-2] + last_scan * 1000 + data[-2:], LIMIT)


def test_scans_are_counted_outside_of_metadata() -> None:
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 400) + b"\xff\xda" * 200
    data = saved("JPEG")
    check_structure(data[:2] + comment + data[2:])
    check_structure(data + b"\xff\xda" * 1000)  # what follows the end of the image is not read


def test_exif_in_many_blocks() -> None:
    block = b"\xff\xe1" + struct.pack(">H", 2 + 6 + 1000) + b"Exif\0\0" + bytes(1000)
    data = saved("JPEG")
    with pytest.raises(BadImage, match="more than one block"):
        open_image(data[:2] + block * 2 + data[2:], LIMIT)


# --- GIF -------------------------------------------------------------------------------------------------


def test_an_endless_comment() -> None:
    data = saved("GIF")
    start = 13 + 3 * (2 << (data[10] & 7))
    assert data[10] & 0x80

    def with_comment(blocks: int) -> bytes:
        return data[:start] + b"!\xfe" + (b"\xff" + b"a" * 255) * blocks + b"\0" + data[start:]

    assert read_metadata(open_image(with_comment(200), LIMIT)).infotext == "a" * 51_000
    with pytest.raises(BadImage, match="comment of more than 64 KiB"):
        open_image(with_comment(40_000), LIMIT)
    with pytest.raises(BadImage, match="senseless number of parts"):
        open_image(data[:start] + b"!\xfe\x01a\0" * 70_000 + data[start:], LIMIT)


# --- TIFF and Exif ---------------------------------------------------------------------------------------

HUGE = 1_000_000
UNSOUND = {
    "entries that share their bytes": tiff(
        [(tag, UNDEFINED, HUGE, 8) for tag in range(40_000, 41_000)], tail=HUGE
    ),
    "a million numbers": tiff([(40_000, SHORT, HUGE, 8)], tail=2 * HUGE),
    "a million fractions": tiff([(ORIENTATION, RATIONAL, HUGE, 8)], tail=8 * HUGE),
    "too many entries": tiff([(tag, SHORT, 1, 0) for tag in range(5000)]),
    "too many directories": tiff(*[[(1, SHORT, 1, 0)]] * 5000),
    "a directory elsewhere": tiff([(EXIF, SHORT, 1, 8)]),
    "bytes shared below": tiff(
        [(EXIF, LONG, 1, 26)], [(tag, UNDEFINED, 900, 8) for tag in range(40)], tail=900
    ),
}


@pytest.mark.parametrize("kind", UNSOUND)
def test_unsound_directories(kind: str) -> None:
    data = UNSOUND[kind]
    assert not is_sound_tiff(data)
    with pytest.raises(BadImage, match="entries"):
        open_image(data, LIMIT)


@pytest.mark.parametrize("kind", UNSOUND)
def test_unsound_exif_is_dropped_and_the_picture_kept(kind: str) -> None:
    for data in (png_with_exif(UNSOUND[kind]), saved("WEBP", exif=UNSOUND[kind])):
        image = open_image(data, LIMIT)
        assert to_rgb(image).shape == (48, 64, 3)
        assert "exif" not in image.info
        assert read_metadata(image).infotext == ""


def test_directories_in_a_circle_end() -> None:
    circle = bytearray(tiff([(1, SHORT, 1, 0)]))
    circle[-4:] = struct.pack("<I", 8)
    assert is_sound_tiff(bytes(circle))


@pytest.mark.parametrize("order", ["<", ">"])
def test_sound_directories(order: str) -> None:
    small: list[Entry] = [(256, SHORT, 1, 3), (282, RATIONAL, 1, 8), (40_000, UNDEFINED, 500, 8)]
    assert is_sound_tiff(tiff(small, [(EXIF, LONG, 1, 8)], order=order, tail=600))
    assert is_sound_tiff(tiff([], order=order))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "x".encode("utf-16-be") * 20_000
    exif.get_ifd(GPS)[1] = "N"
    assert is_sound_tiff(exif.tobytes().removeprefix(b"Exif\0\0"))


def test_big_tiff_is_refused_by_name() -> None:
    with pytest.raises(BadImage, match="BigTIFF"):
        open_image(b"II+\0" + bytes(100), LIMIT)


def test_an_honest_tiff_of_many_strips() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (2000, 300, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    info = ImageFileDirectory_v2()
    info[278] = 1  # rows per strip
    Image.fromarray(noise).save(buffer, "TIFF", tiffinfo=info, compression="tiff_deflate")
    assert np.array_equal(to_rgb(open_image(buffer.getvalue(), LIMIT)), noise)


@given(
    data=st.binary(max_size=200), start=st.sampled_from([b"", b"II*\0", b"MM\0*", b"\xff\xd8\xff", b"GIF89a"])
)
def test_no_bytes_make_a_check_fail(data: bytes, start: bytes) -> None:
    is_sound_tiff(start + data)
    with contextlib.suppress(BadImage):
        check_structure(start + data)


MEMORY = """
import struct, sys
sys.path.insert(0, sys.argv[1])
import test_structure as t
from service.core.errors import BadImage
from service.imaging.decode import open_image
shared = t.tiff([(tag, t.UNDEFINED, 10_000_000, 8) for tag in range(30_000, 34_000)], tail=10_000_000)
numbers = t.tiff([(t.ORIENTATION, t.RATIONAL, 1_250_000, 8)], tail=10_000_000)
strips = t.tiff(
    [(256, 4, 1, 1), (257, 4, 1, 900_000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
     (273, 4, 900_000, 8), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, 900_000, 8)], tail=3_600_000)
peak = lambda: int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
before = peak()
for data in (shared, numbers, strips, t.png_with_exif(shared), t.saved("WEBP", exif=numbers)):
    try:
        open_image(data, t.LIMIT)
    except BadImage:
        pass
print(peak() - before)
"""


def test_unsound_files_take_little_memory() -> None:
    folder = __file__.rpartition("/")[0]
    run = subprocess.run([sys.executable, "-c", MEMORY, folder], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 150_000  # KiB


# --- millions of parts -----------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


PNG, GIF, JPEG = saved("PNG"), saved("GIF"), saved("JPEG")
GIF_START = 13 + 3 * (2 << (GIF[10] & 7))
PIXELS = PNG.index(b"IDAT") - 4
PROFILE = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1000)))


@pytest.mark.parametrize(
    "data",
    [
        PNG[:33] + chunk(b"abCd") * 70_000 + PNG[33:],
        PNG[:PIXELS] + chunk(b"IDAT") * 70_000 + PNG[PIXELS:],
        PNG[:33] + PROFILE * 20 + PNG[33:],
        GIF[:GIF_START] + b"\x01" * 70_000 + GIF[GIF_START:],
        GIF[:GIF_START] + b"!\x01\x01a\0" * 70_000 + GIF[GIF_START:],
        JPEG[:2] + b"\xff\xfe\0\x02" * 70_000 + JPEG[2:],
        JPEG[:2] + b"\xff" * 70_000 + JPEG[2:],
    ],
    ids=[
        "chunks",
        "data chunks",
        "profiles",
        "gif garbage",
        "gif extensions",
        "jpeg comments",
        "jpeg fill bytes",
    ],
)
def test_files_of_too_many_parts(data: bytes) -> None:
    with pytest.raises(BadImage, match="senseless number of parts"):
        open_image(data, LIMIT)


def test_files_of_a_few_more_parts_than_usual() -> None:
    for data in (
        PNG[:33] + PROFILE + chunk(b"abCd") * 1000 + PNG[33:],
        GIF[:GIF_START] + b"!\x01\x01a\0" * 1000 + GIF[GIF_START:],
        JPEG[:2] + b"\xff\xfe\0\x02" * 1000 + JPEG[2:],
    ):
        assert to_rgb(open_image(data, LIMIT)).shape == (48, 64, 3)


def test_run_length_bmp_is_refused_by_name() -> None:
    data = bytearray(saved("BMP"))
    check_structure(bytes(data))
    data[30] = 1
    with pytest.raises(BadImage, match="run-length"):
        open_image(bytes(data), LIMIT)
