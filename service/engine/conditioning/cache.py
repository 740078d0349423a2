"""Encoded prompts kept for the next request: most requests of a session repeat one of their prompts."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, slots=True)
class EncodedText:
    """What the text encoders make of one text, before words are weighed.

    ``chunks``: one tensor of shape (77, D) for each chunk, D the sum of the widths of all encoders. ``weights``: for
    each chunk (E, 77), what its positions weigh for each of the E encoders; empty where all weigh 1.
    ``pooled``: shape (P,), that of the first chunk by all encoders that pool, or None. ``embeddings``: the textual
    inversions in the text, in order.
    """

    chunks: tuple[torch.Tensor, ...]
    pooled: torch.Tensor | None = None
    embeddings: tuple[str, ...] = ()
    weights: tuple[torch.Tensor, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        tensors = self.chunks if self.pooled is None else (*self.chunks, self.pooled)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _ignore() -> None:
    return None


@dataclass(slots=True)
class EncodingCache:
    """Least recently used texts leave once ``capacity`` bytes are exceeded; 0 keeps nothing.

    ``on_hit`` and ``on_miss`` are called once for each look-up (for metrics). Not for several threads at
    once. cachetools' ``LRUCache`` would count and evict as well, and be one more import on the way to readiness.
    """

    capacity: int = 64 * 2**20
    on_hit: Callable[[], None] = _ignore
    on_miss: Callable[[], None] = _ignore
    hits: int = 0
    misses: int = 0
    bytes: int = 0
    _entries: OrderedDict[Hashable, EncodedText] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> EncodedText | None:
        """The text encoded under ``key``, or None."""
        found = self._entries.get(key)
        if found is None:
            self.misses += 1
            self.on_miss()
        else:
            self._entries.move_to_end(key)
            self.hits += 1
            self.on_hit()
        return found

    def put(self, key: Hashable, text: EncodedText) -> None:
        """Keep ``text`` under ``key``, unless it alone exceeds the capacity."""
        if text.size > self.capacity:
            return
        replaced = self._entries.pop(key, None)
        self.bytes += text.size - (replaced.size if replaced else 0)
        self._entries[key] = text
        while self.bytes > self.capacity:
            self.bytes -= self._entries.popitem(last=False)[1].size

    def clear(self) -> None:
        """Forget everything; hits and misses stay."""
        self._entries.clear()
        self.bytes = 0
