"""Slices, capacity, balancing: what throttler_test.go and lb_policy_test.go of knative/serving expect."""

from dataclasses import dataclass, field

import pytest

from loadtest.simulate.activator import (
    MAX_CAPACITY,
    ConnectionPool,
    FirstAvailable,
    Place,
    RoundRobin,
    Target,
    Throttler,
    assign_slice,
    calculate_capacity,
    pick_indices,
)


@dataclass
class _Pod:
    address: int
    gone: bool = False


@dataclass(eq=False)
class _Request:
    place: Place | None = None


@dataclass
class _Sent:
    """Collects what a throttler sends, as (request, address of the pod or None)."""

    log: list[tuple[_Request, int | None]] = field(default_factory=list)

    def __call__(self, request: _Request, target: Target | None) -> None:
        self.log.append((request, target.address if target else None))

    @property
    def addresses(self) -> list[int | None]:
        return [address for _, address in self.log]


@pytest.mark.parametrize(
    ("pods", "activators", "index", "want"),
    [
        (1, 1, 0, (0, 1, 0)),
        (1, 2, 0, (0, 1, 0)),
        (1, 2, 1, (0, 1, 0)),
        (2, 3, 1, (1, 2, 0)),
        (2, 3, 2, (0, 1, 0)),
        (3, 3, 2, (2, 3, 0)),
        (10, 3, 0, (0, 3, 1)),
        (10, 3, 1, (3, 6, 1)),
        (10, 3, 2, (6, 9, 1)),
        (150, 5, 0, (0, 30, 0)),
        (150, 5, 1, (30, 60, 0)),
        (150, 5, 4, (120, 150, 0)),
    ],
)
def test_pick_indices(pods: int, activators: int, index: int, want: tuple[int, int, int]) -> None:
    assert pick_indices(pods, index, activators) == want


@pytest.mark.parametrize(
    ("pods", "index", "activators", "want"),
    [
        ("", 0, 1, ""),
        ("123", 1, 1, "123"),
        ("123", -1, 1, "123"),
        ("123", 1, 3, "2"),
        ("1", 1, 3, "1"),
        ("123", 1, 2, "2"),
        ("123", 0, 2, "13"),  # the remnant goes to one activator alone
    ],
)
def test_assign_slice(pods: str, index: int, activators: int, want: str) -> None:
    assert assign_slice(list(pods), index, activators) == list(want)


def test_slices_share_nothing_and_leave_nothing() -> None:
    for pods in range(1, 40):
        for activators in range(1, pods + 1):
            slices = [assign_slice(range(pods), i, activators) for i in range(activators)]
            assert sorted(p for s in slices for p in s) == list(range(pods))


@pytest.mark.parametrize(
    ("concurrency", "backends", "places", "activators", "want"),
    [
        (10, 1, 0, 0, 10),
        (10, 10, 0, 0, 100),
        (10, 100, 0, 0, 1000),
        (10, 10, 0, 5, 20),
        (10, 10, 0, 200, 1),
        (10, 0, 0, 200, 0),
        (10, 0, 1, 1, 10),
        (10, 2, 2, 1, 20),
        (0, 1, MAX_CAPACITY + 5, 1, MAX_CAPACITY),
    ],
)
def test_calculate_capacity(concurrency: int, backends: int, places: int, activators: int, want: int) -> None:
    assert calculate_capacity(concurrency, backends, places, activators) == want


@pytest.mark.parametrize(
    ("pods", "concurrency", "index", "activators", "want"),
    [
        (2, 10, 0, 2, 10),
        (3, 10, 0, 2, 20),
        (3, 10, 1, 2, 10),
        (5, 1, 0, 2, 3),
        (5, 1, 1, 2, 2),
        (1, 10, 0, 1, 10),
    ],
)
def test_update_sets_the_capacity_of_the_slice(
    pods: int, concurrency: int, index: int, activators: int, want: int
) -> None:
    throttler: Throttler[_Request] = Throttler(concurrency, _Sent())
    throttler.update([_Pod(i) for i in range(pods)], pods, index, activators)
    assert throttler.breaker.capacity == want


