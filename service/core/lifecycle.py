"""What the process is doing, and what each probe answers meanwhile.

::

    STARTING ──> LOADING ──> READY <──> BUSY
        │           │          │         │
        │           │       │  ∧         │
        │           │       v  │         │
        │           │      ASLEEP ──────>┤        (the weights have left the device; a request wakes them)
        └───────────┴──> FAILED│         │        (any state but DRAINING can fail)
                               └─────────┴──> DRAINING ──> exit

A failed load leaves a process that says why. Liveness fails only when the process can never work again without
a restart: the CUDA context is poisoned.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from service.core.errors import DeviceLost, Draining, ModelLoadError, NotReady, ServiceError


class State(Enum):
    """The states of the process."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    BUSY = "busy"
    ASLEEP = "asleep"
    DRAINING = "draining"
    FAILED = "failed"


_NEXT: Final = {
    State.STARTING: {State.LOADING, State.FAILED, State.DRAINING},
    State.LOADING: {State.READY, State.FAILED, State.DRAINING},
    State.READY: {State.BUSY, State.ASLEEP, State.FAILED, State.DRAINING},
    State.BUSY: {State.READY, State.FAILED, State.DRAINING},
    State.ASLEEP: {State.READY, State.BUSY, State.FAILED, State.DRAINING},
    State.DRAINING: set[State](),
    State.FAILED: {State.LOADING, State.DRAINING},
}


SERVING: Final = (State.READY, State.BUSY, State.ASLEEP)
"""States in which a request for images is taken."""


class InvalidTransition(RuntimeError):
    """A state cannot follow another: a mistake in this program."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a probe answers: whether it passes, and the state with its reason."""

    ok: bool
    state: State
    reason: str


class Lifecycle:
    """The one owner of the process' state. To be used from the event loop's thread."""

    def __init__(self, on_change: Callable[[State, bool], None] | None = None) -> None:
        self._state = State.STARTING
        self._reason = "The process has just started."
        self._error: ServiceError | None = None
        self._on_change = on_change

    @property
    def state(self) -> State:
        """The state now."""
        return self._state

    @property
    def reason(self) -> str:
        """A sentence about the state, for people."""
        return self._reason

    @property
    def accepts_work(self) -> bool:
        """True when a request for images would be taken now."""
        return self._state in SERVING

    def _move(self, state: State, reason: str) -> None:
        if state is self._state:
            self._reason = reason
            return
        if state not in _NEXT[self._state]:
            raise InvalidTransition(f"{self._state.name} cannot become {state.name}")
        self._state, self._reason = state, reason
        if self._on_change is not None:
            self._on_change(state, self.readiness().ok)

    def loading(self, reason: str) -> None:
        """The checkpoint is being read, or the warm-up image made; may be called again with more news."""
        self._move(State.LOADING, reason)

    def ready(self) -> None:
        """The warm-up image was made."""
        self._error = None
        self._move(State.READY, "Ready.")

    def busy(self, busy: bool) -> None:
        """A request took the device or gave it back. Ignored while draining or failed."""
        if self._state in SERVING and (busy or self._state is not State.ASLEEP):
            self._move(State.BUSY if busy else State.READY, "Making an image." if busy else "Ready.")

    def asleep(self, where: str) -> None:
        """The weights have left the device; ``where`` they are. Ignored unless nothing was to be done."""
        if self._state in (State.READY, State.ASLEEP):
            self._move(State.ASLEEP, f"Asleep: the weights are {where}, the next request brings them back.")

    def fail(self, error: ServiceError) -> None:
        """The process cannot make images; ``error`` says why and what to do."""
        self._error = error
        if self._state is not State.DRAINING:
            self._move(State.FAILED, error.detail)

    def drain(self) -> None:
        """SIGTERM: finish what runs and waits, take nothing new."""
        if self._state is not State.DRAINING:
            self._move(State.DRAINING, "The server is shutting down.")

    def readiness(self) -> Probe:
        """200 only when a request would be served: after the warm-up image, before SIGTERM."""
        return Probe(self.accepts_work, self._state, self._reason)

    def liveness(self) -> Probe:
        """Fails only when a restart is the one cure."""
        return Probe(not isinstance(self._error, DeviceLost), self._state, self._reason)

    def raise_unless_accepting(self) -> None:
        """Raise what a request for images is answered with in the present state, if it cannot be taken."""
        match self._state:
            case State.READY | State.BUSY | State.ASLEEP:
                return
            case State.DRAINING:
                raise Draining(
                    "The server is shutting down: try again, another one will answer.", retry_after=1
                )
            case State.FAILED:
                kind = DeviceLost if isinstance(self._error, DeviceLost) else ModelLoadError
                raise kind(self._reason, retry_after=30)
            case _:
                raise NotReady(f"The model is not ready yet: {self._reason}", retry_after=5)
