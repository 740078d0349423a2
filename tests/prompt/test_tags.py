"""AND, network tags and comments: what is read before the weights."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.prompt import (
    LoraWeights,
    NetworkTag,
    SubPrompt,
    extract_networks,
    extract_networks_of_batch,
    lora_weights,
    split_composition,
    strip_comments,
)
from service.prompt.attention import MAX_WEIGHT

HOSTILE = st.text(alphabet="<>:=#ANDlora.0123456789- \n\ud800", max_size=40)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("cat", [SubPrompt("cat")]),
        ("cat :1.2 AND dog", [SubPrompt("cat", 1.2), SubPrompt(" dog")]),
        ("a AND b:-.5 AND c : 2.", [SubPrompt("a "), SubPrompt(" b", -0.5), SubPrompt(" c", 2.0)]),
        ("a AND (b:1.3)", [SubPrompt("a "), SubPrompt(" (b:1.3)")]),
        ("a AND", [SubPrompt("a "), SubPrompt("")]),
        ("SAND and LAND", [SubPrompt("SAND and LAND")]),
        ("a AND b:c", [SubPrompt("a "), SubPrompt(" b:c")]),
        ("format 4:3", [SubPrompt("format 4", 3.0)]),
        ("format 4:3.", [SubPrompt("format 4", 3.0)]),
        ("format 4:3 wide", [SubPrompt("format 4:3 wide")]),
    ],
)
def test_composition(prompt: str, expected: list[SubPrompt]) -> None:
    assert split_composition(prompt) == expected


def test_networks_are_taken_out_in_order() -> None:
    text, tags = extract_networks("a <lora:ink:0.5> cat <hypernet:x:1><lora:b:te=.3:unet=0>.")
    assert text == "a  cat ."
    assert tags == [
        NetworkTag("lora", ("ink", "0.5")),
        NetworkTag("hypernet", ("x", "1")),
        NetworkTag("lora", ("b",), {"te": ".3", "unet": "0"}),
    ]


@pytest.mark.parametrize(
    "text", ["a < b > c", "<3", "<lora>", "<lora:", "<:x>", "1 <2:", "<lora:>", "<|endoftext|>"]
)
def test_what_is_no_tag_stays(text: str) -> None:
    assert extract_networks(text) == (text, [])


def test_only_the_first_prompt_of_a_batch_brings_networks() -> None:
    texts, tags = extract_networks_of_batch(["a<lora:x:1>", "b<lora:y:1>"])
    assert texts == ["a", "b"]
    assert [tag.name for tag in tags] == ["x"]
    assert extract_networks_of_batch([]) == ([], [])


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("<lora:x>", LoraWeights("x", 1.0, 1.0)),
        ("<lora:x:0.5>", LoraWeights("x", 0.5, 0.5)),
        ("<lora:x:0.5:-1>", LoraWeights("x", 0.5, -1.0)),
        ("<lora:x:1:1:8>", LoraWeights("x", 1.0, 1.0, 8)),
        ("<lora:x:te=.2:unet=.3:dyn=4>", LoraWeights("x", 0.2, 0.3, 4)),
        ("<lora:x:.7:unet=.3>", LoraWeights("x", 0.7, 0.3)),
        ("<lora:x:unet=.3>", LoraWeights("x", 1.0, 0.3)),
        ("<lora:x:strong>", LoraWeights("x", 1.0, 1.0)),
        ("<lora:x:nan:inf>", LoraWeights("x", 1.0, 1.0)),
        ("<lora:te=1>", LoraWeights("", 1.0, 1.0)),
    ],
)
def test_lora_weights(tag: str, expected: LoraWeights) -> None:
    assert lora_weights(extract_networks(tag)[1][0]) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("no comment", "no comment"),
        ("cat # a note", "cat"),
        ("# title\ncat", "cat"),
        ("cat\n# note\ndog", "cat\ndog"),
        ("cat # x\n\n  dog", "cat\n\n  dog"),
        ("#", ""),
        ("a\n  #b", "a"),
    ],
)
def test_comments(prompt: str, expected: str) -> None:
    assert strip_comments(prompt) == expected


@given(HOSTILE)
def test_no_text_raises(text: str) -> None:
    assert "#" not in strip_comments(text)
    left, tags = extract_networks(text)
    assert len(left) <= len(text)
    for tag in tags:
        lora_weights(tag)
    parts = split_composition(text)
    assert all(abs(part.weight) <= MAX_WEIGHT for part in parts)
    if len(parts) == 1:
        assert text.startswith(parts[0].text)


@pytest.mark.parametrize(
    "unit", ["<a:", "<", "<lora:x>", "<lora:x", " AND ", " :", "#", "# \n", "AND:1 ", " "]
)
def test_long_texts_do_not_stall(unit: str) -> None:
    text = unit * 100_000
    assert len(strip_comments(text)) <= len(text)
    assert len(extract_networks(text)[0]) <= len(text)
    assert split_composition(text)
