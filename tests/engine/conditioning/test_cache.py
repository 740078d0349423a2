"""What the cache of encoded texts keeps and forgets."""

import torch

from service.engine.conditioning import EncodedText, EncodingCache


def text(floats: int, pooled: int = 0) -> EncodedText:
    return EncodedText((torch.zeros(floats),), torch.zeros(pooled) if pooled else None)


def test_size_counts_all_tensors() -> None:
    assert text(10, 5).size == 60
    assert text(10).size == 40


def test_the_least_recently_used_text_leaves() -> None:
    cache = EncodingCache(capacity=100)
    cache.put("a", text(10))
    cache.put("b", text(10))
    assert cache.get("a") is not None
    cache.put("c", text(10))
    assert cache.get("b") is None
    assert cache.get("a") is not None
    assert cache.get("c") is not None
    assert (cache.bytes, len(cache), cache.hits, cache.misses) == (80, 2, 3, 1)


def test_a_text_replaced_is_counted_once() -> None:
    cache = EncodingCache(capacity=100)
    cache.put("a", text(20))
    cache.put("a", text(10))
    assert (cache.bytes, len(cache)) == (40, 1)


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    cache = EncodingCache(capacity=100)
    cache.put("a", text(10))
    cache.put("b", text(26))
    assert (cache.bytes, len(cache)) == (40, 1)
    nothing = EncodingCache(capacity=0)
    nothing.put("a", text(1))
    assert len(nothing) == 0


def test_clear_forgets_texts_but_not_counts() -> None:
    cache = EncodingCache()
    cache.put("a", text(10))
    assert cache.get("a") is not None
    cache.clear()
    assert (cache.bytes, len(cache), cache.hits) == (0, 0, 1)
    assert cache.get("a") is None
