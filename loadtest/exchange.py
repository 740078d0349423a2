"""What passes between a user and the service: the target, one request's fate, and the user's cookies."""

from dataclasses import dataclass
from typing import Literal

import httpx

Check = Literal["none", "json", "image"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go and how: all that stays the same in a run."""

    url: str
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    timeout: float = 180.0
    """Seconds from the sending of a request to its last byte, waits before retries included."""
    stream: bool = False
    check: Check = "none"
    """``json``: the answer must be JSON; ``image``: a JSON object with at least one image."""
    pod_header: str = "X-Served-By"
    cold_header: str = "X-Cold-Start"
    honour_retry_after: bool = False
    keep_alive: bool = True
    proxy: str | None = None
    verify: bool = True
    ca_file: str | None = None


@dataclass(slots=True)
class Exchange:
    """One request as its user saw it. Times are seconds since the start of the run, durations seconds."""

    number: int
    intended: float
    """When it should have started; a client or server that stalls doesn't move it."""
    sent: float
    done: float = 0.0
    status: int = 0
    """HTTP status of the last attempt; 0: no answer."""
    failure: str = ""
    """Kind of failure, "" for a success."""
    message: str = ""
    size: int = 0
    """Bytes of the answer's body."""
    pod: str = ""
    cold: bool = False
    request_id: str = ""
    group: str = ""
    session: int = -1
    attempts: int = 1
    connect: float = 0.0
    """DNS, TCP and TLS; 0 on a kept-alive connection."""
    write: float = 0.0
    wait: float = 0.0
    read: float = 0.0
    started: float | None = None
    """Streaming: from the intended start to the ``started`` event."""
    first_progress: float | None = None
    """Streaming: from the intended start to the first ``progress`` event."""
    progress_events: int = 0
    longest_silence: float = 0.0
    """Streaming: longest time without a byte, heartbeats count as bytes."""

    @property
    def ok(self) -> bool:
        """True for an answer that is what was asked for."""
        return not self.failure

    @property
    def latency(self) -> float:
        """From the intended start to the last byte."""
        return self.done - self.intended


class Session:
    """One virtual user: a cookie jar of its own."""

    __slots__ = ("cookies", "last_pod", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.cookies = httpx.Cookies()
        self.last_pod = ""
