"""Watches how gradients and updates flow through the layers."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from matplotlib.figure import Figure
from torch import nn
from torch.optim import Optimizer

from steepest.callbacks.charts import Charts
from steepest.callbacks.loss_scale import gradient_scale
from steepest.callbacks.probe import probe
from steepest.callbacks.reporting import HistoryDiagnostic
from steepest.common.history import History
from steepest.common.parameter_names import parameter_names
from steepest.diagnostics.gradient_flow import figures
from steepest.diagnostics.gradient_flow.dead_units import dead_relu_units, has_relu
from steepest.diagnostics.gradient_flow.flow import (
    FIELDS,
    GradientFlow,
    first_nonfinite_layer,
    gradient_flow,
    merge,
    with_updates,
)
from steepest.diagnostics.updates.recorders import UpdateRecorder, optimizer_parameters


class GradientFlowMonitor(HistoryDiagnostic[UpdateRecorder, GradientFlow]):
    """Gradient norms, update-to-weight ratios, dead ReLU units and non-finite gradients, layer by layer.

    Gradients are read after the backward pass and unscaling, before clipping; updates are the change of the weights
    the optimizer really made. Totals become scalars; the layers become two figures, `gradient_norm_by_layer` and
    `gradient_flow_heat_map`, and `gradient_flow.json`, at the end of the run (a failed one too) and at most once a
    minute at the end of an epoch.

    Scalars: `grad/total_norm`, `grad/total_norm_clipped` (when clipping is on), `grad/max_min_ratio`,
    `grad/zero_fraction`, `grad/dead_relu_fraction`, `grad/nonfinite`, `grad/skipped_steps` (when skipping),
    `grad/weight_norm`, `update/relative_size`, `update/relative_size_max`.

    Args:
        every_n_steps: Measure every so many optimizer steps; set it to None to use one of the next two.
        every_n_epochs: Measure at the last step of every n-th epoch.
        at_steps: Measure at these optimizer steps, counted from 1.
        on_nonfinite: What to do about a NaN or infinite gradient. "warn" says so once, and looks at measured steps
            only. "skip" looks at every step (one wait for the device each) and drops the gradients, so that weights,
            momentum and step counts of the optimizer stay as they are. "stop" looks at every step and raises. Under
            16-mixed the loss scaler handles them, by skipping steps, and this setting does nothing.
        ratio_warning: Warn once when the largest gradient norm of a layer's weight is more than this many times the
            smallest; 100 because gradients of that spread leave the smallest layers untrained at a common rate.
        probe_batch: Samples of the batch to count dead ReLU units on; 0 leaves them out.
        dead_units_every: Count them at every so many measurements, the first included; their extra forward pass is
            most of a measurement's price.
        figures: Draw the figures; without them only scalars and the JSON file are written.
        max_overhead: Largest share of the training time to spend; None measures whenever due.
        strict: Raise the error of a failed measurement instead of warning.

    Raises:
        ValueError: if an argument is out of range.
        FloatingPointError: during training, with "stop", at the first non-finite gradient.
    """

    name = "gradient_flow"
    group = "grad"
    charts: ClassVar[Mapping[str, Charts]] = {
        "gradients": {
            "gradient and weight norm": ["grad/total_norm", "grad/weight_norm"],
            "gradient norm, largest over smallest layer": ["grad/max_min_ratio"],
            "update over weight norm": [r"update/relative_size(_max)?"],
        }
    }

    def __init__(
        self,
        every_n_steps: int | None = 50,
        every_n_epochs: int | None = None,
        at_steps: Sequence[int] | None = None,
        on_nonfinite: Literal["warn", "skip", "stop"] = "warn",
        ratio_warning: float = 100.0,
        probe_batch: int = 64,
        dead_units_every: int = 5,
        figures: bool = True,
        max_overhead: float | None = None,
        strict: bool = False,
    ) -> None:
        if on_nonfinite not in ("warn", "skip", "stop"):
            raise ValueError(f"on_nonfinite must be 'warn', 'skip' or 'stop', got {on_nonfinite!r}")
        if not ratio_warning > 1.0:
            raise ValueError(f"ratio_warning must be above 1, got {ratio_warning}")
        if probe_batch < 0:
            raise ValueError(f"probe_batch must be 0 (off) or a number of samples, got {probe_batch}")
        if dead_units_every < 1:
            raise ValueError(f"dead_units_every must be at least 1, got {dead_units_every}")
        super().__init__(
            History(FIELDS, by_layer=True),
            figures,
            every_n_steps=every_n_steps,
            every_n_epochs=every_n_epochs,
            at_steps=at_steps,
            max_overhead=max_overhead,
            strict=strict,
        )
        self.on_nonfinite = on_nonfinite
        self.ratio_warning = ratio_warning
        self.probe_batch = probe_batch
        self.dead_units_every = dead_units_every
        self.skipped_steps = 0
        self.dead_units: dict[str, float] = {}
        self._measurements = 0
        self._flows: dict[Optimizer, GradientFlow] = {}
        self._error: Exception | None = None

    # --- around the optimizer step ----------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the optimizers' steps."""
        super().on_train_start(trainer, pl_module)
        # A module that has the hook, but by its attribute `clipping` no use for it at present, does not clip.
        has_hook = is_overridden("configure_gradient_clipping", pl_module)
        clips = bool(trainer.gradient_clip_val) or (has_hook and getattr(pl_module, "clipping", True) is not None)
        self._recorder = UpdateRecorder(
            trainer.optimizers,
            parameters_of=lambda optimizer: optimizer_parameters(pl_module, optimizer),
            wanted=lambda: self.due_after_step(trainer),
            timed=self.timed,
            with_gradients=clips,
        )

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measure the gradients if it is due, and look for non-finite ones."""
        due = self.due_after_step(trainer) and optimizer not in self._flows
        if due or self.on_nonfinite != "warn":
            with self.timed():
                self._look_at_gradients(trainer, pl_module, optimizer, due)

    def _look_at_gradients(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer, due: bool) -> None:
        named = optimizer_parameters(pl_module, optimizer)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        layer = None
        if due:
            try:
                flow = gradient_flow(named, gradient_scale=gradient_scale(trainer, optimizer))
            except Exception as error:  # raised again in `measure`, where all ranks can agree on what to do
                self._error = error
            else:
                self._flows[optimizer] = flow
                layer = flow.first_nonfinite_layer
        elif scaler is None:
            layer = first_nonfinite_layer(named)
        if layer is not None and scaler is None:
            self._handle_nonfinite(trainer.global_step + 1, layer, named)

    def _handle_nonfinite(self, step: int, layer: str, named: list[tuple[str, nn.Parameter]]) -> None:
        found = f"non-finite gradient at step {step}, first in layer '{layer}'"
        advice = "lower the learning rate, clip the gradients (trainer.gradient_clip_val) or warm up longer"
        if self.on_nonfinite == "stop":
            raise FloatingPointError(f"{found}: {advice}")
        if self.on_nonfinite == "skip":
            # Optimizers pass over parameters without a gradient: neither decay nor momentum nor step count moves.
            for _, parameter in named:
                parameter.grad = None
            self.skipped_steps += 1
            self.warn_once(f"{found}: this step is skipped; further ones are counted in grad/skipped_steps", "skip")
        else:
            self.warn_once(f"{found}: {advice}", "nonfinite")

    # --- after the optimizer step -----------------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure if it is due."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._flows or self._error:  # optimizers that step unevenly may have been sampled too early
            self._discard()

    def measure(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> dict[str, float]:
        """Complete the sample by the updates and the dead units; keep it and return its totals."""
        if self._recorder is not None:
            self._recorder.check()
        flow, clipped_norm = self._collect(pl_module)
        if flow is None:
            return {}
        self._last = flow
        self._measurements += 1
        self.history.append(trainer.global_step, flow)
        verdict = flow.verdict(self.ratio_warning)
        if verdict != "healthy" and flow.nonfinite == 0:
            self.warn_once(f"step {trainer.global_step}: {verdict}", "verdict")
        scalars = {
            "grad/total_norm": flow.total_gradient_norm,
            "grad/total_norm_clipped": clipped_norm,
            "grad/max_min_ratio": flow.max_min_ratio,
            "grad/zero_fraction": flow.zero_fraction,
            "grad/nonfinite": float(flow.nonfinite),
            "grad/skipped_steps": float(self.skipped_steps) if self.on_nonfinite == "skip" else None,
            "grad/weight_norm": flow.total_weight_norm,
            "grad/dead_relu_fraction": self.attempt(trainer, lambda: self._dead_units(trainer, pl_module, batch)),
            "update/relative_size": flow.relative_update,
            "update/relative_size_max": flow.largest_relative_update,
        }
        return {tag: value for tag, value in scalars.items() if value is not None}

    def _collect(self, pl_module: LightningModule) -> tuple[GradientFlow | None, float | None]:
        flows, error = self._flows, self._error
        updates = dict(self._recorder.updates) if self._recorder is not None else {}
        self._discard()
        if error is not None:
            raise error
        if not flows:
            return None, None
        clipped_norms: list[float] = []
        complete = []
        for optimizer, flow in flows.items():
            if optimizer in updates:  # not so if a loss scaler skipped the step
                changes, clipped_norm = updates[optimizer].to_host()
                flow = with_updates(flow, [changes[name] for name in flow.names])
                clipped_norms += [] if clipped_norm is None else [clipped_norm]
            complete.append(flow)
        order = list(parameter_names(pl_module).values())
        return merge(complete, order), math.hypot(*clipped_norms) if clipped_norms else None

    def _discard(self) -> None:
        self._flows, self._error = {}, None
        if self._recorder is not None:
            self._recorder.clear()

    def _dead_units(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> float | None:
        due = (self._measurements - 1) % self.dead_units_every == 0
        if self.probe_batch == 0 or not due or not has_relu(pl_module):
            return None
        with self.together(trainer):
            # In the run's own precision: a unit is dead if training cannot wake it.
            with probe(trainer, pl_module, batch, samples=self.probe_batch, autocast=True) as loss, torch.no_grad():
                flags = dead_relu_units(pl_module, loss)
        if not flags:
            return None
        alive = torch.cat([~dead for dead in flags.values()]).float()
        dead = self.reduce_max(trainer, alive) == 0  # alive on any rank is alive
        by_layer = dead.split([flag.numel() for flag in flags.values()])
        shares = torch.stack([part.float().mean() for part in (*by_layer, dead)]).tolist()
        self.dead_units = dict(zip(flags, shares, strict=False))
        return shares[-1]

    # --- figures and files ------------------------------------------------------------------------------------------

    def stop_recording(self) -> None:
        """Take the hooks off, and forget what they noted."""
        super().stop_recording()
        self._discard()

    def draw(self, last: GradientFlow, step: int) -> Iterator[tuple[str, Figure, int]]:
        """The last norms by layer, and norms and update ratios over the run."""
        yield "gradient_norm_by_layer", figures.gradient_norms(last, self.history), step
        yield "gradient_flow_heat_map", figures.heat_maps(last, self.history), step

    def report(self, last: GradientFlow) -> dict[str, Any]:
        """Verdict, last sample, dead units and history."""
        return {
            "verdict": last.verdict(self.ratio_warning),
            "max_min_ratio": last.max_min_ratio,
            "last": dataclasses.asdict(last),
            "dead_relu_units": self.dead_units,
            "history": self.history.table(),
        }

    def sample_of(self, entries: dict[str, Any]) -> GradientFlow:
        """The sample of a checkpoint."""
        return GradientFlow(**entries)

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The history and the counters."""
        return {
            **super().state_dict(),
            "skipped_steps": self.skipped_steps,
            "measurements": self._measurements,
            "dead_units": dict(self.dead_units),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue a resumed run's history."""
        super().load_state_dict(state_dict)
        self.skipped_steps = state_dict["skipped_steps"]
        self._measurements = state_dict["measurements"]
        self.dead_units = dict(state_dict["dead_units"])
