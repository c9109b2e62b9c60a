"""The Trainer of the command line."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.profilers import PassThroughProfiler

_NOTHING = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Profiles nothing, without the generator that Lightning enters some fifty times a step to do so."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:
        """A context that does nothing, always the same one."""
        return _NOTHING


class Trainer(lightning.Trainer):
    """Lightning's Trainer with a run folder of its own, whatever loggers there are.

    Every public method with typed arguments can become a command.
    """

    # Set on rank zero; the other ranks learn it when `log_dir` is first asked for.
    run_folder: Path | None = None
    _agreed = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if type(self.profiler) is PassThroughProfiler:
            self.profiler = NoProfiler()

    @property
    def log_dir(self) -> str | None:
        """Folder of this run; the first access asks rank zero, so all ranks must take part in it."""
        if not self._agreed:
            self.run_folder = self.strategy.broadcast(self.run_folder)
            self._agreed = True
        return str(self.run_folder) if self.run_folder is not None else None
