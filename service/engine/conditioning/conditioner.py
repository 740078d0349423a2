"""From prompts to conditioning: grammar, chunks, encoders and cache put together."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from service.engine.conditioning.cache import EncodedText, EncodingCache
from service.engine.conditioning.chunks import split_into_chunks
from service.engine.conditioning.embeddings import EmbeddingTable
from service.engine.conditioning.emphasis import NONE, ORIGINAL, apply_emphasis, emphasis_mode
from service.engine.conditioning.encoders import ClipEncoder
from service.engine.conditioning.schedule import Conditioning, Timeline
from service.engine.prompt import ScheduledText, schedule, split_composition
from service.errors import BadRequest

MAX_CHUNKS: Final = 64
"""Chunks of one text (of 75 tokens each): attention over more costs more memory than any prompt is worth."""

MAX_PARTS: Final = 16
"""Parts of one prompt (joined by AND): each costs one more run of the UNet at every step."""

Embeddings = Mapping[str, torch.Tensor | Sequence[torch.Tensor]]
"""Name → vectors (V, D); for a model with two encoders a pair of them, in the order of the encoders."""


@dataclass(frozen=True, slots=True)
class _Options:
    """What decides, beside the text, how a text is encoded."""

    clip_skip: int
    emphasis: str
    comma_backtrack: int
    sdxl_clip_l_skip: bool


class Conditioner:
    """Encodes prompts with the text encoders of one loaded pipeline.

    ``cache`` may be shared between conditioners; ``key`` then tells their texts apart: it must change
    whenever the encoders' weights do (checkpoint, LoRA on the text encoder) or ``embeddings`` do. Runs in
    the engine's thread.
    """

    def __init__(
        self,
        encoders: Sequence[ClipEncoder],
        *,
        key: Hashable = "",
        cache: EncodingCache | None = None,
        embeddings: Embeddings | None = None,
        zeroes_empty_negative: bool = False,
    ) -> None:
        self.encoders = tuple(encoders)
        self.key = key
        self.cache = EncodingCache(capacity=0) if cache is None else cache
        self._zeroes_empty_negative = zeroes_empty_negative
        self._tables: tuple[EmbeddingTable, ...] = ()
        self.set_embeddings(embeddings or {})

    @classmethod
    def of_pipeline(
        cls,
        pipeline: Any,
        *,
        key: Hashable = "",
        cache: EncodingCache | None = None,
        embeddings: Embeddings | None = None,
        device: torch.device | None = None,
    ) -> "Conditioner":
        """The conditioner of a diffusers pipeline: SD 1.x, SD 2.x, SDXL or the SDXL refiner.

        ``device`` is where the encoders run; give it if they are offloaded between calls.
        """
        first, second = pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)
        if second is None:
            encoders = [ClipEncoder(first, pipeline.tokenizer, device=device)]
        else:
            encoders = [ClipEncoder(second, pipeline.tokenizer_2, "penultimate", pools=True, device=device)]
            if first is not None:
                encoders.insert(0, ClipEncoder(first, pipeline.tokenizer, "penultimate", device=device))
        return cls(
            encoders, key=key, cache=cache, embeddings=embeddings, zeroes_empty_negative=second is not None
        )

    def set_embeddings(self, embeddings: Embeddings) -> dict[str, str]:
        """Use these textual inversions from now on; returns those that do not fit, with the reason.

        Change ``key`` with them if there is a cache.
        """
        count = len(self.encoders)
        skipped: dict[str, str] = {}
        fitting: dict[str, Sequence[torch.Tensor]] = {}
        for name, vectors in embeddings.items():
            each = (vectors,) if isinstance(vectors, torch.Tensor) else tuple(vectors)
            if len(each) == count:
                fitting[name] = each
            else:
                skipped[name] = f"it is made for {len(each)} text encoder(s), this checkpoint has {count}"
        self._tables = tuple(
            EmbeddingTable.of(encoder, {name: each[index] for name, each in fitting.items()})
            for index, encoder in enumerate(self.encoders)
        )
        for table in self._tables:
            skipped |= table.skipped
        return skipped

    def encode(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str],
        *,
        steps: int,
        hires_steps: int | None = None,
        clip_skip: int = 1,
        emphasis: str = ORIGINAL,
        comma_backtrack: int = 20,
        sdxl_clip_l_skip: bool = False,
        raise_if_cancelled: Callable[[], None] = lambda: None,
    ) -> Conditioning:
        """The conditioning of N images: ``prompts`` and ``negative_prompts`` have one text for each.

        The texts carry no network tags any more (see :func:`service.engine.prompt.extract_networks`).
        ``steps`` ≥ 1: calls of the model in the first pass (samplers of second order make two a step).
        ``hires_steps``: the calls in the second pass, if this is the conditioning of the second pass.
        ``clip_skip`` ≥ 1 counts as in A1111. SDXL ignores it, unless ``sdxl_clip_l_skip`` applies it to the
        first of its encoders; for SD 2.x 1 is the layer that it was trained on, the last but one of
        OpenCLIP. ``comma_backtrack``: how many tokens may move to the next chunk so that it begins after a
        comma. ``raise_if_cancelled`` is called before each run of an encoder.

        All texts are padded with empty chunks to the length of the longest. Each distinct text is encoded
        once, alone: what comes out for it depends neither on its neighbours in a batch nor on the cache.
        Raises :class:`BadRequest` for a clip skip that the encoder has no layer for, a prompt of more than
        :data:`MAX_CHUNKS` chunks or more than :data:`MAX_PARTS` parts; :class:`UnknownName` for the
        emphasis.
        """
        if len(prompts) != len(negative_prompts):
            raise ValueError(f"{len(prompts)} prompts, but {len(negative_prompts)} negative prompts")
        options = _Options(clip_skip, emphasis_mode(emphasis), comma_backtrack, sdxl_clip_l_skip)
        encoded: dict[str, EncodedText] = {}

        def encode_all(texts: list[ScheduledText]) -> list[ScheduledText]:
            for scheduled in texts:
                if scheduled.text not in encoded:
                    encoded[scheduled.text] = self._encode_text(scheduled.text, options, raise_if_cancelled)
            return texts

        cond: list[list[tuple[list[ScheduledText], float]]] = []
        for prompt in prompts:
            parts = split_composition(prompt)
            if len(parts) > MAX_PARTS:
                raise BadRequest(
                    f"The prompt joins {len(parts)} parts by AND; at most {MAX_PARTS} are possible."
                )
            cond.append([(encode_all(schedule(p.text, steps, hires_steps)), p.weight) for p in parts])
        uncond = [encode_all(schedule(prompt, steps, hires_steps)) for prompt in negative_prompts]
        used = tuple(dict.fromkeys(name for text in encoded.values() for name in text.embeddings))

        length = max((len(text.chunks) for text in encoded.values()), default=1)
        if any(len(text.chunks) < length for text in encoded.values()):
            encode_all([ScheduledText(steps, "")])
        padding = encoded[""].chunks[0] if "" in encoded else None
        padded = {text: _padded(value, length, padding) for text, value in encoded.items()}

        def timeline(texts: list[ScheduledText], *, negative: bool = False) -> Timeline:
            states = [padded[scheduled.text] for scheduled in texts]
            pooled = [encoded[scheduled.text].pooled for scheduled in texts]
            if negative and self._zeroes_empty_negative and all(not scheduled.text for scheduled in texts):
                states = [torch.zeros_like(state) for state in states]
                pooled = [None if each is None else torch.zeros_like(each) for each in pooled]
            given = tuple(each for each in pooled if each is not None)
            return Timeline(tuple(text.until for text in texts), tuple(states), given or None)

        return Conditioning(
            cond=[[(timeline(texts), weight) for texts, weight in parts] for parts in cond],
            uncond=[timeline(texts, negative=True) for texts in uncond],
            embeddings=used,
        )

    def _encode_text(
        self, text: str, options: _Options, raise_if_cancelled: Callable[[], None]
    ) -> EncodedText:
        key = (self.key, text, options)
        if (found := self.cache.get(key)) is not None:
            return found
        columns: list[list[torch.Tensor]] = []
        pooled: torch.Tensor | None = None
        used: dict[str, None] = {}
        for encoder, table in zip(self.encoders, self._tables, strict=True):
            chunks = split_into_chunks(
                text,
                encoder.tokenize,
                comma=encoder.comma,
                comma_backtrack=options.comma_backtrack,
                literal=options.emphasis == NONE,
                chunk_tokens=encoder.chunk_tokens,
                find_embedding=table.find,
            )
            if len(chunks) > MAX_CHUNKS:
                raise BadRequest(
                    f"The prompt has {len(chunks)} chunks of {encoder.chunk_tokens} tokens; at most "
                    f"{MAX_CHUNKS} are possible: shorten it, or use BREAK less often."
                )
            skips = encoder.layer == "last" or (options.sdxl_clip_l_skip and not encoder.pools)
            clip_skip = options.clip_skip if skips else None
            column: list[torch.Tensor] = []
            for index, chunk in enumerate(chunks):
                raise_if_cancelled()
                states, pool = encoder.encode(chunk, clip_skip=clip_skip, vector=table.vector)
                column.append(apply_emphasis(states, encoder.weights(chunk), options.emphasis))
                if index == 0 and pool is not None:
                    pooled = pool
                used |= {token.vector[0]: None for token in chunk.tokens if token.vector}
            columns.append(column)
        encoded = EncodedText(_joined(columns), pooled, tuple(used))
        self.cache.put(key, encoded)
        return encoded


def _joined(columns: list[list[torch.Tensor]]) -> tuple[torch.Tensor, ...]:
    """The chunks of all encoders side by side: (77, D) for each chunk, D the sum of the encoders' widths."""
    if len(columns) == 1:
        return tuple(columns[0])
    return tuple(torch.cat(row, dim=-1) for row in zip(*columns, strict=True))


def _padded(text: EncodedText, length: int, padding: torch.Tensor | None) -> torch.Tensor:
    """The chunks of ``text`` in a row, with ``padding`` up to ``length`` chunks: (length · 77, D)."""
    missing = length - len(text.chunks)
    if missing == 0 or padding is None:
        return torch.cat(text.chunks)
    return torch.cat([*text.chunks, *([padding] * missing)])
