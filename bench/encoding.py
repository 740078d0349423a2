"""How long an image takes from pixels to a JSON body, against Pillow's PNG defaults, base64 and json.

Both sides write the same answer (a lossless PNG with its infotext, as base64 in JSON) of the same pictures,
in turns within one run, so that the ratio of the medians holds on a busy machine too. The last line is one
JSON object.

    python -m bench.encoding [--size 1024] [--rounds 15]
"""

import argparse
import base64
import io
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import orjson
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from service.core.generation import GenerationRequest, GenerationResult
from service.core.pixels import Pixels
from service.imaging.respond import encode_all


def photo(size: int) -> Pixels:
    """Noise in octaves with a little grain: about as hard to compress as a photograph."""
    rng = np.random.default_rng(7)
    layers = np.zeros((size, size, 3), np.float32)
    for octave in range(2, 9):
        small = rng.integers(0, 256, (2**octave, 2**octave, 3), dtype=np.uint8)
        large = Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)
        layers += np.asarray(large, np.float32) / 2 ** (octave - 1)
    layers = (layers - layers.min()) / (layers.max() - layers.min()) * 250 + rng.normal(0, 1.5, layers.shape)
    return np.asarray(np.clip(layers, 0, 255), dtype=np.uint8)


def drawing(size: int) -> Pixels:
    """Flat discs on white, with soft edges."""
    rng = np.random.default_rng(8)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    pixels = np.full((size, size, 3), 255, np.float32)
    for _ in range(12):
        (cx, cy), radius, colour = rng.random(2), rng.uniform(0.05, 0.25), rng.integers(0, 256, 3)
        inside = np.clip((radius - np.hypot(x - cx, y - cy)) * size, 0, 1)[:, :, None]
        pixels += (colour - pixels) * inside
    return pixels.astype(np.uint8)


def noise(size: int) -> Pixels:
    """What nothing can compress."""
    return np.random.default_rng(9).integers(0, 256, (size, size, 3), dtype=np.uint8)


def ours(result: GenerationResult) -> bytes:
    """The way the service answers."""
    images, infotexts = encode_all(result)
    return orjson.dumps(
        {"images": images, "parameters": {}, "info": orjson.dumps({"infotexts": infotexts}).decode()}
    )


def plain(result: GenerationResult, infotext: str) -> bytes:
    """The way one writes it down first."""
    images = []
    for pixels in result.images:
        info, buffer = PngInfo(), io.BytesIO()
        info.add_text("parameters", infotext)
        Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info)
        images.append(base64.b64encode(buffer.getvalue()).decode())
    body = {"images": images, "parameters": {}, "info": json.dumps({"infotexts": [infotext]})}
    return json.dumps(body).encode()


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def check(body: bytes, pixels: Pixels) -> str:
    """The infotext of the first image in ``body``, which must have exactly ``pixels``."""
    data = base64.b64decode(json.loads(body)["images"][0], validate=True)
    with Image.open(io.BytesIO(data)) as image:
        if not np.array_equal(np.asarray(image), pixels):
            raise SystemExit("The pixels that came back are not those that were sent.")
        return str(image.info["parameters"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1024, help="side of the pictures in pixels")
    parser.add_argument("--rounds", type=int, default=15, help="how often each side runs")
    options = parser.parse_args()
    kinds: dict[str, dict[str, float]] = {}
    for make in (photo, drawing, noise):
        pixels = make(options.size)
        request = GenerationRequest(prompt="pretty dog, " * 20, width=options.size, height=options.size)
        result = GenerationResult((pixels,), request, (1,), (1,), model_name="model", model_hash="0123456789")
        infotext = check(ours(result), pixels)
        if check(plain(result, infotext), pixels) != infotext:
            raise SystemExit("The two sides did not write the same infotext.")
        mine, theirs = [], []
        for _ in range(options.rounds):
            mine.append(seconds(lambda: ours(result)))  # noqa: B023 - called at once
            theirs.append(seconds(lambda: plain(result, infotext)))  # noqa: B023
        fast, slow = statistics.median(mine), statistics.median(theirs)
        kinds[make.__name__] = {
            "ratio": round(slow / fast, 2),
            "service_ms": round(fast * 1000, 2),
            "plain_ms": round(slow * 1000, 2),
            "service_bytes": len(ours(result)),
            "plain_bytes": len(plain(result, infotext)),
        }
        print(f"{make.__name__:8} {kinds[make.__name__]}", flush=True)
    ratio = min(kind["ratio"] for kind in kinds.values())
    print(json.dumps({"bench": "encoding", "size": options.size, "ratio": ratio, "kinds": kinds}))


if __name__ == "__main__":
    main()
