"""Watches the singular values of weights and updates."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim import Optimizer

from steepest.callbacks.charts import Charts
from steepest.callbacks.probe import probe
from steepest.callbacks.reporting import HistoryDiagnostic
from steepest.common.history import History
from steepest.diagnostics.spectral import figures as spectral_figures
from steepest.diagnostics.spectral.convolution import convolution_input_shapes, is_convolution
from steepest.diagnostics.spectral.monitor import FIELDS, SpectralMonitor, SpectralSample
from steepest.diagnostics.updates.recorders import ChangeRecorder, NamedParameters, optimizer_parameters


class SpectralNormTracker(HistoryDiagnostic[ChangeRecorder, SpectralSample]):
    """Largest singular value, stable rank and condition number of every matrix, and of its last update.

    A matrix is every parameter of two or more dimensions, those after the second flattened into it (a convolution's
    kernel is then what Muon sees). Convolutions are measured as operators on their real input as well. Large matrices
    are followed by two products each from the last singular vector; now and then all singular values are computed,
    which gives condition numbers and the error of the fast method. A few numbers become scalars; the layers become the
    figures `spectral_norm_by_layer` and `spectral_heat_map` (and `spectra`), and `spectral_norm.json`, at the end of
    the run (a failed one too) and at most once a minute at the end of an epoch.

    Scalars: `spectral/norm_max`, `spectral/norm_median`, `spectral/operator_norm_max` (convolutions),
    `spectral/log10_product` (of the norms of linear layers and convolutions), `spectral/stable_rank_median`,
    `spectral/stable_rank_min`, `spectral/update_norm_max`, `spectral/relative_update_max`,
    `spectral/update_stable_rank_median`; at the exact measurements also `spectral/condition_max`,
    `spectral/drift_max` and `spectral/drift_median` (of weights), `spectral/update_drift_max`.

    Args:
        every_n_steps: Measure at step 1 and every so many optimizer steps; set it to None to use one of the next two.
            Singular values of weights move slowly: the default shows how, for below one percent of the training time.
        every_n_epochs: Measure at the last step of every n-th epoch.
        at_steps: Measure at these optimizer steps, counted from 1.
        updates: Measure the change the optimizer makes too; costs a copy of the matrices at measured steps.
        operators: Measure convolutions as operators too; costs one forward pass of two samples, once.
        exact_every: Every so many measurements, the first included, are exact.
        spectrum: Keep all singular values of the last exact measurement, and draw them.
        figures: Draw the figures; without them only scalars and the JSON file are written.
        max_overhead: Largest share of the training time to spend; None measures whenever due.
        strict: Raise the error of a failed measurement instead of warning.

    Raises:
        ValueError: if an argument is out of range.
    """

    name = "spectral_norm"
    group = "spectral"
    charts: ClassVar[Mapping[str, Charts]] = {
        "spectral norms": {
            "weights": [r"spectral/norm_\w+"],
            "updates": [r"spectral/update_norm_\w+", r"spectral/relative_update_\w+"],
            "stable rank": [r"spectral/(update_)?stable_rank_\w+"],
        }
    }

    def __init__(
        self,
        every_n_steps: int | None = 100,
        every_n_epochs: int | None = None,
        at_steps: Sequence[int] | None = None,
        updates: bool = True,
        operators: bool = True,
        exact_every: int = 20,
        spectrum: bool = False,
        figures: bool = True,
        max_overhead: float | None = None,
        strict: bool = False,
    ) -> None:
        if exact_every < 1:
            raise ValueError(f"exact_every must be at least 1, got {exact_every}")
        super().__init__(
            History(FIELDS, by_layer=True),
            figures,
            every_n_steps=every_n_steps,
            every_n_epochs=every_n_epochs,
            at_steps=at_steps,
            max_overhead=max_overhead,
            strict=strict,
            first=every_n_steps is not None,
        )
        self.updates = updates
        self.operators = operators
        self.exact_every = exact_every
        self.spectrum = spectrum
        self._monitor: SpectralMonitor | None = None
        self._monitor_state: dict[str, Any] | None = None
        self._input_shapes: dict[str, tuple[int, ...]] | None = None
        self._last_exact: SpectralSample | None = None
        self._exact_step = 0

    # --- measuring --------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the matrices and watch the optimizers' steps."""
        super().on_train_start(trainer, pl_module)
        self._monitor = SpectralMonitor(pl_module, self.exact_every, keep_spectra=self.spectrum)
        if self._monitor_state is not None:
            self._monitor.load_state_dict(self._monitor_state)
        if self.updates:

            def matrices_of(optimizer: Optimizer) -> NamedParameters:
                named = optimizer_parameters(pl_module, optimizer)
                return [(name, parameter) for name, parameter in named if parameter.ndim >= 2]

            self._recorder = ChangeRecorder(
                trainer.optimizers, matrices_of, lambda: self.due_after_step(trainer), self.timed
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure if it is due."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._recorder is not None and self._recorder.changes:
            self._recorder.clear()  # they are as large as the weights

    def measure(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> dict[str, float]:
        """Measure weights and updates; keep the sample and return its totals."""
        assert self._monitor is not None
        if self._input_shapes is None:
            self._input_shapes = self._find_input_shapes(trainer, pl_module, batch)
        updates: dict[str, Tensor] = {}
        if self._recorder is not None:
            self._recorder.check()
        for changes in self._recorder.changes.values() if self._recorder is not None else ():
            updates |= changes
        exact = self._monitor.next_is_exact
        sample = self._monitor.measure(updates, self._input_shapes)
        if sample.nonfinite:
            self.warn_once(f"step {trainer.global_step}: {sample.nonfinite[0]} is not finite", "nonfinite")
        self._last = sample
        if exact:
            self._last_exact, self._exact_step = sample, trainer.global_step
        if sample.names:
            self.history.append(trainer.global_step, sample)
        return sample.scalars()

    def _find_input_shapes(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any
    ) -> dict[str, tuple[int, ...]]:
        if not self.operators or not any(is_convolution(layer) for layer in pl_module.modules()):
            return {}

        def forward() -> dict[str, tuple[int, ...]]:
            # Running statistics: batch normalization refuses to take those of a single value per channel.
            with probe(trainer, pl_module, batch, samples=2, batch_norm="running") as loss, torch.no_grad():
                return convolution_input_shapes(pl_module, loss)

        shapes = self.attempt(trainer, forward)
        if shapes is None:  # a warning says so; the flattened kernels are still measured
            return {}
        # Ranks may have met images of different sizes; what they measure must be the same.
        return trainer.strategy.broadcast(shapes)

    # --- figures and files ------------------------------------------------------------------------------------------

    def draw(self, last: SpectralSample, step: int) -> Iterator[tuple[str, Figure, int]]:
        """The last norms by layer, norms over the run, and the singular values of the last exact measurement."""
        yield "spectral_norm_by_layer", spectral_figures.by_layer(last, self.history), step
        yield "spectral_heat_map", spectral_figures.heat_maps(last, self.history), step
        if self._last_exact is not None and self._last_exact.spectra:
            yield "spectra", spectral_figures.spectra(self._last_exact, self._exact_step), self._exact_step

    def report(self, last: SpectralSample) -> dict[str, Any]:
        """Last sample, history and last exact sample."""
        report = {
            "log10_product": last.log10_product,
            "input_shapes": self._input_shapes,
            "last": dataclasses.asdict(last),
            "history": self.history.table(),
        }
        if self._last_exact is not None:
            report["exact"] = {"step": self._exact_step, **dataclasses.asdict(self._last_exact)}
        return report

    def sample_of(self, entries: dict[str, Any]) -> SpectralSample:
        """The sample of a checkpoint."""
        return SpectralSample(**entries)

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The history, and the vectors each search starts from."""
        monitor = self._monitor_state if self._monitor is None else self._monitor.state_dict()
        return {
            **super().state_dict(),
            "monitor": monitor,
            "input_shapes": self._input_shapes,
            "last_exact": None if self._last_exact is None else dataclasses.asdict(self._last_exact),
            "exact_step": self._exact_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue a resumed run's history."""
        super().load_state_dict(state_dict)
        self._monitor_state = state_dict["monitor"]
        self._input_shapes = state_dict["input_shapes"]
        exact = state_dict["last_exact"]
        self._last_exact = None if exact is None else self.sample_of(exact)
        self._exact_step = state_dict["exact_step"]
