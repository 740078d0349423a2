"""How a request is told that it is no longer wanted, or that it should go on to its next batch."""

import threading
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from service.core.errors import Cancelled, DeadlineExceeded

CANCEL_CAUSES: Final = ("disconnect", "interrupt", "deadline", "shutdown", "slow_client")
CancelCause: TypeAlias = Literal["disconnect", "interrupt", "deadline", "shutdown", "slow_client"]


class CancelToken:
    """Says once, from any thread, that one request is no longer wanted.

    The first cause wins. A token belongs to one request and is never reused, so that a cancelled request
    cannot touch the next one.
    """

    __slots__ = ("_callbacks", "_cause", "_lock", "_on_skip", "_skips")

    def __init__(self) -> None:
        self._cause: CancelCause | None = None
        self._skips = 0
        self._callbacks: list[Callable[[], object]] = []
        self._on_skip: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    def cancel(self, cause: CancelCause) -> bool:
        """Cancel with ``cause``; True for the call that did it, False if the token was cancelled before."""
        with self._lock:
            if self._cause is not None:
                return False
            self._cause = cause
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
        return True

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` (in the cancelling thread) when the token is cancelled, at once if it already is."""
        with self._lock:
            if self._cause is None:
                self._callbacks.append(callback)
                return
        callback()

    def skip(self) -> None:
        """Ask the engine to leave the running batch half-done and go on with the next one (A1111's skip)."""
        self._skips += 1
        for callback in tuple(self._on_skip):
            callback()

    def on_skip(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` (in the skipping thread) at each :meth:`skip` from now on."""
        self._on_skip.append(callback)

    @property
    def skips(self) -> int:
        """How often :meth:`skip` was called; the engine compares it with what it saw before."""
        return self._skips

    @property
    def cause(self) -> CancelCause | None:
        """Why the request was cancelled, or None while it is wanted."""
        return self._cause

    @property
    def cancelled(self) -> bool:
        """True once anybody cancelled."""
        return self._cause is not None

    def error(self) -> Cancelled | DeadlineExceeded:
        """The error that answers a request cancelled by this token."""
        match self._cause:
            case "deadline":
                return DeadlineExceeded(
                    "The request took longer than SD_REQUEST_TIMEOUT allows, counted from its arrival: "
                    "ask for fewer steps or a smaller image, or raise the limit.",
                    retry_after=10,
                )
            case "interrupt":
                return Cancelled("The request was interrupted.", cause="interrupt")
            case "shutdown":
                return Cancelled("The server was told to stop before the image was done.", cause="shutdown")
            case cause:
                return Cancelled("The client went away.", cause=cause or "disconnect")

    def raise_if_cancelled(self) -> None:
        """Raise :class:`Cancelled` or :class:`DeadlineExceeded` if the token was cancelled."""
        if self._cause is not None:
            raise self.error()