def test_round_robin_skips_the_busy_and_starts_again() -> None:
    policy = RoundRobin()
    assert [policy.pick(0b111, 3), policy.pick(0b110, 3)] == [0, 1]
    assert policy.pick(0b1, 1) == 0  # fewer targets than before
    assert policy.pick(0b101, 3) == 2
    assert policy.pick(0b011, 3) == 0
    assert policy.pick(0b001, 3) == 0


def test_first_available_packs() -> None:
    assert [FirstAvailable().pick(free, 3) for free in (0b111, 0b110, 0b100)] == [0, 1, 2]


def test_low_concurrency_fills_pods_in_address_order_and_queues() -> None:
    sent = _Sent()
    throttler: Throttler[_Request] = Throttler(1, sent)
    requests = [_Request() for _ in range(5)]
    for request in requests:
        assert throttler.offer(request)
    assert sent.log == []
    assert throttler.waiting == 5
    throttler.update([_Pod(7), _Pod(3)], 2, 0, 1)
    assert sent.addresses == [3, 7]
    throttler.done(requests[1])
    assert sent.addresses == [3, 7, 7]
    throttler.done(requests[0])
    assert sent.addresses == [3, 7, 7, 3]
    assert [r for r, _ in sent.log] == requests[:4]  # first come, first served


def test_high_concurrency_goes_round() -> None:
    sent = _Sent()
    throttler: Throttler[_Request] = Throttler(4, sent)
    throttler.update([_Pod(1), _Pod(2), _Pod(3)], 3, 0, 1)
    for _ in range(6):
        throttler.offer(_Request())
    assert sent.addresses == [1, 2, 3, 1, 2, 3]


def test_a_pod_that_leaves_and_comes_back_starts_empty() -> None:
    """The activator forgets what a pod was doing when it flickers: a second request goes to a busy pod."""
    sent = _Sent()
    throttler: Throttler[_Request] = Throttler(1, sent)
    throttler.update([_Pod(1), _Pod(2)], 2, 0, 1)
    throttler.offer(_Request())
    throttler.update([_Pod(2)], 1, 0, 1)
    throttler.update([_Pod(1), _Pod(2)], 2, 0, 1)
    throttler.offer(_Request())
    assert sent.addresses == [1, 1]


def test_no_more_than_the_remaining_pods_can_take() -> None:
    sent = _Sent()
    throttler: Throttler[_Request] = Throttler(1, sent)
    throttler.update([_Pod(1), _Pod(2)], 2, 0, 1)
    first, second, third = _Request(), _Request(), _Request()
    for request in (first, second, third):
        throttler.offer(request)
    throttler.update([_Pod(1)], 1, 0, 1)
    throttler.done(second)  # on the pod that went: one is still running, and one is the capacity
    assert sent.addresses == [1, 2]
    throttler.done(first)
    assert sent.addresses == [1, 2, 1]


def test_withdrawn_requests_are_never_sent() -> None:
    sent = _Sent()
    throttler: Throttler[_Request] = Throttler(1, sent)
    gone, stays = _Request(), _Request()
    throttler.offer(gone)
    throttler.offer(stays)
    assert throttler.withdraw(gone)
    assert not throttler.withdraw(gone)
    throttler.update([_Pod(1), _Pod(2)], 2, 0, 1)
    assert [r for r, _ in sent.log] == [stays]


def test_over_the_cluster_ip_only_ready_pods_are_counted() -> None:
    sent = _Sent()
    throttler: Throttler[_Request] = Throttler(1, sent, cluster_ip=True)
    requests = [_Request() for _ in range(4)]
    for request in requests:
        throttler.offer(request)
    throttler.update([], 3, 0, 1)
    assert sent.addresses == [None] * 3
    throttler.done(requests[0])
    assert [r for r, _ in sent.log] == requests


def test_connections_stay_with_their_pod() -> None:
    dialled = iter([_Pod(1), _Pod(2), _Pod(3)])
    pool: ConnectionPool[_Pod] = ConnectionPool(lambda: next(dialled))
    first, second = pool.take(0.0), pool.take(0.0)
    assert first is not None
    assert second is not None
    pool.give_back(first, 1.0)
    pool.give_back(second, 2.0)
    assert pool.take(3.0) is second  # the newest idle one
    pool.give_back(second, 4.0)
    second.gone = True
    assert pool.take(5.0) is first
    pool.give_back(first, 6.0)
    third = pool.take(96.0)  # idle for 90 s: closed
    assert third is not None
    assert third.address == 3
