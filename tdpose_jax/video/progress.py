"""A progress bar with speed and time left; a line now and then where there is no terminal."""

import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Use as a context.

    Args:
      what: the bar's label.
      total: frames to do, or None if the source does not say.
      done: frames done before.
    """

    def __init__(self, what: str, total: int | None, done: int = 0):
        self._what, self._total, self._done = what, total, done
        self._before, self._began = done, time.perf_counter()
        self._printed = self._began
        self._bar = None
        if sys.stderr.isatty():
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[fps]:.1f} fps"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(what, total=total, completed=done, fps=0.0)

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        """One more frame is done."""
        self._done += 1
        now = time.perf_counter()
        fps = (self._done - self._before) / max(now - self._began, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, fps=fps)
        elif now - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = now
            of, left = "", ""
            if self._total is not None:
                of = f"/{self._total}"
                left = f", {max(0, self._total - self._done) / fps:.0f} s left"
            line = f"{self._what}: {self._done}{of} frames, {fps:.1f} fps{left}"
            print(line, file=sys.stderr, flush=True)
