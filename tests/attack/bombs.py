"""Bodies that are small or allowed and cost much: each is answered quickly, and nobody else notices."""

import base64
import io
import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image

from tests.attack.wire import Address, Answer, Client, Dropped, request

SMALL: Final[dict[str, Any]] = {"prompt": "a cat", "steps": 1, "width": 64, "height": 64}
_LARGE: Final = 60_000_000
"""Bytes of the largest bodies: below the default of SD_MAX_BODY_MB."""


@dataclass(frozen=True, slots=True)
class Bomb:
    """A request, made when it is needed. ``times``: how many are sent at once."""

    name: str
    path: str
    body: Callable[[], bytes]
    times: int = 1


def _json(**fields: Any) -> Callable[[], bytes]:
    return lambda: json.dumps({**SMALL, **fields}).encode()


def _plot(*arguments: Any) -> Callable[[], bytes]:
    return _json(script_name="x/y/z plot", script_args=[*arguments])


def png(width: int, height: int, chunks: bytes = b"", data: bytes | None = None) -> bytes:
    """A PNG of one colour, 8 bits grey, whose pixels are as many as its header says; they compress a thousandfold."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    packer = zlib.compressobj(9)
    packed = data
    if packed is None:
        row = b"\0" * (width + 1)
        packed = b"".join(packer.compress(row * 64) for _ in range(height // 64))
        packed += packer.compress(row * (height % 64)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunks + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def _texts() -> bytes:
    """A PNG whose compressed texts are 64 MB."""
    packed = zlib.compress(b"k: v, " * 170_000, 9)
    one = b"zTXt"
    chunks = b""
    for number in range(64):
        content = b"parameters%d\0\0" % number + packed
        chunks += (
            struct.pack(">I", len(content)) + one + content + struct.pack(">I", zlib.crc32(one + content))
        )
    return png(8, 8, chunks)


def _keys() -> bytes:
    """Five million of them."""
    return b'{"comments":{' + b",".join(b'"%d":1' % number for number in range(5_000_000)) + b"}}"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _pictures(count: int, width: int, height: int) -> Callable[[], bytes]:
    def make() -> bytes:
        one = _b64(png(width, height))
        return json.dumps({**SMALL, "init_images": [one] * count}).encode()

    return make


def _noise(side: int) -> str:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return _b64(buffer.getvalue())


BOMBS: Final[tuple[Bomb, ...]] = (
    Bomb(
        "plot of three short ranges",
        "/sdapi/v1/txt2img",
        _plot("Seed", "0-60", "Steps", "1-60", "CFG Scale", "1-60"),
    ),
    Bomb(
        "plot of three long ranges",
        "/sdapi/v1/txt2img",
        _plot("Seed", "0-999", "Steps", "1-999", "CFG Scale", "1-999"),
        4,
    ),
    Bomb(
        "plot of many values",
        "/sdapi/v1/txt2img",
        _plot("Seed", ",".join(["1"] * 200_000), "Nothing", "", "Nothing", ""),
    ),
    Bomb("prompt matrix", "/sdapi/v1/txt2img", _json(prompt="a|" * 9999, script_name="prompt matrix")),
    Bomb(
        "alternations", "/sdapi/v1/txt2img", _json(prompt="[a|b]" * 4000, negative_prompt="[a|b|c]" * 2800), 4
    ),
    Bomb("nested alternations", "/sdapi/v1/txt2img", _json(prompt="[" * 5000 + "a|b" + "]" * 5000), 4),
    Bomb("brackets", "/sdapi/v1/txt2img", _json(prompt="(" * 9999 + "a" + ")" * 9999), 4),
    Bomb("millions of keys", "/sdapi/v1/txt2img", _keys),
    Bomb(
        "millions of arguments",
        "/sdapi/v1/txt2img",
        lambda: b'{"script_args":[' + b"0," * (_LARGE // 2) + b"0]}",
    ),
    Bomb(
        "millions of styles", "/sdapi/v1/txt2img", lambda: b'{"styles":[' + b'"x",' * (_LARGE // 4) + b'"x"]}'
    ),
    Bomb("infotext of pairs", "/sdapi/v1/txt2img", _json(infotext="k: v, " * (_LARGE // 6))),
    Bomb("prompt of comments", "/sdapi/v1/txt2img", _json(prompt="#\n" * (_LARGE // 3))),
    Bomb("prompt of one letter", "/sdapi/v1/txt2img", _json(prompt="x" * _LARGE), 2),
    Bomb("escapes", "/sdapi/v1/txt2img", lambda: b'{"prompt":"' + b"\\u0041" * (_LARGE // 6) + b'"}', 2),
    Bomb("brackets of JSON", "/sdapi/v1/txt2img", lambda: b"[" * _LARGE, 2),
    Bomb("white space", "/sdapi/v1/txt2img", lambda: b" " * _LARGE, 2),
    Bomb("one number", "/sdapi/v1/txt2img", lambda: b'{"width":' + b"9" * _LARGE + b"}", 2),
    Bomb(
        "options",
        "/sdapi/v1/options",
        lambda: json.dumps({"quicksettings_list": ["x" * 60] * 900}).encode(),
        4,
    ),
    Bomb(
        "nested options",
        "/sdapi/v1/options",
        lambda: b'{"quicksettings_list":' + b"[" * 900 + b"]" * 900 + b"}",
    ),
    Bomb("huge options", "/sdapi/v1/options", lambda: b'{"quicksettings_list":[%s]}' % (b"9" * 30)),
    Bomb("picture of a gigapixel", "/sdapi/v1/img2img", _pictures(1, 60_000, 20_000)),
    Bomb("twelve large pictures", "/sdapi/v1/img2img", _pictures(12, 8000, 4000), 2),
    Bomb("one large picture", "/sdapi/v1/img2img", _pictures(1, 8000, 4000), 8),
    Bomb(
        "texts of a picture", "/sdapi/v1/png-info", lambda: json.dumps({"image": _b64(_texts())}).encode(), 4
    ),
    Bomb(
        "png-info of a large picture",
        "/sdapi/v1/png-info",
        lambda: json.dumps({"image": _b64(png(8000, 4000))}).encode(),
        40,
    ),
    Bomb(
        "enlarging a large picture",
        "/sdapi/v1/extra-single-image",
        lambda: json.dumps(
            {"image": _b64(png(5000, 5000)), "upscaling_resize": 8, "upscaler_1": "Lanczos"}
        ).encode(),
    ),
    Bomb(
        "enlarging many",
        "/sdapi/v1/extra-batch-images",
        lambda: json.dumps(
            {
                "imageList": [{"data": _b64(png(2800, 2800)), "name": "x"}] * 32,
                "upscaling_resize": 2,
                "upscaler_1": "Lanczos",
            }
        ).encode(),
    ),
    Bomb(
        "wide blur",
        "/sdapi/v1/img2img",
        lambda: json.dumps(
            {**SMALL, "init_images": [_b64(png(8000, 4000))], "mask": _b64(png(8000, 4000)), "mask_blur": 512}
        ).encode(),
    ),
    Bomb(
        "noise that was sent before",
        "/sdapi/v1/img2img",
        lambda: json.dumps({**SMALL, "init_images": [_noise(3000)]}).encode(),
        4,
    ),
)


def throw(address: Address, bomb: Bomb, timeout: float = 120) -> Iterator[Answer | str]:
    """Send a bomb as often as it wants, at once; what came back of each, or why nothing did."""
    sent = request("POST", bomb.path, bomb.body())
    found: list[Answer | str] = []

    def one() -> None:
        client = Client(address, timeout)
        try:
            found.append(client.send(sent))
        except (Dropped, OSError) as error:
            found.append(f"{type(error).__name__}: {error}")
        finally:
            client.close()

    threads = [threading.Thread(target=one) for _ in range(bomb.times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield from found
