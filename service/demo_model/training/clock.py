"""Time-boxed training: a learning rate that ends with the time given, and progress that says so."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@dataclass
class Schedule:
    """Warm-up, `peak` for half of the time, then a straight fall to `floor`; `spent` is the share of time (0 to 1)."""

    peak: float
    floor: float
    warm_up_steps: int = 100

    def rate(self, step: int, spent: float) -> float:
        """Learning rate at a step, `spent` being the share of the time that has passed."""
        warm = min(1.0, (step + 1) / self.warm_up_steps)
        return warm * (self.floor + (self.peak - self.floor) * min(1.0, 2 * (1 - spent)))


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Writes the learning rate into every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = rate


class Ticker:
    """Counts steps until `minutes` have passed (including `spent_minutes` of an earlier run) behind a progress bar.

    Iterating yields the share of time spent. `note` puts figures beside the bar; every 50th step is also printed,
    so that a log without a terminal tells the story.
    """

    def __init__(self, title: str, minutes: float, spent_minutes: float = 0.0, step: int = 0) -> None:
        self.title, self.minutes, self.step = title, minutes, step
        self._spent_before = spent_minutes
        self._note = ""
        self._start = time.monotonic()

    @property
    def spent_minutes(self) -> float:
        """Minutes of training so far, earlier runs included."""
        return self._spent_before + (time.monotonic() - self._start) / 60

    def note(self, **figures: float) -> None:
        """Shows figures beside the bar."""
        self._note = " ".join(f"{name} {value:.4f}" for name, value in figures.items())

    @staticmethod
    def over(title: str, items: range) -> Iterator[int]:
        """Goes through a range behind a progress bar."""
        with Progress(refresh_per_second=1) as bar:
            yield from bar.track(items, description=title)

    def __iter__(self) -> Iterator[float]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, refresh_per_second=1) as bar:
            task = bar.add_task(self.title, total=self.minutes, note="")
            while (share := self.spent_minutes / self.minutes) < 1:
                yield share
                self.step += 1
                bar.update(task, completed=self.spent_minutes, note=self._note)
                if self.step % 50 == 0 and not bar.console.is_terminal:
                    bar.console.print(
                        f"{self.title} step {self.step} min {self.spent_minutes:.1f} {self._note}"
                    )


class Average:
    """Exponential moving average of a module's parameters (Polyak averaging), used for what is shipped."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def update(self, module: torch.nn.Module, step: int) -> None:
        """Moves towards the module's values; faster in the first steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        state = module.state_dict()
        names = [name for name in self.values if self.values[name].is_floating_point()]
        torch._foreach_lerp_(
            [self.values[name] for name in names], [state[name].detach() for name in names], 1 - decay
        )
