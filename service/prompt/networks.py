"""Extra networks: tags such as ``<lora:name:0.8>`` that ask for weights beside the checkpoint's."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

_OPENING: Final = re.compile(r"<(\w++):")


@dataclass(frozen=True, slots=True)
class NetworkTag:
    """One tag, ``<kind:name:argument:key=value>``."""

    kind: str
    positional: tuple[str, ...]
    named: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file stem or alias of the network; "" if the tag gives none."""
        return self.positional[0] if self.positional else ""


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """How strongly a LoRA acts; ``dyn_dim`` cuts its rank to so many, None leaves it."""

    name: str
    text_encoder: float = 1.0
    unet: float = 1.0
    dyn_dim: int | None = None


def extract_networks(prompt: str) -> tuple[str, list[NetworkTag]]:
    """``prompt`` without its tags, and the tags in order. Tags of every kind are taken out, known or not."""
    tags: list[NetworkTag] = []
    kept: list[str] = []
    position = 0
    while opening := _OPENING.search(prompt, position):
        end = prompt.find(">", opening.end())
        if end < 0:
            break
        if end == opening.end():  # "<lora:>" holds nothing: it is text
            kept.append(prompt[position:end])
            position = end
            continue
        kept.append(prompt[position : opening.start()])
        tags.append(_tag(opening[1], prompt[opening.end() : end]))
        position = end + 1
    kept.append(prompt[position:])
    return "".join(kept), tags


def extract_networks_of_batch(prompts: Sequence[str]) -> tuple[list[str], list[NetworkTag]]:
    """All ``prompts`` without tags, and the tags of the first: one set of weights serves a batch."""
    extracted = [extract_networks(prompt) for prompt in prompts]
    return [text for text, _ in extracted], extracted[0][1] if extracted else []


def lora_weights(tag: NetworkTag) -> LoraWeights:
    """Read ``<lora:name:te:unet:dyn>``; ``te=``, ``unet=`` and ``dyn=`` win over positions.

    The UNet's weight is the text encoder's unless it is given. A number that cannot
    be read counts as left out.
    """
    positional = dict(zip(("te", "unet", "dyn"), tag.positional[1:], strict=False))
    arguments = positional | tag.named
    text_encoder = _float(arguments.get("te"), 1.0)
    unet = _float(arguments.get("unet"), text_encoder)
    dyn = _float(arguments.get("dyn"), 0.0)
    return LoraWeights(tag.name, text_encoder, unet, int(dyn) if dyn >= 1 else None)


def _tag(kind: str, arguments: str) -> NetworkTag:
    positional: list[str] = []
    named: dict[str, str] = {}
    for argument in arguments.split(":"):
        key, equals, value = argument.partition("=")
        if equals:
            named[key] = value
        else:
            positional.append(argument)
    return NetworkTag(kind, tuple(positional), named)


def _float(text: str | None, default: float) -> float:
    try:
        value = float(text) if text is not None else default
    except ValueError:
        return default
    return value if math.isfinite(value) else default
