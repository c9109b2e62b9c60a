"""A diagnostic that draws what it has seen so far and writes it down."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure

from steepest.callbacks.base import Diagnostic
from steepest.common.history import History

__all__: list[str] = []  # a base, no callback that can be chosen

REPORT_INTERVAL = 60.0  # seconds between reports during training: figures take about one


class Recorder(Protocol):
    """Hooks on optimizers or parameters that note what `measure` needs."""

    def remove(self) -> None:
        """Take the hooks off."""
        ...


Watch = TypeVar("Watch", bound=Recorder)
Sample = TypeVar("Sample")


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


class HistoryDiagnostic(ReportingDiagnostic[Watch], Generic[Watch, Sample]):
    """Keeps its last sample and a history, draws them, and writes them to `<name>.json`; both resume with the run.

    A subclass implements `draw`, `report` and, unless it keeps no sample of its own, `sample_of`.

    Args:
        history: Empty; `measure` adds to it.
        figures: Whether to draw.
        options: See `Diagnostic`.
    """

    def __init__(self, history: History, figures: bool, **options: Any) -> None:
        super().__init__(**options)
        self.history = history
        self.figures = figures
        self._last: Sample | None = None

    def summary(self) -> Sample | None:
        """The last sample, for tables at the end of a run; None before the first."""
        return self._last

    def draw(self, last: Sample, step: int) -> Iterator[tuple[str, Figure, int]]:
        """Name, figure and step of each figure."""
        raise NotImplementedError

    def report(self, last: Sample) -> dict[str, Any]:
        """What the file says besides the step."""
        raise NotImplementedError

    def sample_of(self, entries: dict[str, Any]) -> Sample:
        """The sample whose fields these are."""
        raise NotImplementedError

    def write_report(self, trainer: Trainer) -> None:
        """Write the figures and the file."""
        last = self.summary()
        if last is None or not len(self.history):
            return
        step = self.history.steps[-1]
        if self.figures:
            for name, figure, drawn_at in self.draw(last, step):
                self.write_figure(trainer, name, figure, drawn_at)
        self.write_json(trainer, self.name, {"step": step, **self.report(last)})

    def state_dict(self) -> dict[str, Any]:
        """The history and the last sample; a subclass adds its own entries."""
        last: Any = self._last
        last = None if last is None else dataclasses.asdict(last)
        return {**super().state_dict(), "history": self.history.state_dict(), "last": last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue a resumed run's history."""
        super().load_state_dict(state_dict)
        self.history.load_state_dict(state_dict["history"])
        self._last = None if state_dict["last"] is None else self.sample_of(state_dict["last"])
