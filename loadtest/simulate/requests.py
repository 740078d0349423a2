"""A request on its way, and the tally of those that ended."""

from array import array
from collections import Counter
from enum import IntEnum
from typing import TYPE_CHECKING

from loadtest.simulate.activator import Place

if TYPE_CHECKING:
    from loadtest.simulate.pods import Pod

OK = "200"


class Stage(IntEnum):
    """Where a request is."""

    ACTIVATOR = 0  # waits in the activator
    QUEUE_PROXY = 1  # waits in a pod's queue-proxy
    LOCK = 2  # let through, waits for the GPU's lock
    WORK = 3  # on the GPU
    REFUSED = 4  # turned away by the pod, holds nothing of it
    ROUTING = 5  # a handle of Ray Serve has a replica for it, and is about to find out
    FRONT = 6  # waits in the front, for its turn or for another attempt
    DONE = 7


class Request:
    """One image to make. Times in seconds of the simulation."""

    __slots__ = (
        "activator",
        "arrived",
        "attempts",
        "cold",
        "deadline",
        "number",
        "place",
        "pod",
        "service",
        "stage",
        "worker",
    )

    def __init__(
        self, number: int, worker: int, arrived: float, deadline: float, service: float, cold: bool
    ) -> None:
        self.number = number
        self.worker = worker  # of closed traffic; −1 otherwise
        self.arrived = arrived
        self.deadline = deadline
        self.service = service
        self.cold = cold  # no pod was ready when it came
        self.activator = -1  # −1: came past the activators
        self.attempts = 0  # times that a front sent it
        self.place: Place | None = None
        self.pod: Pod | None = None
        self.stage = Stage.ACTIVATOR


class Tally:
    """What became of all requests. Latencies are kept for answered ones, in order of completion."""

    def __init__(self) -> None:
        self.issued = 0
        self.outcomes: Counter[str] = Counter()
        self.latencies = array("d")
        self.cold = 0
        self.last_end = 0.0

    @property
    def ended(self) -> int:
        return self.outcomes.total()
