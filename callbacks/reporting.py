"""A diagnostic that draws what it has seen so far and writes it down."""

import time
from typing import Generic, Protocol, TypeVar

from lightning.pytorch import LightningModule, Trainer

from callbacks.base import Diagnostic

REPORT_INTERVAL = 60.0  # seconds between reports during training: figures take about one


class Recorder(Protocol):
    """Hooks on optimizers or parameters that note what `measure` needs."""

    def remove(self) -> None:
        """Take the hooks off."""
        ...


Watch = TypeVar("Watch", bound=Recorder)


class ReportingDiagnostic(Diagnostic, Generic[Watch]):
    """Writes figures and a file at the end of training, also of one that fails, and at most once a minute before.

    A subclass implements `write_report`. If it keeps hooks in `_recorder`, they are taken off when training ends.
    """

    _recorder: Watch | None = None
    _reported = 0.0

    def write_report(self, trainer: Trainer) -> None:
        """Write figures and files of what was measured so far, if anything; called on rank zero."""
        raise NotImplementedError

    def stop_recording(self) -> None:
        """Take the hooks off, and leave optimizers and parameters alone."""
        if self._recorder is not None:
            self._recorder.remove()
            self._recorder = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start afresh."""
        super().on_train_start(trainer, pl_module)
        self.stop_recording()
        self._reported = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the figures up to date, at most once a minute."""
        if time.monotonic() - self._reported > REPORT_INTERVAL:
            self._report_now(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the figures and the file."""
        self.stop_recording()
        self._report_now(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """As at the end of training: what led to a failure is worth seeing."""
        self.stop_recording()
        self._report_now(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave optimizers and parameters alone."""
        self.stop_recording()

    def _report_now(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        with self.timed(), self.forgiven(trainer):
            self.write_report(trainer)
        self._reported = time.monotonic()
