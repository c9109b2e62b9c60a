"""Watches how sharp the loss is, and how near the optimizer comes to the edge of stability."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from matplotlib.figure import Figure
from torch import Tensor, nn

from steepest.callbacks.charts import Charts
from steepest.callbacks.held_batches import HeldBatches
from steepest.callbacks.probe import MeasurementUnavailableError, diagnostic_loss, probe
from steepest.callbacks.reporting import HistoryDiagnostic
from steepest.common.history import History
from steepest.diagnostics.common.batches import first_samples
from steepest.diagnostics.common.guards import BatchNormMode
from steepest.diagnostics.curvature import figures as sharpness_figures
from steepest.diagnostics.curvature.lanczos import Density, Estimate
from steepest.diagnostics.curvature.limits import (
    LinearSteps,
    StepRecorder,
    UnknownLimitError,
    linear_steps,
    trained_parameters,
    weights_at,
)
from steepest.diagnostics.curvature.operator import Curvature, CurvatureUnavailableError, Matrix, Memory
from steepest.diagnostics.curvature.sharpness import FIELDS, Sharpness, history_table, measure_sharpness, numbers_of


class SharpnessProbe(HistoryDiagnostic[StepRecorder, Sharpness]):
    """The largest eigenvalues of the loss's Hessian, beside the threshold above which the optimizer is unstable.

    Everything is measured at the weights from which a real step was taken, with that step's learning rate and
    preconditioner: sharpness; sharpness as the optimizer sees it, with its stability threshold and their ratio (SGD,
    momentum, Nesterov, Adam, AdamW, RMSprop, Adagrad, AutoSGM); for every optimizer the ratio along its real update. A
    probe costs 10 to 30 gradients of the probe batch, about twice that with a preconditioner. The figure `sharpness`,
    `spectrum` with a density, and `sharpness.json` appear at the end of the run (a failed one too) and at most once a
    minute at the end of an epoch.

    Scalars, `<mode>` being "batch" or "running" (how batch normalization was set, whether there is any or not), with
    "gauss_newton_" in front for that matrix: `sharpness/<mode>` and for further eigenvalues `sharpness/<mode>_2` ...,
    `sharpness/<mode>_residual`, `sharpness/<mode>_preconditioned`, `sharpness/threshold`, `sharpness/<mode>_ratio`
    (unstable above 1), `sharpness/<mode>_directional_ratio` (at 1 the step gains nothing), `sharpness/<mode>_rise` (the
    sharpness of SAM), `sharpness/<mode>_trace` and `sharpness/<mode>_trace_error`, `sharpness/products`.

    Args:
        every_n_steps: Measure every so many optimizer steps; set it to None to use one of the next two.
        every_n_epochs: Measure at the last step of every n-th epoch.
        at_steps: Measure at these optimizer steps, counted from 1.
        count: How many eigenvalues, at least 1.
        matrix: "hessian", or "gauss_newton": without the curvature of the network itself.
        batch_norm: Batch normalization by the statistics of the batch (the training objective) or by the running ones.
            Curvature differs widely between the two.
        probe: "fixed": the first samples of training, always the same, so that the curve compares; they are kept in
            checkpoints. "current": the batch of the step.
        probe_batch: Samples of a batch to use, on each rank.
        probe_batches: With "fixed", from how many batches; nothing is measured before they are complete.
        tolerance: Relative change of the eigenvalues at which the search stops; 0.01 takes 4 to 8 products.
        radius: Length of the step along the gradient of SAM's sharpness; None leaves it out.
        trace_probes: Random vectors for the trace, with a product each; 0 leaves it out, 12 are good for a few percent.
        density_probes: Random vectors for the density of the spectrum, with 20 products each; 0 leaves it out.
        memory: "retain" keeps the graph of the probe batches between products; "recompute" takes twice the time and
            the memory of one gradient.
        autocast: Compute in the run's mixed precision; by default in the precision of the weights.
        figures: Draw the figures; without them only scalars and the JSON file are written.
        max_overhead: Largest share of the training time to spend; None measures whenever due.
        strict: Raise the error of a failed measurement instead of warning.

    Raises:
        ValueError: if an argument is out of range.
    """

    name = "sharpness"
    group = "sharpness"
    charts: ClassVar[Mapping[str, Charts]] = {
        "sharpness": {
            "sharpness and its threshold": [
                r"sharpness/(gauss_newton_)?(batch|running)(_preconditioned)?",
                "sharpness/threshold",
            ],
            "share of the threshold": [r"sharpness/\w+_ratio"],
        }
    }

    def __init__(
        self,
        every_n_steps: int | None = 200,
        every_n_epochs: int | None = None,
        at_steps: Sequence[int] | None = None,
        count: int = 1,
        matrix: Matrix = "hessian",
        batch_norm: BatchNormMode = "batch",
        probe: Literal["fixed", "current"] = "fixed",
        probe_batch: int = 128,
        probe_batches: int = 1,
        tolerance: float = 0.01,
        radius: float | None = 0.05,
        trace_probes: int = 0,
        density_probes: int = 0,
        memory: Memory = "retain",
        autocast: bool = False,
        figures: bool = True,
        max_overhead: float | None = None,
        strict: bool = False,
    ) -> None:
        for name, value, allowed in (
            ("matrix", matrix, ("hessian", "gauss_newton")),
            ("batch_norm", batch_norm, ("batch", "running")),
            ("probe", probe, ("fixed", "current")),
            ("memory", memory, ("retain", "recompute")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be {allowed[0]!r} or {allowed[1]!r}, got {value!r}")
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        if probe == "current" and probe_batches != 1:
            raise ValueError(f"probe='current' has one batch, got probe_batches={probe_batches}")
        if not tolerance > 0.0 or (radius is not None and not radius > 0.0):
            raise ValueError(f"tolerance and radius must be above 0, got {tolerance} and {radius}")
        if trace_probes == 1 or trace_probes < 0 or density_probes < 0:
            raise ValueError(
                f"trace_probes must be 0 or at least 2, and density_probes at least 0, got {trace_probes} and "
                f"{density_probes}"
            )
        super().__init__(
            History(FIELDS),
            figures,
            every_n_steps=every_n_steps,
            every_n_epochs=every_n_epochs,
            at_steps=at_steps,
            max_overhead=max_overhead,
            strict=strict,
        )
        self.count = count
        self.matrix: Matrix = matrix
        self.batch_norm: BatchNormMode = batch_norm
        self.probe = probe
        self.probe_batch = probe_batch
        self.tolerance = tolerance
        self.radius = radius
        self.trace_probes = trace_probes
        self.density_probes = density_probes
        self.memory: Memory = memory
        self.autocast = autocast
        self.held = HeldBatches(probe_batch, probe_batches)
        self._no_threshold: str | None = None

    # --- the probe batch --------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the first samples of training."""
        if self.probe == "fixed" and not self.held.complete:
            with self.timed():
                self.held.offer(trainer, batch)

    # --- measuring --------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the optimizers' steps."""
        super().on_train_start(trainer, pl_module)
        self._recorder = StepRecorder(trainer.optimizers, lambda: self.due_after_step(trainer), self.timed)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure if it is due."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._recorder is not None:
            self._recorder.clear()  # as large as the weights

    def measure(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> dict[str, float]:
        """Measure where the step was taken from; keep the measurement and return its numbers."""
        assert self._recorder is not None
        self._recorder.check()
        try:
            sharpness = self._measured(trainer, pl_module, batch, self._recorder)
        except CurvatureUnavailableError as error:
            raise MeasurementUnavailableError(str(error)) from error
        self._last = sharpness
        self.history.add(trainer.global_step, numbers_of(sharpness))
        if not sharpness.converged:
            self.warn_once(
                f"step {trainer.global_step}: the eigenvalues have not settled after {sharpness.products} products, "
                "they are lower bounds",
                "converged",
            )
        return self._scalars(sharpness)

    def _measured(self, trainer: Trainer, pl_module: LightningModule, batch: Any, recorder: StepRecorder) -> Sharpness:
        if self.probe == "current":
            batches = [first_samples(batch, self.probe_batch)]
        elif self.held.complete:
            batches = self.held.own(trainer, pl_module)
        else:
            raise MeasurementUnavailableError(f"the {self.held.batches} probe batches are not complete yet")
        parameters = trained_parameters(pl_module, trainer.optimizers)
        before = recorder.weights_before(parameters)
        update = None
        if recorder.groups:
            update = torch.cat([(own.detach() - old).reshape(-1) for own, old in zip(parameters, before, strict=True)])
        several = trainer.world_size > 1
        with (
            weights_at(parameters, before),
            probe(trainer, pl_module, batches[0], batch_norm=self.batch_norm),
        ):
            curvature = Curvature(
                [lambda part=part: self._loss(trainer, pl_module, part) for part in batches],
                parameters,
                matrix=self.matrix,
                network=pl_module,
                memory=self.memory,
                reduce=(lambda vector: self.reduce_mean(trainer, vector)) if several else None,
            )
            return measure_sharpness(
                curvature,
                count=self.count,
                tolerance=self.tolerance,
                step=self._step(trainer, parameters, recorder),
                update=update,
                radius=self.radius,
                trace_probes=self.trace_probes,
                density_probes=self.density_probes,
                seed=trainer.global_step,
            )

    def _loss(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> Tensor:
        # Mixed precision for the forward pass alone: it would round the vectors of the search as well.
        with trainer.precision_plugin.forward_context() if self.autocast else nullcontext():
            return diagnostic_loss(pl_module, batch)

    def _step(self, trainer: Trainer, parameters: Sequence[nn.Parameter], recorder: StepRecorder) -> LinearSteps | None:
        try:
            return linear_steps(trainer.optimizers, parameters, recorder.groups)
        except UnknownLimitError as error:
            if self._no_threshold is None:
                rank_zero_info(f"{type(self).__name__}: {error}; sharpness is shown without a threshold")
            self._no_threshold = str(error)
            return None

    @property
    def prefix(self) -> str:
        """Of the tags of what depends on the matrix and on the mode of batch normalization."""
        return f"sharpness/{'gauss_newton_' if self.matrix == 'gauss_newton' else ''}{self.batch_norm}"

    def _scalars(self, sharpness: Sharpness) -> dict[str, float]:
        prefix = self.prefix
        scalars = {
            prefix: sharpness.eigenvalues[0],
            f"{prefix}_residual": sharpness.residuals[0],
            f"{prefix}_preconditioned": sharpness.preconditioned,
            "sharpness/threshold": sharpness.threshold,
            f"{prefix}_ratio": sharpness.ratio,
            f"{prefix}_directional_ratio": sharpness.directional_ratio,
            f"{prefix}_rise": sharpness.rise,
            "sharpness/products": float(sharpness.products),
        }
        scalars |= {f"{prefix}_{index}": value for index, value in enumerate(sharpness.eigenvalues[1:], 2)}
        if sharpness.trace is not None:
            scalars |= {f"{prefix}_trace": sharpness.trace.value, f"{prefix}_trace_error": sharpness.trace.error}
        return {tag: value for tag, value in scalars.items() if value is not None}

    # --- figures and files ------------------------------------------------------------------------------------------

    def draw(self, last: Sharpness, step: int) -> Iterator[tuple[str, Figure, int]]:
        """Sharpness over the run, and the last density."""
        label = "Hessian" if self.matrix == "hessian" else "Gauss-Newton matrix"
        yield "sharpness", sharpness_figures.sharpness_over_time(self.history, label), step
        if last.density is not None:
            yield "spectrum", sharpness_figures.spectrum(last.density, step, last.eigenvalues, label), step

    def report(self, last: Sharpness) -> dict[str, Any]:
        """What was measured, last measurement and history."""
        return {
            "measured": self.prefix,
            "no_threshold": self._no_threshold,
            "last": dataclasses.asdict(last),
            "history": history_table(self.history),
        }

    def sample_of(self, entries: dict[str, Any]) -> Sharpness:
        """The measurement of a checkpoint."""
        trace, density = entries["trace"], entries["density"]
        parts = {"trace": trace and Estimate(**trace), "density": density and Density(**density)}
        return Sharpness(**{**entries, **parts})

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The history and the probe batches."""
        return {**super().state_dict(), "held": self.held.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue a resumed run's history, on its probe batches."""
        super().load_state_dict(state_dict)
        self.held.load_state_dict(state_dict["held"])
