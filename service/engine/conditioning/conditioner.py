"""From prompts to conditioning: grammar, chunks, encoders and cache put together."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import torch

from service.core.errors import BadRequest
from service.core.generation import Padding
from service.engine.conditioning.cache import EncodedText, EncodingCache
from service.engine.conditioning.chunks import split_into_chunks
from service.engine.conditioning.embeddings import EmbeddingTable
from service.engine.conditioning.emphasis import NONE, ORIGINAL, apply_emphasis, emphasis_mode
from service.engine.conditioning.encoders import ClipEncoder
from service.engine.conditioning.schedule import Conditioning, Timeline
from service.prompt import SubPrompt, schedule, split_composition

MAX_CHUNKS: Final = 64
"""Chunks of one text (of 75 tokens each): attention over more costs more memory than any prompt is worth."""

MAX_ENCODINGS: Final = 1024
"""Chunks of all texts of one request: they stay on the device until the images are done."""

MAX_PARTS: Final = 16
"""Parts of one prompt (joined by AND): each costs one more run of the UNet at every step."""

MAX_CHARACTERS: Final = 50_000
"""Of one prompt, far more than fit into MAX_CHUNKS: the grammar is worked out before chunks can be counted."""

Embeddings: TypeAlias = Mapping[str, torch.Tensor | Sequence[torch.Tensor]]
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
        padding: Padding = "none",
        raise_if_cancelled: Callable[[], None] = lambda: None,
    ) -> Conditioning:
        """The conditioning of N images: ``prompts`` and ``negative_prompts`` have one text for each.

        The texts carry no network tags any more (see :func:`service.prompt.extract_networks`).
        ``steps`` ≥ 1: calls of the model in the first pass (samplers of second order make two a step).
        ``hires_steps``: the calls in the second pass, if this is the conditioning of the second pass.
        ``clip_skip`` ≥ 1 counts as in A1111. SDXL ignores it, unless ``sdxl_clip_l_skip`` applies it to the
        first of its encoders; for SD 2.x 1 is the layer that it was trained on, the last but one of
        OpenCLIP. ``comma_backtrack``: how many tokens may move to the next chunk so that it begins after a
        comma. ``raise_if_cancelled`` is called before each run of an encoder.

        Each distinct text is encoded once, alone: what comes out for it depends neither on its neighbours in a batch
        nor on the cache. Texts between which a prompt changes are padded with empty chunks to the length of the
        longest; what becomes of prompt and negative prompt of unequal length says ``padding``.

        Raises :class:`BadRequest` for a clip skip that the encoder has no layer for, and for prompts beyond
        :data:`MAX_CHARACTERS`, :data:`MAX_PARTS`, :data:`MAX_CHUNKS` (each) or :data:`MAX_ENCODINGS` (all
        together); :class:`UnknownName` for the emphasis.
        """
        if len(prompts) != len(negative_prompts):
            raise ValueError(f"{len(prompts)} prompts, but {len(negative_prompts)} negative prompts")
        options = _Options(clip_skip, emphasis_mode(emphasis), comma_backtrack, sdxl_clip_l_skip)
        parts = [_parts(prompt) for prompt in prompts]
        schedules = {
            text: schedule(text, steps, hires_steps)
            for text in dict.fromkeys(
                [p.text for each in parts for p in each] + list(map(_checked, negative_prompts))
            )
        }
        encoded: dict[str, EncodedText] = {}

        def encode_once(text: str) -> EncodedText:
            if text not in encoded:
                encoded[text] = self._encode_text(text, options, raise_if_cancelled)
                if sum(len(each.chunks) for each in encoded.values()) > MAX_ENCODINGS:
                    raise BadRequest(
                        f"Over all steps the prompts read more than {MAX_ENCODINGS} chunks of text: shorten "
                        "them, or let fewer of their words change."
                    )
            return encoded[text]

        def timeline(prompt: str, *, negative: bool = False) -> Timeline:
            entries = schedules[prompt]
            texts = [encode_once(entry.text) for entry in entries]
            length = max(len(text.chunks) for text in texts)
            if any(len(text.chunks) < length for text in texts):
                texts = [_longer(text, encode_once(""), length) for text in texts]
            states = self._weighed(texts, options.emphasis)
            pooled = [text.pooled for text in texts if text.pooled is not None]
            if negative and self._zeroes_empty_negative and all(not entry.text for entry in entries):
                # What SDXL was trained to see where there is no prompt.
                states, pooled = ([torch.zeros_like(each) for each in part] for part in (states, pooled))
            until = tuple(entry.until for entry in entries)
            return Timeline(until, tuple(states), tuple(pooled) or None)

        cond = [[(timeline(part.text), part.weight) for part in each] for each in parts]
        uncond = [timeline(prompt, negative=True) for prompt in negative_prompts]
        texts = (
            [entry.text for each in parts for part in each for entry in schedules[part.text]],
            [entry.text for prompt in negative_prompts for entry in schedules[prompt]],
        )
        used = tuple(
            name
            for each in texts
            for name in dict.fromkeys(n for text in each for n in encoded[text].embeddings)
        )
        empty = torch.cat(encode_once("").chunks) if padding == "empty" else None
        return Conditioning(cond, uncond, used, padding, empty)

    def _weighed(self, texts: Sequence[EncodedText], emphasis: str) -> list[torch.Tensor]:
        """The states (77 · chunks, D) of texts of equal length, words weighed.

        As in A1111 the texts of one prompt, between which it changes, share the mean that "Original" restores: chunk
        by chunk, encoder by encoder.
        """
        if not any(text.weights for text in texts):
            return [torch.cat(text.chunks) for text in texts]
        columns = []
        for index in range(len(texts[0].chunks)):
            states = torch.stack([text.chunks[index] for text in texts])
            weights = torch.stack(
                [
                    text.weights[index] if text.weights else torch.ones(len(self.encoders), states.shape[1])
                    for text in texts
                ]
            )
            parts = states.split([encoder.width for encoder in self.encoders], dim=-1)
            each = (apply_emphasis(part, weights[:, n], emphasis) for n, part in enumerate(parts))
            columns.append(torch.cat(list(each), dim=-1))
        return list(torch.cat(columns, dim=1))

    def _encode_text(
        self, text: str, options: _Options, raise_if_cancelled: Callable[[], None]
    ) -> EncodedText:
        key = (self.key, text, options)
        if (found := self.cache.get(key)) is not None:
            return found
        columns: list[list[torch.Tensor]] = []
        weights: list[list[torch.Tensor]] = []
        pooled: list[torch.Tensor] = []
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
                column.append(states)
                if index == 0 and pool is not None:
                    pooled.append(pool)
                used |= {token.vector[0]: None for token in chunk.tokens if token.vector}
            columns.append(column)
            weights.append([encoder.weights(chunk) for chunk in chunks])
        plain = all(bool((each == 1).all()) for column in weights for each in column)
        encoded = EncodedText(
            _joined(columns),
            torch.cat(pooled) if pooled else None,
            tuple(used),
            () if plain else tuple(torch.stack(row) for row in zip(*weights, strict=True)),
        )
        self.cache.put(key, encoded)
        return encoded


def _longer(text: EncodedText, empty: EncodedText, length: int) -> EncodedText:
    """``text`` with empty chunks after it, so that it has ``length``."""
    more = length - len(text.chunks)
    weights = text.weights and (*text.weights, *([torch.ones_like(text.weights[0])] * more))
    return replace(text, chunks=(*text.chunks, *(empty.chunks * more)), weights=weights)


def _joined(columns: list[list[torch.Tensor]]) -> tuple[torch.Tensor, ...]:
    """The chunks of all encoders side by side: (77, D) for each chunk, D the sum of the encoders' widths."""
    if len(columns) == 1:
        return tuple(columns[0])
    return tuple(torch.cat(row, dim=-1) for row in zip(*columns, strict=True))


def _parts(prompt: str) -> list[SubPrompt]:
    parts = split_composition(_checked(prompt))
    if len(parts) > MAX_PARTS:
        raise BadRequest(f"The prompt joins {len(parts)} parts by AND; at most {MAX_PARTS} are possible.")
    return parts


def _checked(prompt: str) -> str:
    if len(prompt) > MAX_CHARACTERS:
        raise BadRequest(
            f"The prompt is {len(prompt)} characters long; at most {MAX_CHARACTERS} are possible."
        )
    return prompt
