"""What a person sees while a study runs: a line for every finished trial, a bar, and the time left."""

import math
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from steepest.study.plan import describe
from steepest.study.results import TrialResult


class Progress:
    """Prints as trials end; where the output is no terminal there are lines only.

    Args:
        label: Name of the metric in the lines.
        console: Where to print; by default standard output.

    Attributes:
        jobs: Trials at a time, by which the time left is divided.
    """

    def __init__(self, label: str, console: Console | None = None) -> None:
        self.label = label
        self.console = Console(soft_wrap=True, highlight=False) if console is None else console
        self.jobs = 1
        self._total = 0
        self._seconds: list[float] = []
        columns = (TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
        self._bar = Bar(*columns, console=self.console, transient=True) if self.console.is_terminal else None
        self._task: Any = None if self._bar is None else self._bar.add_task("trials", total=None, left="")

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def expect(self, trials: int) -> None:
        """So many trials are still to come."""
        self._total = len(self._seconds) + trials
        self._draw()

    def finished(self, result: TrialResult, value: float) -> None:
        """A trial has ended.

        Args:
            result: Its result.
            value: Its metric.
        """
        self._seconds.append(result.seconds)
        self._total = max(self._total, len(self._seconds))
        number = f"{len(self._seconds):>{len(str(self._total))}}/{self._total}"
        left = "" if self._bar is not None or not self.left() else f", {self.left()}"
        stage = "tuning: " if result.stage == "tuning" else ""
        what = f"{stage}{describe(result.labels, result.point)}, seed {result.seed}"
        self.say(f"{number}  {what}: {self._outcome(result, value)} ({result.seconds:.1f} s{left})")
        self._draw()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def left(self) -> str:
        """The time left in words, from the mean of the trials so far; empty before the first and after the last one."""
        remaining = self._total - len(self._seconds)
        if not self._seconds or remaining <= 0:
            return ""
        mean = sum(self._seconds) / len(self._seconds)
        return f"{in_words(mean * math.ceil(remaining / self.jobs))} left"

    def _outcome(self, result: TrialResult, value: float) -> str:
        if result.status == "diverged":
            return f"diverged at step {result.diverged_at}"
        if result.status == "failed":
            return f"failed: {result.error}"
        return f"{self.label} {value:.6g}"

    def _draw(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, total=self._total, completed=len(self._seconds), left=self.left())


def count_of(number: int, what: str) -> str:
    """A number of things: 1 trial, 2 trials."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def in_words(seconds: float) -> str:
    """A time as people say it: 40 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
