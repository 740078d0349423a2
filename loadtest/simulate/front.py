"""The front before a fleet: so many jobs at once, turns between clients behind them, failed jobs sent again.

It does what ``service/core/turns.py`` and ``service/backends/remote.py`` do, on the simulated clock.
"""

from collections import OrderedDict, deque

from loadtest.simulate.requests import Request
from loadtest.simulate.scenario import FrontSettings

FIRST_DELAY, LONGEST_DELAY = 0.2, 5.0
"""Seconds between attempts, doubled each time; as in the service."""

AGAIN = frozenset({"502", "503"})
"""Outcomes that say nothing of the job: a pod that went away, a queue-proxy that is full."""


class Front:
    """Which jobs are at the fleet, and whose turn is next."""

    def __init__(self, settings: FrontSettings) -> None:
        self._settings = settings
        self._waiting: OrderedDict[int, deque[Request]] = OrderedDict()
        self.inside = 0

    @property
    def waiting(self) -> int:
        """Jobs that wait here."""
        return sum(map(len, self._waiting.values()))

    def offer(self, request: Request) -> bool | None:
        """True: it goes to the fleet now. False: it waits. None: there is no room."""
        if self.inside < self._settings.concurrency:
            self.inside += 1
            return True
        if self.waiting >= self._settings.queue_size:
            return None
        self._waiting.setdefault(_client(request), deque()).append(request)
        return False

    def leave(self) -> Request | None:
        """A job has left the fleet for good; the one whose turn it is takes its place."""
        self.inside -= 1
        if not self._waiting:
            return None
        client, line = self._waiting.popitem(last=False)
        request = line.popleft()
        if line:
            self._waiting[client] = line  # behind the others
        self.inside += 1
        return request

    def withdraw(self, request: Request) -> bool:
        """Take a waiting job out; False for one that does not wait."""
        line = self._waiting.get(_client(request))
        if line is None or request not in line:
            return False
        line.remove(request)
        if not line:
            del self._waiting[_client(request)]
        return True

    def pause(self, request: Request, outcome: str) -> float | None:
        """Seconds until a failed job is sent again; None where that is over."""
        if outcome not in AGAIN or request.attempts >= self._settings.tries:
            return None
        return min(FIRST_DELAY * 2.0 ** (request.attempts - 1), LONGEST_DELAY)


def _client(request: Request) -> int:
    """A worker of closed traffic is a client of its own; so is each request of open traffic."""
    return request.worker if request.worker >= 0 else -request.number - 1
