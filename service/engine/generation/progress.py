"""How far a generation is: told to whoever asked, with the time that each stage took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from service.core.events import Progress, ProgressSink, Stage, Timings
from service.core.pixels import Pixels


class Reporter:
    """Counts passes and steps of one generation, and tells ``sink``."""

    def __init__(self, sink: ProgressSink, timings: Timings, jobs: int) -> None:
        """``jobs``: passes that there will be."""
        self._sink = sink
        self.timings = timings
        self._began = time.perf_counter()
        self._jobs = jobs
        self.jobs_done = 0
        self.steps_done = 0
        """Of all images together."""

    def tell(self, step: int, steps: int, image: int, stage: Stage, preview: Pixels | None = None) -> None:
        """``step`` of ``steps`` of the pass under way is done; ``image`` is the first one of its batch."""
        elapsed = time.perf_counter() - self._began
        self._sink(Progress(step, steps, image, self.jobs_done, self._jobs, stage, elapsed, preview))

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Add the time until the end of the block to stage ``name``."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.timings.add(name, time.perf_counter() - began)
