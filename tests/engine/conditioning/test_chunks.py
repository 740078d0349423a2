"""How prompts are cut into chunks of tokens."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.conditioning.chunks import CHUNK_TOKENS, Chunk, Match, split_into_chunks

COMMA = 0
NAME = (900, 901)


def tokenize(texts: Sequence[str]) -> list[list[int]]:
    """One token a word; commas are words, "w12" has id 12."""
    return [
        [COMMA if word == "," else int(word[1:]) for word in text.replace(",", " , ").split()]
        for text in texts
    ]


def find(ids: Sequence[int], position: int) -> Match | None:
    """ "w900 w901" names an embedding of three vectors."""
    return Match("style", 2, 3) if tuple(ids[position : position + 2]) == NAME else None


def cut(prompt: str, comma_backtrack: int = 20) -> list[Chunk]:
    return split_into_chunks(
        prompt, tokenize, comma=COMMA, comma_backtrack=comma_backtrack, find_embedding=find
    )


def ids(chunk: Chunk) -> list[int]:
    return [token.id for token in chunk.tokens]


def words(first: int, last: int) -> str:
    return " ".join(f"w{number}" for number in range(first, last + 1))


def test_an_empty_prompt_is_one_empty_chunk() -> None:
    assert cut("") == [Chunk()]


@pytest.mark.parametrize(
    ("count", "lengths"), [(1, [1]), (75, [75]), (76, [75, 1]), (150, [75, 75]), (151, [75, 75, 1])]
)
def test_a_chunk_holds_75_tokens(count: int, lengths: list[int]) -> None:
    chunks = cut(words(1, count))
    assert [len(chunk.tokens) for chunk in chunks] == lengths
    assert [number for chunk in chunks for number in ids(chunk)] == list(range(1, count + 1))


def test_what_follows_a_late_comma_moves_to_the_next_chunk() -> None:
    chunks = cut(f"{words(1, 69)}, {words(70, 80)}")
    assert [len(chunk.tokens) for chunk in chunks] == [70, 11]
    assert ids(chunks[0])[-1] == COMMA
    assert ids(chunks[1])[0] == 70


@pytest.mark.parametrize(("comma_at", "moves"), [(54, False), (55, True), (73, True), (74, False)])
def test_only_a_comma_in_reach_counts(comma_at: int, moves: bool) -> None:
    """The comma at position 54 is 21 tokens before the end, that at 74 is the last of its chunk anyway."""
    chunks = cut(f"{words(1, comma_at)}, {words(comma_at + 1, 90)}")
    assert len(chunks[0].tokens) == (comma_at + 1 if moves else 75)


def test_no_backtracking_when_it_is_off_or_when_the_chunk_is_just_full() -> None:
    assert len(cut(f"{words(1, 69)}, {words(70, 80)}", comma_backtrack=0)[0].tokens) == 75
    assert [len(chunk.tokens) for chunk in cut(f"{words(1, 69)}, {words(70, 74)}")] == [75]


def test_a_comma_as_76th_token_begins_the_next_chunk() -> None:
    chunks = cut(f"{words(1, 60)}, {words(61, 74)}, {words(75, 76)}")
    assert [len(chunk.tokens) for chunk in chunks] == [75, 3]
    assert ids(chunks[1]) == [COMMA, 75, 76]


def test_a_comma_counts_in_its_own_chunk_only() -> None:
    chunks = cut(f"{words(1, 69)}, {words(70, 160)}")
    assert [len(chunk.tokens) for chunk in chunks] == [70, 75, 16]


def test_break_ends_a_chunk() -> None:
    assert [ids(chunk) for chunk in cut("w1 BREAK w2")] == [[1], [2]]
    assert [ids(chunk) for chunk in cut("w1 BREAK BREAK w2")] == [[1], [], [2]]
    assert [ids(chunk) for chunk in cut("w1 BREAK")] == [[1]]
    assert [ids(chunk) for chunk in cut("BREAK w1")] == [[], [1]]


def test_weights_reach_their_tokens() -> None:
    (chunk,) = cut("w1 (w2 w3:1.5) w4")
    assert [token.weight for token in chunk.tokens] == [1, 1.5, 1.5, 1]


def test_literal_prompts_have_neither_weights_nor_breaks() -> None:
    seen: list[str] = []

    def record(texts: Sequence[str]) -> list[list[int]]:
        seen.extend(texts)
        return [[1] for _ in texts]

    assert len(split_into_chunks("(a:1.5) BREAK b", record, comma=None, literal=True)) == 1
    assert seen == ["(a:1.5) BREAK b"]


def test_an_embedding_takes_a_token_for_each_vector() -> None:
    (chunk,) = cut("w1 (w900 w901:1.2) w2")
    assert [token.vector for token in chunk.tokens] == [None, ("style", 0), ("style", 1), ("style", 2), None]
    assert [token.weight for token in chunk.tokens] == [1, 1.2, 1.2, 1.2, 1]


@pytest.mark.parametrize("before", [72, 73, 74, 75])
def test_an_embedding_is_never_split(before: int) -> None:
    chunks = cut(f"{words(1, before)} w900 w901")
    assert [len(chunk.tokens) for chunk in chunks] == ([75] if before == 72 else [before, 3])
    assert sum(token.vector is not None for token in chunks[-1].tokens) == 3


def test_an_embedding_moves_with_the_words_after_a_comma() -> None:
    chunks = cut(f"{words(1, 70)}, w900 w901 w2 w3")
    assert [len(chunk.tokens) for chunk in chunks] == [71, 5]
    assert [token.vector for token in chunks[1].tokens[:3]] == [("style", 0), ("style", 1), ("style", 2)]


@given(
    st.lists(st.sampled_from(["w1", "w2", ",", "w900 w901", "BREAK", "(", ")", "w3:1.2)"]), max_size=300),
    st.integers(0, 80),
)
def test_chunks_hold_all_tokens_in_order(parts: list[str], comma_backtrack: int) -> None:
    prompt = " ".join(parts).replace("w3:1.2)", "w3)")
    chunks = split_into_chunks(
        prompt,
        lambda texts: [
            [COMMA if w == "," else int(w[1:]) for w in text.replace(",", " , ").replace(")", " ").split()]
            for text in texts
        ],
        comma=COMMA,
        comma_backtrack=comma_backtrack,
        find_embedding=find,
    )
    assert all(len(chunk.tokens) <= CHUNK_TOKENS for chunk in chunks)
    flat = [token for chunk in chunks for token in chunk.tokens]
    plain = [token.id for token in flat if token.vector is None and token.id not in NAME]
    expected = [
        {"w1": 1, "w2": 2, ",": COMMA, "w3:1.2)": 3}[p] for p in parts if p in ("w1", "w2", ",", "w3:1.2)")
    ]
    assert plain == expected
    vectors = [token.vector[1] for token in flat if token.vector]
    assert vectors == [0, 1, 2] * (len(vectors) // 3)
