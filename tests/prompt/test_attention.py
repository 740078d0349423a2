"""Weights, nesting, escapes and breaks of the prompt grammar."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.prompt import Break, Span, parse_attention
from service.prompt.attention import MAX_WEIGHT

HOSTILE = st.text(alphabet="()[]:\\.0123456789-+ abBREAK\n|<>#\x00\ud800é", max_size=60)


def weights(prompt: str) -> list[tuple[str, float]]:
    """The spans of a prompt that has no BREAK, with weights rounded beyond float noise."""
    return [(p.text, round(p.weight, 6)) for p in parse_attention(prompt) if isinstance(p, Span)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("[less", [("less", round(1 / 1.1, 6))]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        (r"back\\slash", [("back\\slash", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("((twice))", [("twice", 1.21)]),
        ("(x:1.3)", [("x", 1.3)]),
        ("(x:-0.5) (y:.5)", [("x", -0.5), (" ", 1.0), ("y", 0.5)]),
        ("(x: 1.3 )", [("x", 1.3)]),
        ("[x:1.3]", [("x:1.3", round(1 / 1.1, 6))]),
        ("(a:0)", [("a", 0.0)]),
        ("never ) opened ]", [("never ) opened ]", 1.0)]),
        ("x:1.3)", [("x:1.3)", 1.0)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1.0), (" c", round(1 / 1.1, 6))]),
        ("a:b", [("a:b", 1.0)]),
        ("", [("", 1.0)]),
        ("()", [("", 1.0)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
    ],
)
def test_reference_pairs(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert weights(prompt) == expected


def test_a_number_that_is_none_is_text() -> None:
    assert weights("(x:1.2.3)") == [("x:1.2.3", 1.1)]


def test_break_ends_a_chunk_and_takes_its_white_space_along() -> None:
    assert parse_attention("red cat  BREAK\n dog") == [Span("red cat"), Break(), Span("dog")]


def test_break_counts_inside_brackets_too() -> None:
    assert parse_attention("(a BREAK b:1.2)") == [Span("a", 1.2), Break(), Span("b", 1.2)]


@pytest.mark.parametrize("text", ["BREAKFAST", "break", "OUTBREAK", "BREAK_"])
def test_only_the_word_breaks(text: str) -> None:
    assert parse_attention(text) == [Span(text)]


@pytest.mark.parametrize(
    "prompt", ["(" * 10_000 + "x", "[" * 10_000 + "x", "(x:999999)", "(x:" + "9" * 500 + ")"]
)
def test_weights_stay_finite(prompt: str) -> None:
    assert all(abs(weight) <= MAX_WEIGHT for _, weight in weights(prompt))


def test_zero_inside_ten_thousand_brackets_is_zero() -> None:
    assert weights("(" * 10_000 + "(x:0)" + ")" * 10_000) == [("x", 0.0)]


@pytest.mark.parametrize(
    "unit",
    ["(", "[", ")", "]", "(a", "(a:", "\\", ":", ": ", " ", "1", ":1", "BREAK ", "(a:1)", "][", "[a:b:3]"],
)
def test_time_grows_with_the_length_alone(unit: str) -> None:
    """Of a hundred thousand repetitions none is dropped; a quadratic parser would not come back."""
    assert parse_attention(unit * 100_000)


@given(HOSTILE)
def test_no_prompt_raises(prompt: str) -> None:
    pieces = parse_attention(prompt)
    assert pieces
    for one, next_one in pairwise(pieces):
        assert not (isinstance(one, Span) and isinstance(next_one, Span) and one.weight == next_one.weight)


@given(HOSTILE)
def test_nothing_but_syntax_is_lost(prompt: str) -> None:
    """The letters of the prompt come back in order, but for the words BREAK."""
    text = "".join(p.text for p in parse_attention(prompt) if isinstance(p, Span))
    kept = re.sub(r"\bBREAK\b", "", prompt)
    assert "".join(c for c in text if c in "abé") == "".join(c for c in kept if c in "abé")


def written(spans: list[Span]) -> str:
    """A prompt that asks for ``spans``."""
    escaped = [re.sub(r"([()\[\]\\])", r"\\\1", span.text) for span in spans]
    return "".join(f"({text}:{span.weight})" for text, span in zip(escaped, spans, strict=True))


@given(
    st.lists(
        st.builds(
            Span,
            st.text(alphabet="ab ,()[]\\é", min_size=1, max_size=8),
            st.floats(-MAX_WEIGHT, MAX_WEIGHT).map(lambda weight: round(weight, 3)),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_weights_round_trip(spans: list[Span]) -> None:
    merged = [spans[0]]
    for span in spans[1:]:
        if span.weight == merged[-1].weight:
            merged[-1] = Span(merged[-1].text + span.text, span.weight)
        else:
            merged.append(span)
    assert parse_attention(written(merged)) == merged
