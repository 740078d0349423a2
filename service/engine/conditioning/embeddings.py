"""Textual inversion: words that stand for learned vectors instead of tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from service.engine.conditioning.chunks import Match
from service.engine.conditioning.encoders import ClipEncoder


@dataclass(slots=True)
class _Entry:
    name: str
    ids: tuple[int, ...]
    vectors: torch.Tensor


@dataclass(slots=True)
class EmbeddingTable:
    """The textual inversions that fit one text encoder, found by the tokens of their names.

    ``skipped`` names those that do not fit, with the reason.
    """

    skipped: dict[str, str] = field(default_factory=dict)
    _by_name: dict[str, _Entry] = field(default_factory=dict)
    _by_first_id: dict[int, list[_Entry]] = field(default_factory=dict)

    @classmethod
    def of(cls, encoder: ClipEncoder, embeddings: Mapping[str, torch.Tensor]) -> "EmbeddingTable":
        """The table of ``embeddings``: name → vectors (V, width) or (width,), of any float type."""
        table = cls()
        names = list(embeddings)
        for name, ids in zip(names, encoder.tokenize(names) if names else [], strict=True):
            vectors = embeddings[name].detach()
            vectors = vectors.unsqueeze(0) if vectors.ndim == 1 else vectors
            if vectors.ndim != 2 or vectors.shape[1] != encoder.width:
                table.skipped[name] = (
                    f"its vectors are {vectors.shape[-1]} wide, those of this checkpoint {encoder.width}"
                )
            elif not 1 <= vectors.shape[0] <= encoder.chunk_tokens:
                table.skipped[name] = (
                    f"{vectors.shape[0]} vectors do not fit into {encoder.chunk_tokens} tokens"
                )
            elif not ids:
                table.skipped[name] = "the tokenizer knows no token of its name"
            else:
                entry = _Entry(name, tuple(ids), vectors)
                table._by_name[name] = entry
                table._by_first_id.setdefault(ids[0], []).append(entry)
        for entries in table._by_first_id.values():
            entries.sort(key=lambda entry: (-len(entry.ids), entry.name))
        return table

    def find(self, ids: Sequence[int], position: int) -> Match | None:
        """The embedding whose name stands at ``position`` of ``ids``; of several, the longest name."""
        for entry in self._by_first_id.get(ids[position], ()):
            length = len(entry.ids)
            if tuple(ids[position : position + length]) == entry.ids:
                return Match(entry.name, length, entry.vectors.shape[0])
        return None

    def vector(self, name: str, index: int) -> torch.Tensor:
        """Vector ``index`` of embedding ``name``, shape (width,)."""
        return self._by_name[name].vectors[index]
