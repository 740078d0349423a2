"""Model files that lie: headers that are none, numbers that do not exist, shapes without memory, names without text."""

import os
import struct
from pathlib import Path
from typing import Final

FOLDERS: Final = ("checkpoints", "vae", "loras", "embeddings", "upscalers")

_LORA: Final = '"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"'


def _entry(shape: str, offsets: str = "[0,16]", dtype: str = '"F32"', name: str = _LORA) -> bytes:
    return f'{{{name}:{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}'.encode()


HEADERS: Final[dict[str, bytes]] = {
    "nested": b"[" * 200_000,
    "nested_objects": b'{"a":' * 100_000,
    "infinity": _entry("[Infinity]"),
    "nan": _entry("[2,2]", "[NaN,16]"),
    "exponent": _entry("[1e999]"),
    "float": _entry("[2.0,2.0]"),
    "negative": _entry("[-1]"),
    "two_negatives": _entry("[-2,-2]"),
    "huge": _entry("[9223372036854775807,9223372036854775807]", dtype='"X"'),
    "endless_digits": _entry("[" + "9" * 10_000 + "]"),
    "many_dimensions": _entry("[" + ",".join(["1"] * 5000) + "]", "[0,4]"),
    "backwards": _entry("[2,2]", "[16,0]"),
    "beyond": _entry("[2,2]", "[1000000,1000016]"),
    "text_offsets": _entry("[2,2]", '["0","16"]'),
    "text_shape": _entry('"2,2"'),
    "no_shape": b'{"a":{"dtype":"F32","data_offsets":[0,16]}}',
    "null": b'{"a":null}',
    "number": b"7",
    "string": b'"x"',
    "surrogate": _entry("[2,2]", name='"\\ud800"'),
    "surrogate_metadata": b'{"__metadata__":{"ss_output_name":"\\ud800"}}',
    "metadata_of_numbers": b'{"__metadata__":{"ss_output_name":[1,{"a":NaN}]},"x":{"dtype":"F32"}}',
    "metadata_list": b'{"__metadata__":[1,2]}',
    "unknown_dtype": _entry("[2,2]", dtype='"F99"'),
    "dtype_list": _entry("[2,2]", dtype="[1]"),
    "byte_order_mark": b"\xef\xbb\xbf{}",
    "not_utf8": b'{"\xff\xfe":1}',
    "empty": b"{}",
    "zeros": b"\0" * 100,
}  # fmt: skip


def write(root: Path) -> int:
    """Put every kind of evil file into every folder of the models folder ``root``; how many there are."""
    count = 0
    for folder in FOLDERS:
        place = root / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, header in HEADERS.items():
            (place / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 16)
            count += 1
        raw: dict[bytes, bytes] = {
            b"nothing": b"",
            b"short": b"\x10",
            b"length_beyond": struct.pack("<Q", 2**63),
            b"length_all_ones": b"\xff" * 16,
            b"name_\xff\xfe": struct.pack("<Q", 2) + b"{}",
        }
        for name_of, content in raw.items():
            path = os.path.join(os.fsencode(place), name_of + b".safetensors")
            with open(path, "wb") as file:
                file.write(content)
            count += 1
        (place / "dangling.safetensors").symlink_to(place / "nowhere")
        (place / "loop.safetensors").symlink_to(place / "loop.safetensors")
        (place / "folder.safetensors").mkdir()
        (place / "pickle.ckpt").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
        count += 1
        # Configurations that say nothing, beside weights that are none.
        for kind, text in (("config", b"\xff\xfe{"), ("model_index", b"[" * 100_000)):
            (place / f"odd_{kind}").mkdir()
            (place / f"odd_{kind}" / f"{kind}.json").write_bytes(text)
    return count
