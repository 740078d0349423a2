"""Chunks: a prompt's tokens cut into pieces that a text encoder can take, 75 at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from service.prompt import Break, parse_attention

CHUNK_TOKENS: Final = 75
"""Tokens of the prompt in one chunk; with the start and the end token a chunk has 77."""


@dataclass(frozen=True, slots=True)
class Token:
    """One position of the encoder's input: a token, or one vector of a textual inversion.

    ``vector`` is (name of the embedding, index of the vector); the id does not count where it is given.
    """

    id: int
    weight: float = 1.0
    vector: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Up to 75 tokens of the prompt, without start, end and padding."""

    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """An embedding found in a token stream: its name, how many ids name it, how many vectors it has."""

    name: str
    ids: int
    vectors: int


def split_into_chunks(
    prompt: str,
    tokenize: Callable[[Sequence[str]], list[list[int]]],
    *,
    comma: int | None,
    comma_backtrack: int = 20,
    literal: bool = False,
    chunk_tokens: int = CHUNK_TOKENS,
    find_embedding: Callable[[Sequence[int], int], Match | None] = lambda ids, position: None,
) -> list[Chunk]:
    """Cut ``prompt`` into chunks; there is always at least one.

    ``tokenize`` gives the ids of several texts, without start and end. Where a chunk is full and its last
    comma is at most ``comma_backtrack`` tokens back (0: never), the tokens after that comma move to the
    next chunk. ``comma`` is the id of a comma (None: the vocabulary has none). BREAK ends a chunk. An
    embedding that ``find_embedding(ids, position)`` names takes as many tokens as it has vectors, all in
    one chunk; it must not have more than ``chunk_tokens``. With ``literal`` the prompt is plain text: no
    weights, no BREAK.
    """
    if literal:
        texts, weights = [prompt], [1.0]
        pieces: list[int | None] = [0]
    else:
        texts, weights, pieces = [], [], []
        for piece in parse_attention(prompt):
            if isinstance(piece, Break):
                pieces.append(None)
            else:
                pieces.append(len(texts))
                texts.append(piece.text)
                weights.append(piece.weight)
    tokenized = tokenize(texts) if texts else []

    chunks: list[Chunk] = []
    current: list[Token] = []
    after_comma: int | None = None  # position after the last comma in the current chunk

    def end_chunk(length: int | None = None) -> None:
        nonlocal current, after_comma
        length = len(current) if length is None else length
        chunks.append(Chunk(tuple(current[:length])))
        current = current[length:]
        after_comma = None

    for piece_index in pieces:
        if piece_index is None:
            end_chunk()
            continue
        ids, weight = tokenized[piece_index], weights[piece_index]
        position = 0
        while position < len(ids):
            token = ids[position]
            match = find_embedding(ids, position)
            near = after_comma is not None and len(current) - after_comma < comma_backtrack
            if near and len(current) == chunk_tokens and token != comma:
                end_chunk(after_comma)
            if len(current) + (match.vectors if match else 1) > chunk_tokens:
                end_chunk()
            if match is None:
                current.append(Token(token, weight))
                position += 1
                if token == comma:
                    after_comma = len(current)
            else:
                current += (Token(0, weight, (match.name, index)) for index in range(match.vectors))
                position += match.ids
    if current or not chunks:
        end_chunk()
    return chunks
