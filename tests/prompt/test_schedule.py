"""Editing and alternation: which text holds at which step."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.prompt import schedule

HOSTILE = st.text(alphabet="()[]:|\\.0123456789-+e abc\n\ud800", max_size=40)


def texts(prompt: str, steps: int = 10, hires_steps: int | None = None) -> list[tuple[int, str]]:
    return [(entry.until, entry.text) for entry in schedule(prompt, steps, hires_steps)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("test", [(10, "test")]),
        ("", [(10, "")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3 ]", [(3, "a "), (10, "a b")]),
        ("[cat:dog:4]", [(4, "cat"), (10, "dog")]),
        ("[cat::4] runs", [(4, "cat runs"), (10, " runs")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("a [b:0.25] c", [(2, "a  c"), (10, "a b c")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("x [[[y]]:2]", [(2, "x "), (10, "x [[y]]")]),
        ("p [q : r : 1] s", [(1, "p q  s"), (10, "p  r  s")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("([cat:dog:3]:1.2)", [(3, "(cat:1.2)"), (10, "(dog:1.2)")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        (r"\[a:b:3\]", [(10, r"\[a:b:3\]")]),
    ],
)
def test_editing(prompt: str, expected: list[tuple[int, str]]) -> None:
    assert texts(prompt) == expected


@pytest.mark.parametrize("when", ["0", "0.05", "-3", "-.5"])
def test_a_change_before_the_first_step_holds_from_the_start(when: str) -> None:
    assert texts(f"[a:b:{when}]") == [(10, "b")]


@pytest.mark.parametrize("when", ["10", "1.0", "11", "99999", "1.5", "1e9", "1.0e999"])
def test_a_change_after_the_last_step_never_comes(when: str) -> None:
    assert texts(f"[a:b:{when}]") == [(10, "a")]


@pytest.mark.parametrize(
    "prompt",
    ["a [unbalanced", "a:b", "[a:b:c]", "[a:b:c:3]", "(a", "]x[", "[less]", "(more:1.3)", "[x:]", "[:]"],
)
def test_what_makes_no_form_is_text(prompt: str) -> None:
    assert texts(prompt) == [(10, prompt)]


def test_forms_beside_a_bracket_that_makes_none_still_count() -> None:
    assert texts("[a:b:c] [d:3]") == [(3, "[a:b:c] "), (10, "[a:b:c] d")]
    assert texts("[(a:b:c):x:3]") == [(10, "[(a:b:c):x:3]")]
    assert texts("(x [a:b:3]") == [(3, "(x a"), (10, "(x b")]


@pytest.mark.parametrize("prompt", ["red | blue [a:b:3]", "(a|b) [a:b:3]", "[a|b:.5] [a:b:3]", "[a|b"])
def test_a_stray_bar_turns_editing_off(prompt: str) -> None:
    assert texts(prompt) == [(10, prompt)]


def test_alternation_changes_with_every_step() -> None:
    assert texts("[a|b|c]", steps=4) == [(1, "a"), (2, "b"), (3, "c"), (4, "a")]


def test_alternation_may_have_empty_options_and_nest() -> None:
    assert texts("[fe|]male", steps=3) == [(1, "female"), (2, "male"), (3, "female")]
    assert texts("[fe|||]male", steps=5) == [(1, "female"), (4, "male"), (5, "female")]
    assert texts("[a|[b|c]]", steps=4) == [(1, "a"), (2, "c"), (3, "a"), (4, "c")]
    assert texts("[[a|b]:x:2]", steps=3) == [(1, "a"), (2, "b"), (3, "x")]


@pytest.mark.parametrize(
    ("prompt", "first", "second"),
    [
        ("[a:b:.5]", [(5, "a"), (10, "b")], [(8, "b")]),
        ("[a:b:1.5]", [(10, "a")], [(4, "a"), (8, "b")]),
        ("[a:b:3]", [(3, "a"), (10, "b")], [(8, "b")]),
        ("[a:b:12]", [(10, "a")], [(2, "a"), (8, "b")]),
        ("[a:b:99]", [(10, "a")], [(8, "a")]),
    ],
)
def test_both_passes_of_hires_fix(
    prompt: str, first: list[tuple[int, str]], second: list[tuple[int, str]]
) -> None:
    assert texts(prompt, 10) == first
    assert texts(prompt, 10, 8) == second


@given(HOSTILE, st.integers(1, 40), st.none() | st.integers(1, 40))
def test_every_prompt_has_a_schedule(prompt: str, steps: int, hires_steps: int | None) -> None:
    entries = schedule(prompt, steps, hires_steps)
    assert entries[-1].until == (hires_steps or steps)
    assert all(a.until < b.until and a.text != b.text for a, b in pairwise(entries))


@given(HOSTILE.filter(lambda text: not set(text) & set("[|")))
def test_a_prompt_without_forms_is_read_as_it_is_written(prompt: str) -> None:
    assert texts(prompt) == [(10, prompt)]


@pytest.mark.parametrize(
    "prompt",
    [
        "(" * 100_000,
        "[" * 100_000,
        "[a:" * 100_000,
        "[a|" * 50_000,
        "(" * 50_000 + "a" + ")" * 50_000,
        "[" * 50_000 + "a" + ":1]" * 50_000,
        "[b:" * 50_000 + "a" + ":1]" * 50_000,
        "[b|" * 10_000 + "a" + "]" * 10_000,
        "][" * 50_000,
        ":" * 100_000,
        "\\" * 99_999,
        "[a:1" + " " * 100_000 + "x]",
        "[a:" + "1" * 100_000 + "x]",
        "[a:b:3]" * 20_000,
    ],
)
def test_hostile_prompts_neither_recurse_nor_stall(prompt: str) -> None:
    assert schedule(prompt, 20)
