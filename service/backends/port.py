"""The seam between the API and what makes images: jobs in, events on a task, results out.

Nothing above it sees an engine; nothing below it knows HTTP or a dialect. What runs behind it may be this process'
own engine, other services of this kind, or a deployment on Ray Serve.
"""

from typing import Protocol, TypeVar

from service.catalogue.catalogue import Catalogue
from service.core.jobs import Job
from service.core.lifecycle import Probe
from service.core.tasks import Task

R = TypeVar("R")


class Backend(Protocol):
    """Runs jobs. To be used from the event loop's thread; nothing here blocks it."""

    def start(self) -> None:
        """Begin to get ready; returns at once."""

    async def run(self, job: Job[R], task: Task) -> R:
        """Run ``job`` as ``task`` and return what it made.

        Meanwhile ``Queued``, ``Started`` and ``Progress`` are published on ``task``. ``task.token`` stops it: an
        interrupt ends a generation with what there is so far, any other cause ends it for good, and a skip leaves the
        running batch. Raises what :mod:`service.core.errors` names: refused (full, draining, loading), cancelled,
        past the deadline, out of memory … After any of them the backend works on as before.
        """
        ...

    def raise_if_refusing(self) -> None:
        """Raise what :meth:`run` would raise at once in the present state: loading, draining, failed, full."""

    @property
    def catalogue(self) -> Catalogue:
        """What can be named in a request, from what is known now. Raises :class:`NotReady` before anything is."""
        ...

    def memory(self) -> dict[str, int]:
        """Bytes of the device by kind (total, used, allocated, reserved); empty where none is known."""
        ...

    @property
    def running(self) -> bool:
        """True while a job has a device."""
        ...

    @property
    def waiting(self) -> int:
        """Jobs that wait for a device."""
        ...

    def readiness(self) -> Probe:
        """Whether a job would be taken."""
        ...

    async def wait_idle(self) -> None:
        """Return when nothing runs and nothing waits."""

    async def close(self) -> None:
        """Release threads and connections; what still runs is not waited for."""
