"""Sessions are bounded by bytes: ids cost nothing to make up, what they keep does."""

import pytest

from service.core.errors import BadRequest
from service.state.sessions import LARGEST, Sessions


def test_all_sessions_together_stay_below_their_bytes() -> None:
    counts: list[int] = []
    sessions = Sessions(60, 10_000, counts.append, most_bytes=1_000_000)
    for number in range(300):
        sessions.update(f"{number:022}", {"outdir": "x" * 50_000})
    assert len(sessions) == counts[-1] < 20
    assert sessions.options(f"{299:022}"), "the newest stays"
    for number in range(300):  # the same ones again: what is replaced is not counted twice
        sessions.update(f"{299:022}", {"outdir": "y" * 50_000, "number": number})
    assert len(sessions) == counts[-1]


def test_one_session_is_bounded_whatever_it_adds_up() -> None:
    sessions = Sessions(60, 10)
    for number in range(4):
        sessions.update("a" * 22, {f"option{number}": "x" * 50_000})
    with pytest.raises(BadRequest, match="bytes"):
        sessions.update("a" * 22, {"another": "x" * 70_000})
    assert sum(len(value) for value in sessions.options("a" * 22).values()) <= LARGEST


def test_sessions_that_end_give_their_bytes_back() -> None:
    now = [0.0]
    sessions = Sessions(60, 10_000, clock=lambda: now[0], most_bytes=200_000)
    for number in range(1000):
        now[0] += 30
        sessions.update(f"{number:022}", {"outdir": "x" * 50_000})
    assert 1 <= len(sessions) <= 3
