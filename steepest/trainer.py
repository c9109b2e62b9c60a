"""The Trainer of the command line."""

from pathlib import Path

import lightning


class Trainer(lightning.Trainer):
    """Lightning's Trainer with a run folder of its own, whatever loggers there are.

    Every public method with typed arguments can become a command.
    """

    # Set on rank zero; the other ranks learn it when `log_dir` is first asked for.
    run_folder: Path | None = None
    _agreed = False

    @property
    def log_dir(self) -> str | None:
        """Folder of this run; the first access asks rank zero, so all ranks must take part in it."""
        if not self._agreed:
            self.run_folder = self.strategy.broadcast(self.run_folder)
            self._agreed = True
        return str(self.run_folder) if self.run_folder is not None else None
