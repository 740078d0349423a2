"""A budget of memory for what clients send and get: bytes in flight by kind, refused beyond a total.

The device has its own accounting; this is the main memory that bodies, decoded pixels and answers take beside it. Who
asks for more than is left is refused at once (503), so that many clients together cannot do what none may do alone.
"""

import threading
from collections.abc import Callable
from typing import Final, Literal, Self, TypeAlias, get_args

from service.core.errors import MemoryFull, TooMuchMemory

Kind: TypeAlias = Literal["bodies", "pixels", "answers"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_UNLIMITED: Final = 1 << 62


class Budget:
    """``total`` bytes for all requests together. Thread-safe: pictures are decoded beside the event loop."""

    def __init__(self, total: int, on_refused: Callable[[Kind], object] = lambda kind: None) -> None:
        self._total = total
        self._on_refused = on_refused
        self._held: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self._lock = threading.Lock()

    @property
    def total(self) -> int:
        """Bytes that may be in flight."""
        return self._total

    def resize(self, total: int) -> None:
        """From now on ``total`` bytes; what is held already stays."""
        self._total = total

    def held(self, kind: Kind) -> int:
        """Bytes in flight of one kind."""
        return self._held[kind]

    def claim(self) -> "Claim":
        """What one request will take; to be closed at its end."""
        return Claim(self)

    def _take(self, kind: Kind, amount: int, mine: int) -> None:
        with self._lock:
            if mine + amount > self._total:
                self._on_refused(kind)
                raise TooMuchMemory(
                    f"The request needs more than {self._total / 1e6:,.0f} MB of memory for its {kind}, which is all "
                    "that there is for requests (SD_MEMORY_BUDGET_MB): send fewer or smaller images, or ask for fewer."
                )
            if sum(self._held.values()) + amount > self._total:
                self._on_refused(kind)
                raise MemoryFull(
                    f"The memory for requests ({self._total / 1e6:,.0f} MB, SD_MEMORY_BUDGET_MB) is in use: "
                    "try again later."
                )
            self._held[kind] += amount

    def _give_back(self, kind: Kind, amount: int) -> None:
        with self._lock:
            self._held[kind] -= amount


class Claim:
    """The bytes that one request holds, by kind. Thread-safe: a thread may still work for a request that has ended."""

    __slots__ = ("_budget", "_closed", "_held", "_lock", "peak")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held: dict[Kind, int] = {}
        self._closed = False
        self._lock = threading.Lock()
        self.peak = 0
        """The most that it held at once."""

    def take(self, kind: Kind, amount: int) -> None:
        """Hold ``amount`` bytes more. Raises :class:`MemoryFull`; :class:`TooMuchMemory` where waiting is no cure."""
        with self._lock:
            if not self._closed:
                self._budget._take(kind, amount, sum(self._held.values()))
                self._held[kind] = self._held.get(kind, 0) + amount
                self.peak = max(self.peak, sum(self._held.values()))

    def give_back(self, kind: Kind, amount: int) -> None:
        """Hold ``amount`` bytes less, or as many as there are."""
        with self._lock:
            amount = max(0, min(amount, self._held.get(kind, 0)))
            self._held[kind] = self._held.get(kind, 0) - amount
            self._budget._give_back(kind, amount)

    def close(self) -> None:
        """Hold nothing, now and later."""
        with self._lock:
            self._closed = True
            for kind, amount in self._held.items():
                self._budget._give_back(kind, amount)
            self._held = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def unlimited() -> Claim:
    """A claim that nobody counts: for work that no client asked for."""
    return Budget(_UNLIMITED).claim()
