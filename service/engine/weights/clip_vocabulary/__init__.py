"""CLIP's tokenizer, made from OpenAI's merges: a single-file checkpoint brings its weights, but no vocabulary."""

from functools import cache
from pathlib import Path
from typing import Any, Final

from tokenizers.pre_tokenizers import ByteLevel

from service.engine.weights.imports import CLIPTokenizer

_MERGES: Final = Path(__file__).parent / "merges.txt"
START: Final = "<|startoftext|>"
END: Final = "<|endoftext|>"


@cache
def clip_tokenizer(pad_token: str = END) -> Any:
    """The tokenizer of CLIP's text encoders (49,408 tokens). Those of OpenCLIP pad with ``"!"``, token 0."""
    merges: list[tuple[str, str]] = []
    for line in _MERGES.read_text(encoding="utf-8").splitlines()[1:]:
        left, _, right = line.partition(" ")
        merges.append((left, right))
    letters = _letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += [left + right for left, right in merges]
    tokens += [START, END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad_token, model_max_length=77)


def _letters() -> list[str]:
    """The characters that stand for the 256 bytes, in CLIP's order: printable ones first, as themselves."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [chr(256 + number) for number in range(256 - len(printable))]
    letters = [chr(byte) for byte in printable] + others
    assert set(letters) == set(ByteLevel.alphabet())
    return letters
