"""Watches what the optimizer makes of the gradients."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from torch.optim import Optimizer

from steepest.callbacks.charts import Charts
from steepest.callbacks.loss_scale import gradient_scale
from steepest.callbacks.reporting import HistoryDiagnostic
from steepest.common.history import History
from steepest.common.parameter_names import parameter_names
from steepest.diagnostics.updates import figures as dynamics_figures
from steepest.diagnostics.updates.dynamics import FIELDS, DynamicsSample, scalars
from steepest.diagnostics.updates.recorders import DynamicsRecorder, optimizer_parameters
from steepest.diagnostics.updates.subspaces import SubspaceMonitor


class UpdateDynamics(HistoryDiagnostic[DynamicsRecorder, DynamicsSample]):
    """Effective learning rates, directions of updates, drift of subspaces and the optimizer's own statistics by layer.

    Of any optimizer, with w the weights before a step, dw what the step really added to them (decay, momentum and
    clipping included) and g the gradient of the loss at w (before clipping; of a closure that is evaluated several
    times the first): the effective learning rate -<dw, g> / |g|^2, which is lr for gradient descent; the cosine of dw
    to -g; the relative size |dw| / |w|; the cosine of dw to the update one step before. Of every matrix the drift of
    the spaces of its leading left and right singular vectors, root mean square of the principal angles in degrees,
    since the last measurement of them and since the first. Where the optimizer has them: gap, iterations and active
    budget of inner solvers, Muon's residual of Frank-Wolfe, AutoSGM's alpha, r and e (the latter two with its option
    `track_dynamics`).

    A few numbers become scalars; the layers become the figures `update_dynamics_by_layer` and
    `update_dynamics_heat_map`, and `update_dynamics.json`, at the end of the run (a failed one too) and at most once a
    minute at the end of an epoch.

    Scalars, of the whole network and over the layers' weights: `update/effective_lr`, `update/cosine_to_gradient`,
    `update/cosine_to_previous` and these with `_min`, `_median`, `_max`; `update/relative_size_min`, `_median`;
    `update/subspace_drift_median`, `_max`; `update/subspace_drift_from_start_median`, `_max`. Of inner solvers
    `update/solver_iterations_median`, `_max`; `update/solver_gap_median`, `_max`; `update/solver_residual_max`;
    `update/budget_used_median`, `_max`; `update/budget_active_layers` (share of the layers whose step the budget
    limits) and `update/budget_active` (share of layers and measured steps so far). Of Muon
    `update/frank_wolfe_residual_min`, `_median`, `_max` (0 at the optimum that its weight decay leads to) and
    `update/orthogonality_error_max`. Of AutoSGM `update/alpha_min`, `_median`, `_max`; `update/r_min`, `_median`,
    `_max`; `update/e_median`, `_max` (standard deviations); `update/not_contracting`, `_max` (share of coordinates).

    Args:
        every_n_steps: Measure at step 1 and every so many optimizer steps; set it to None to use one of the next two.
            The default is dense enough for a heat map of a short run and costs below one percent of the training of a
            small convolutional network (benchmarks/diagnostics_cost.py).
        every_n_epochs: Measure at the last step of every n-th epoch.
        at_steps: Measure at these optimizer steps, counted from 1.
        subspaces: Number of leading singular directions whose drift is followed; 0 leaves them out.
        subspaces_every: Look at them at every so many measurements, the first included; they are most of the price.
        figures: Draw the figures; without them only scalars and the JSON file are written.
        max_overhead: Largest share of the training time to spend; None measures whenever due, which a resumed run does
            at the same steps as an uninterrupted one.
        strict: Raise the error of a failed measurement instead of warning.

    Raises:
        ValueError: if an argument is out of range.
    """

    name = "update_dynamics"
    group = "update"
    charts: ClassVar[Mapping[str, Charts]] = {
        "updates": {
            "effective learning rate": [r"update/effective_lr\w*"],
            "cosine to the gradient and to the step before": [r"update/cosine_\w+"],
            "rotation of the leading subspaces": [r"update/subspace_drift\w*"],
        }
    }

    def __init__(
        self,
        every_n_steps: int | None = 50,
        every_n_epochs: int | None = None,
        at_steps: Sequence[int] | None = None,
        subspaces: int = 4,
        subspaces_every: int = 5,
        figures: bool = True,
        max_overhead: float | None = None,
        strict: bool = False,
    ) -> None:
        if subspaces < 0:
            raise ValueError(f"subspaces must be 0 (off) or a number of directions, got {subspaces}")
        if subspaces_every < 1:
            raise ValueError(f"subspaces_every must be at least 1, got {subspaces_every}")
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
        self.subspaces = subspaces
        self.subspaces_every = subspaces_every
        self._monitor: SubspaceMonitor | None = None
        self._restored: dict[str, Any] | None = None
        self._measurements = 0
        self._turned = 0

    # --- around the optimizer step ----------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the optimizers' steps."""
        super().on_train_start(trainer, pl_module)
        self._recorder = DynamicsRecorder(
            trainer.optimizers,
            parameters_of=lambda optimizer: optimizer_parameters(pl_module, optimizer),
            wanted=lambda: self.due_after_step_or_next(trainer),
            measured=lambda: self.due_after_step(trainer),
            timed=self.timed,
        )
        self._monitor = SubspaceMonitor(pl_module, self.subspaces) if self.subspaces else None
        if self._restored is not None:
            if self._restored["step"] == trainer.global_step:  # not of another run before
                self._recorder.load_state_dict(self._restored["changes"])
            if self._monitor is not None:
                self._monitor.load_state_dict(self._restored["subspaces"])
            self._restored = None

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Note the gradients if it is due, before they are clipped or a closure is evaluated again."""
        if self._recorder is not None and self.due_after_step(trainer):
            with self.timed():
                self._recorder.note_gradients(optimizer, gradient_scale(trainer, optimizer))

    # --- after the optimizer step -----------------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure if it is due."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._recorder is not None and self._recorder.holds_something:
            self._recorder.turn(keep=self.due_after_step(trainer) or self.epoch_due_next(trainer))
            self._turned = trainer.global_step

    def measure(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> dict[str, float]:
        """Complete the sample by the subspaces; keep it and return its totals."""
        assert self._recorder is not None
        self._recorder.check()
        sample = self._recorder.sample(list(parameter_names(pl_module).values()))
        if sample is None:  # a loss scaler skipped the step, say
            return {}
        if self._monitor is not None and self._measurements % self.subspaces_every == 0:
            fields = self._monitor.measure()
            drifts = {field: tuple(of.get(name, torch.nan) for name in sample.names) for field, of in fields.items()}
            sample = dataclasses.replace(sample, values={**sample.values, **drifts})
        self._measurements += 1
        self._last = sample
        self.history.add(trainer.global_step, sample.values, sample.names)
        return {**scalars(sample), "update/budget_active": float(self.history["budget_active"].nanmean())}

    # --- figures and files ------------------------------------------------------------------------------------------

    def stop_recording(self) -> None:
        """Take the hooks off, and keep what a continued run needs."""
        if self._recorder is not None:
            self._restored = self._running()
        super().stop_recording()

    def draw(self, last: DynamicsSample, step: int) -> Iterator[tuple[str, Figure, int]]:
        """The last numbers by layer, and all of them over the run."""
        yield "update_dynamics_by_layer", dynamics_figures.by_layer(last, self.history), step
        yield "update_dynamics_heat_map", dynamics_figures.heat_maps(last, self.history), step

    def report(self, last: DynamicsSample) -> dict[str, Any]:
        """Last sample, share of the steps that the budget has limited, and history."""
        active = self.history["budget_active"].nanmean(0).tolist()
        return {
            "last": dataclasses.asdict(last),
            "budget_active": {name: share for name, share in zip(self.history.names, active, strict=True)},
            "history": self.history.table(),
        }

    def sample_of(self, entries: dict[str, Any]) -> DynamicsSample:
        """The sample of a checkpoint."""
        return DynamicsSample(**entries)

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The history, the subspaces to compare with and, right before a measured step, the changes of the last one."""
        return {
            **super().state_dict(),
            "measurements": self._measurements,
            "running": self._running() if self._restored is None else self._restored,
        }

    def _running(self) -> dict[str, Any]:
        return {
            "step": self._turned,
            "changes": {} if self._recorder is None else self._recorder.state_dict(),
            "subspaces": {"start": {}, "previous": {}} if self._monitor is None else self._monitor.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue a resumed run's history."""
        super().load_state_dict(state_dict)
        self._measurements = state_dict["measurements"]
        self._restored = state_dict["running"]
