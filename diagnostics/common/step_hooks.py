"""Hooks on the steps of optimizers that note what a measurement needs."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

Timer = Callable[[], AbstractContextManager[Any]]


class StepHooks:
    """What recorders of steps share: they leave training alone when they fail, and come off again.

    Args:
        wanted: Called before every step; whether to record it.
        timed: A context for the hooks' work on recorded steps, which measures its time, say.
    """

    def __init__(self, wanted: Callable[[], bool], timed: Timer = nullcontext) -> None:
        self.wanted = wanted
        self.timed = timed
        self._handles: list[Any] = []
        self._error: Exception | None = None

    def check(self) -> None:
        """Raise the error of a hook that failed since the last call or `clear`, if any; training went on."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def clear(self) -> None:
        """Forget what was recorded."""
        self._error = None

    def remove(self) -> None:
        """Take the hooks off the optimizers."""
        for handle in self._handles:
            handle.remove()
        self.clear()
