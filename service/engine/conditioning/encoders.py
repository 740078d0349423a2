"""One CLIP text encoder with its tokenizer: chunks in, hidden states out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from service.core.errors import BadRequest
from service.engine.conditioning.chunks import CHUNK_TOKENS, Chunk

Layer: TypeAlias = Literal["last", "penultimate"]
"""Which hidden state a model was trained on: SD 1.x and 2.x the last, through the final layer norm; SDXL
the one before the last, as it is. (SD 2.x, too, was trained on the penultimate layer of its encoder, but
in the layout of diffusers the layer after it is cut off, so that there it is the last.)"""


@dataclass(frozen=True, slots=True)
class ClipEncoder:
    """A ``CLIPTextModel`` or ``CLIPTextModelWithProjection`` and the tokenizer that belongs to it.

    ``device`` is where the inputs go: the model's own unless the model is offloaded between calls.
    """

    model: Any
    tokenizer: Any
    layer: Layer = "last"
    pools: bool = False
    """Whether the pooled output (``text_embeds``) is part of the conditioning."""
    device: torch.device | None = None

    @property
    def width(self) -> int:
        """D, the size of a hidden state."""
        return int(self.model.config.hidden_size)

    @property
    def chunk_tokens(self) -> int:
        """How many tokens of a prompt fit between start and end."""
        return min(CHUNK_TOKENS, int(self.model.config.max_position_embeddings) - 2)

    @property
    def comma(self) -> int | None:
        """The id of a comma that ends a word; None if the vocabulary has none."""
        found = self.tokenizer.convert_tokens_to_ids(",</w>")
        return None if found is None or found == self.tokenizer.unk_token_id else int(found)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each of ``texts``, without start and end, of any length."""
        # JSON may hold lone surrogates, which no tokenizer takes.
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        encoded = self.tokenizer(clean, add_special_tokens=False, truncation=False, verbose=False)
        return [[int(token) for token in ids] for ids in encoded["input_ids"]]

    def input_ids(self, chunk: Chunk) -> torch.Tensor:
        """The input of the model for ``chunk``, shape (1, chunk_tokens + 2): start, tokens, end, padding."""
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        pad = self.tokenizer.pad_token_id
        padding = self.chunk_tokens - len(chunk.tokens)
        ids = [start, *(token.id for token in chunk.tokens), end, *([end if pad is None else pad] * padding)]
        return torch.tensor([ids], dtype=torch.long, device=self.device or self.model.device)

    def weights(self, chunk: Chunk) -> torch.Tensor:
        """The weights of the positions of ``chunk``, (chunk_tokens + 2,); start, end and padding have 1."""
        after = self.chunk_tokens + 1 - len(chunk.tokens)
        return torch.tensor([1.0, *(token.weight for token in chunk.tokens), *([1.0] * after)])

    def encode(
        self,
        chunk: Chunk,
        *,
        clip_skip: int | None = None,
        vector: Callable[[str, int], torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hidden states (chunk_tokens + 2, D) of ``chunk`` and, if the encoder pools, its pooled output (P,).

        ``clip_skip`` counts layers from the end, 1 is the last one; None is the layer that the model was
        trained on. ``vector(name, index)`` gives the vectors (D,) of textual inversions. Raises
        :class:`BadRequest` if the encoder has no such layer.
        """
        layers = int(self.model.config.num_hidden_layers)
        if clip_skip is not None and not 1 <= clip_skip <= layers:
            raise BadRequest(
                f"Clip skip must be from 1 (the last layer) to {layers} for this checkpoint, not {clip_skip}."
            )
        last = self.layer == "last"
        depth = clip_skip or (1 if last else 2)
        with torch.no_grad(), self._inserted(chunk, vector):
            output = self.model(self.input_ids(chunk), output_hidden_states=depth > 1 or not last)
            if not last:
                states = output.hidden_states[-depth]
            elif depth > 1:
                states = self._final_layer_norm(output.hidden_states[-depth])
            else:
                states = output.last_hidden_state
        return states[0], output.text_embeds[0] if self.pools else None

    def _final_layer_norm(self, states: torch.Tensor) -> torch.Tensor:
        # transformers 4 kept the layers of all CLIP text models in .text_model, 5 those with a projection.
        normed: torch.Tensor = getattr(self.model, "text_model", self.model).final_layer_norm(states)
        return normed

    @contextmanager
    def _inserted(self, chunk: Chunk, vector: Callable[[str, int], torch.Tensor] | None) -> Iterator[None]:
        """While it is open, the token embeddings of ``chunk`` are replaced by the vectors that it names."""
        places = [(at, token.vector) for at, token in enumerate(chunk.tokens, start=1) if token.vector]
        if not places or vector is None:
            yield
            return

        def insert(module: torch.nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            for at, (name, index) in places:
                output[:, at] = vector(name, index).to(output)
            return output

        handle = self.model.get_input_embeddings().register_forward_hook(insert)
        try:
            yield
        finally:
            handle.remove()
