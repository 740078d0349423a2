"""The breaker: the expectations of knative/serving's breaker_test.go."""

import pytest

from loadtest.simulate.breaker import Admission, Breaker


@pytest.mark.parametrize(("depth", "most", "initial"), [(0, 1, 1), (1, -1, 1), (1, 1, -1), (1, 5, 6)])
def test_impossible_breakers(depth: int, most: int, initial: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        Breaker(depth, most, initial)


def test_reserve_overload() -> None:
    b: Breaker[str] = Breaker(1, 1, 1)
    assert b.reserve()
    assert not b.reserve()
    b.release()
    assert b.reserve()


def test_reserve_beside_a_running_request() -> None:
    b: Breaker[str] = Breaker(1, 1, 1)
    assert b.offer("a") is Admission.RUN
    assert not b.reserve()
    b.release()
    assert b.reserve()


def test_overload() -> None:
    b: Breaker[str] = Breaker(1, 1, 1)
    assert [b.offer(x) for x in "abc"] == [Admission.RUN, Admission.WAIT, Admission.FULL]
    assert b.release() == "b"
    assert b.release() is None


def test_eleven_inside_the_twelfth_is_refused() -> None:
    b: Breaker[int] = Breaker(10, 1, 1)
    answers = [b.offer(i) for i in range(12)]
    assert answers == [Admission.RUN] + [Admission.WAIT] * 10 + [Admission.FULL]


def test_queueing_until_there_is_capacity() -> None:
    b: Breaker[str] = Breaker(1, 1, 0)
    assert [b.offer(x) for x in "ab"] == [Admission.WAIT, Admission.WAIT]
    assert b.resize(1) == ["a"]
    assert b.release() == "b"


def test_no_overload_when_places_free_up() -> None:
    b: Breaker[str] = Breaker(1, 1, 1)
    b.offer("a")
    b.offer("b")
    for newcomer, woken in zip("cd", "bc", strict=True):
        assert b.release() == woken
        assert b.offer(newcomer) is Admission.WAIT
    assert b.release() == "d"
    assert b.release() is None


def test_cancel() -> None:
    b: Breaker[str] = Breaker(1, 1, 0)
    for waiter in "ab":
        b.offer(waiter)
        assert b.withdraw(waiter)
    b.resize(1)
    assert [b.offer(x) for x in "cde"] == [Admission.RUN, Admission.WAIT, Admission.FULL]
    assert not b.withdraw("e")
    assert b.release() == "d"


def test_update_concurrency() -> None:
    b: Breaker[str] = Breaker(1, 3, 0)
    for capacity in (1, 0, 3):
        b.resize(capacity)
        assert b.capacity == capacity


def test_less_capacity_than_running_wakes_nobody() -> None:
    b: Breaker[str] = Breaker(5, 2, 2)
    for x in "abc":
        b.offer(x)
    b.resize(1)
    assert b.release() is None
    assert b.release() == "c"


def test_release_without_admission() -> None:
    with pytest.raises(RuntimeError, match="released more"):
        Breaker[str](1, 1, 1).release()
