"""Which numbers and strings exist: what is refused with the name of its field, and that the rest comes back."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api import values

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)  # fmt: skip


@given(JSON)
def test_what_exists_comes_through_as_it_is(value: Any) -> None:
    assert values.loads(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("text", "path", "why"),
    [
        ('{"a": {"width": NaN}}', ("a", "width"), "finite"),
        ('{"width": -Infinity}', ("width",), "finite"),
        ('{"width": 1e400}', ("width",), "finite"),
        ('{"list": [1, "\\ud800"]}', ("list", 1), "surrogate"),
        ('{"a": {"\\udfff": 1}}', ("a",), "surrogate"),
        ('{"a": 18446744073709551615}', ("a",), "whole number"),
        ('{"a": %s}' % ("9" * 400), ("a",), "whole number"),
        ("[" * 900 + "]" * 900, (0, 0, 0), "levels deep"),
        ("[" * 100_000, (), "levels deep"),
        ('{"a":' * 5000 + "1" + "}" * 5000, (), "levels deep"),
        ('{"a": 1', (), "JSON decode error"),
        ("", (), "JSON decode error"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(text: str, path: tuple[str | int, ...], why: str) -> None:
    with pytest.raises(values.Unacceptable) as raised:
        values.loads(text.encode("utf-8", "surrogatepass"))
    assert why in raised.value.why
    if path:
        assert raised.value.path == path


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "", "x", "9" * 5000])
def test_a_text_that_is_no_finite_number(text: str) -> None:
    with pytest.raises(ValueError):
        values.finite(text)


@given(st.text() | st.integers().map(str) | st.floats().map(str))
def test_a_whole_number_is_one_of_64_bits_or_none(text: str) -> None:
    try:
        value = values.whole(text)
    except ValueError:
        return
    assert values.SMALLEST_INT <= value <= values.LARGEST_INT
    assert math.trunc(float(text)) == value or abs(value) > 2**53
