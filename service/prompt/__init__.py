"""The prompt grammar: what the text of a prompt asks for. Pure text in, plain data out; no torch.

The order in which a prompt is read: :func:`strip_comments` → :func:`extract_networks` →
:func:`split_composition` (positive prompts only) → :func:`schedule` → :func:`parse_attention`.
None of them raises, whatever the text, and all take time linear in its length.
"""

from service.prompt.attention import Break, Piece, Span, parse_attention
from service.prompt.comments import strip_comments
from service.prompt.composition import SubPrompt, split_composition
from service.prompt.networks import (
    LoraWeights,
    NetworkTag,
    extract_networks,
    extract_networks_of_batch,
    lora_weights,
)
from service.prompt.schedule import ScheduledText, schedule

__all__ = [
    "Break",
    "LoraWeights",
    "NetworkTag",
    "Piece",
    "ScheduledText",
    "Span",
    "SubPrompt",
    "extract_networks",
    "extract_networks_of_batch",
    "lora_weights",
    "parse_attention",
    "schedule",
    "split_composition",
    "strip_comments",
]
