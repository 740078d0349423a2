"""What a batch shows while it runs: a bar on a terminal, elsewhere a line now and then."""

import sys
import time
from collections import deque
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

EVERY: Final = 15.0
"""Seconds between two lines where there is no terminal."""


class Bar:
    """Counts rows and pictures; pictures a minute and the time left come from the last fifty rows."""

    def __init__(self, rows: int, done: int, pictures: int) -> None:
        self._rows, self._done, self._pictures = rows, done, pictures
        self._made = 0
        self._recent: deque[tuple[float, int, int]] = deque(maxlen=51)
        self._console = Console(stderr=True, highlight=False)
        self._told = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.fields[state]}"), BarColumn(), TextColumn("{task.completed}/{task.total} rows"),
            TextColumn("{task.fields[news]}"), console=self._console, disable=not sys.stderr.isatty(),
        )  # fmt: skip
        self._shown = self._bar.add_task("", total=rows, completed=done, news="", state="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, sentence: str, *, bad: bool = False) -> None:
        """A line that stays."""
        self._console.print(sentence, style="red" if bad else None, markup=False, soft_wrap=True)

    def state(self, words: str) -> None:
        """What is being done now."""
        self._bar.update(self._shown, state=words)

    def start(self) -> None:
        """The first row begins now."""
        self._recent.append((time.monotonic(), self._done, self._made))

    def row(self, pictures: int) -> None:
        """A row is done; it became so many pictures."""
        self._done += 1
        self._made += pictures
        self._recent.append((time.monotonic(), self._done, self._made))
        self._bar.update(self._shown, completed=self._done, news=self.news())
        if self._bar.disable and time.monotonic() - self._told >= EVERY:
            self._told = time.monotonic()
            self.say(f"{self._done}/{self._rows} rows, {self.news()}")

    def news(self) -> str:
        """Pictures, pictures a minute, time left."""
        (began, rows, pictures), (now, rows_now, pictures_now) = self._recent[0], self._recent[-1]
        spent = max(1e-9, now - began)
        left = (self._rows - self._done) * spent / max(1, rows_now - rows)
        minutes, seconds = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        return (
            f"{self._pictures + self._made} pictures, {(pictures_now - pictures) / spent * 60:.1f} a minute, "
            f"{hours}:{minutes:02}:{seconds:02} left"
        )
