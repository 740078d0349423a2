"""CLIP text encoders: small beside the rest, one chunk of 77 tokens at a time."""

from collections.abc import Mapping
from typing import Any

from service.plan.tape import CPU, Kernels, Tape


def text_peak(config: Mapping[str, Any], itemsize: int, *, tokens: int = 77, kernels: Kernels = CPU) -> int:
    """Bytes alive at most while one chunk is encoded; the hidden states of all layers are kept."""
    tape = Tape(itemsize, kernels)
    width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    kept = [tape.new(width, tokens) for _ in range(int(config["num_hidden_layers"]) + 1)]
    tape.new(tokens, tokens)  # the causal mask
    normed, query, key, value = (tape.new(width, tokens) for _ in range(4))
    tape.free(tape.new(width, tokens), tape.new(width, tokens), query, key, value)
    both = tape.new(inner, tokens), tape.new(inner, tokens)
    tape.free(*both, normed, *kept)
    return tape.peak
