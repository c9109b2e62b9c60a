"""Finds a learning rate before training, on the training's own steps, and leaves no trace of having looked."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from steepest.callbacks.base import Diagnostic
from steepest.callbacks.training_steps import TrainingSteps, off_the_record, start_training, training_batches
from steepest.common.run import run_seed
from steepest.diagnostics.lr_range import figures as lr_range_figures
from steepest.diagnostics.lr_range import report as lr_report
from steepest.diagnostics.lr_range.curve import Divergence, GroupRates, LRCurve, MovingAverage, Spacing, grid
from steepest.diagnostics.lr_range.range_test import LRTrial, range_curve, trial
from steepest.diagnostics.lr_range.suggestions import Rule, check_rule, combined

Mode = Literal["range", "envelope"]

FACTORS = (1e-4, 1e3)  # of a range test, on each group's own learning rate
ENVELOPE = (1e-3, 2.0)  # learning rates of an envelope
VALUES = 12


class LRRangeTest(Diagnostic):
    """Trains with rising learning rates before the fit, shows the loss over them and suggests one (arXiv 1506.01186).

    It works on whatever optimizer the module configures: every parameter group keeps its ratio to the others. Steps are
    real optimizer steps under the trainer's precision, accumulation, clipping and ranks, without the schedule.
    Afterwards weights, buffers, optimizer, scaler, data and random state are what they were, to the bit. Other
    callbacks are off during the test. A resumed run does not repeat it.

    In the run's folder: `figures/lr_range.png` and `.svg`, `lr_range.csv`, `lr_range.json`; in TensorBoard the figure
    and `lr/range_<rule>` (`lr/largest_stable` of an envelope). It costs as much as the steps it takes.

    Args:
        mode: "range" raises the learning rate in each step; "envelope" trains from the same start at each of a few
            learning rates and tells the largest that is stable (every loss finite, the mean of the last ten not above
            the first).
        factors: Range of multiples of each group's own learning rate, by default [1e-4, 1e3] with mode "range".
        rates: Instead, the range of the first group's learning rate; by default [1e-3, 2] with mode "envelope".
        steps: Optimizer steps: of the whole range, or at each learning rate of an envelope; at least 2.
        values: Learning rates of an envelope, at least 2; by default 12.
        spacing: "exponential" (equal ratios) or "linear".
        seeds: Seeds of data order and dropout, each with a curve of its own; None takes the run's seed.
        smoothing: Weight of the past in the moving average of the loss, in [0, 1).
        divergence: Stop when the smoothed loss exceeds l_min + divergence * max(l_0 - l_min, |l_0| / 2).
        stop_ratio: Instead, stop when it exceeds this multiple of the first loss; above 1.
        rule: Whose suggestion counts: steepest, minimum (a tenth of where the loss is lowest), valley, slide or
            max_stable (the upper bound). With several seeds it is the median.
        apply: Train with the suggestion: learning rates and base values of schedules are multiplied.
        figures: Whether to draw.

    Raises:
        ValueError: if an option is out of range, or contradicts another.
    """

    name = "lr_range"
    group = "lr"

    def __init__(
        self,
        mode: Mode = "range",
        factors: tuple[float, float] | None = None,
        rates: tuple[float, float] | None = None,
        steps: int = 100,
        values: int | None = None,
        spacing: Spacing = "exponential",
        seeds: Sequence[int] | None = None,
        smoothing: float = 0.9,
        divergence: float = 2.0,
        stop_ratio: float | None = None,
        rule: Rule = "minimum",
        apply: bool = False,
        figures: bool = True,
    ) -> None:
        super().__init__(at_steps=[1])  # once, before the first step
        if mode not in ("range", "envelope"):
            raise ValueError(f"mode must be 'range' or 'envelope', got {mode!r}")
        if factors is not None and rates is not None:
            raise ValueError(f"factors {tuple(factors)} and rates {tuple(rates)} exclude each other: give one of them")
        if apply and mode == "envelope":
            raise ValueError("apply needs mode 'range': the largest stable learning rate is too large to train with")
        if values is not None and mode == "range":
            raise ValueError(f"values {values} needs mode 'envelope': a range has as many learning rates as steps")
        if seeds is not None and (not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds)):
            raise ValueError(f"seeds must be different numbers of at least 0, got {list(seeds)}")
        if steps < 2:
            raise ValueError(f"steps must be at least 2, got {steps}")
        check_rule(rule)
        if factors is None and rates is None:
            factors, rates = (FACTORS, None) if mode == "range" else (None, ENVELOPE)
        low, high = factors or rates or FACTORS
        self.mode: Mode = mode
        self.absolute = rates is not None
        self.grid = grid(low, high, steps if mode == "range" else VALUES if values is None else values, spacing)
        self.steps = steps
        self.seeds = None if seeds is None else list(seeds)
        self.smoothing = MovingAverage(smoothing).smoothing
        self.divergence = Divergence(divergence, stop_ratio)
        self.rule: Rule = rule
        self.apply = apply
        self.figures = figures
        self.label: str | None = None
        self.curves: list[LRCurve] = []
        self.trials: list[LRTrial] = []
        self._done = False

    # --- when -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Go to the front, before other callbacks put hooks on the optimizer and see steps that never were."""
        super().setup(trainer, pl_module, stage)
        others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
        trainer.callbacks = [self, *others]  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Test, write, and apply the suggestion if asked to."""
        super().on_train_start(trainer, pl_module)  # the first diagnostic writes the charts of all, and this one is it
        if self._done:
            return
        with self.timed():
            rates = self.run(trainer, pl_module)
        self._done = True
        self.finish(trainer, rates)

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Nothing: all is done."""

    def start_anew(self) -> None:
        """Let the next fit test once more, and add to what was found."""
        self._done = False

    def finish(self, trainer: Trainer, rates: GroupRates) -> None:
        """Write what was found, and apply it if asked to."""
        self.report(trainer)
        for line in self.lines():
            rank_zero_info(line)
        if self.apply:
            self._apply(trainer, rates)

    # --- testing ----------------------------------------------------------------------------------------------------

    def run(self, trainer: Trainer, pl_module: LightningModule) -> GroupRates:
        """Fill `curves` or `trials`, and leave the training as it was; all ranks take part.

        Returns:
            The learning rates of the training, as they are.

        Raises:
            ValueError: if there is no learning rate to test.
        """
        rates = GroupRates(trainer.optimizers)
        factors = [value / rates.reference for value in self.grid] if self.absolute else self.grid
        label = self.label or ", ".join(type(optimizer).__name__ for optimizer in trainer.optimizers)
        seeds = [run_seed()] if self.seeds is None else self.seeds
        with off_the_record(trainer, pl_module) as snapshot:
            for seed in seeds:
                if self.mode == "range":
                    snapshot.restore()
                    with _steps(trainer, pl_module, seed, rates) as step:
                        self.curves.append(
                            range_curve(
                                step,
                                rates,
                                factors,
                                optimizer=label,
                                seed=seed,
                                smoothing=self.smoothing,
                                divergence=self.divergence,
                            )
                        )
                    continue
                for factor in factors:
                    snapshot.restore()
                    with _steps(trainer, pl_module, seed, rates) as step:
                        self.trials.append(trial(step, rates, factor, self.steps, optimizer=label, seed=seed))
        return rates

    def _apply(self, trainer: Trainer, rates: GroupRates) -> None:
        suggestion = combined(self.curves, self.rule)
        if suggestion is None:
            raise ValueError(
                f"LRRangeTest: rule {self.rule} finds no learning rate to apply, the loss never falls between "
                f"{self.curves[0].learning_rates[0]:.3g} and {self.curves[0].learning_rates[-1]:.3g}: change the range"
                if self.curves[0].losses
                else "LRRangeTest: the first loss is not finite, so there is no learning rate to apply"
            )
        before = rates.reference
        rates.apply(suggestion / before, [config.scheduler for config in trainer.lr_scheduler_configs])
        rank_zero_info(f"LRRangeTest: learning rate {before:.3g} -> {suggestion:.3g}, all groups in proportion")

    # --- results ----------------------------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """What was found, for people."""
        if self.mode == "range":
            return lr_report.curve_lines(self.curves, self.rule)
        return lr_report.trial_lines(self.trials)

    def report(self, trainer: Trainer) -> None:
        """Write figure, tables and scalars of `curves` or `trials`, on rank zero."""
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        if self.mode == "range":
            record = lr_report.curves_record(self.curves, self.rule)
            draw, save, results = lr_range_figures.range_test, lr_report.save_curves, (self.curves, self.rule)
        else:
            record = lr_report.trials_record(self.trials)
            draw, save, results = lr_range_figures.envelope, lr_report.save_trials, (self.trials,)
        self.write_json(trainer, self.name, record)
        if self.run_folder is not None:
            save(results[0], self.run_folder / f"{self.name}.csv")  # type: ignore[operator]
        if self.figures:
            self.write_figure(trainer, self.name, draw(*results), step)  # type: ignore[operator]
        if len(record["optimizers"]) == 1:
            own = record["optimizers"][0]
            found = own.get("suggestions", {"largest_stable": own.get("largest_stable")})
            prefix = "lr/range_" if self.mode == "range" else "lr/"
            scalars = {f"{prefix}{name}": value for name, value in found.items() if value is not None}
            self.write_scalars(trainer, scalars, step)

    def state_dict(self) -> dict[str, Any]:
        """That the test is done: a resumed run goes on with what it found."""
        return {**super().state_dict(), "done": self._done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        super().load_state_dict(state_dict)
        self._done = state_dict["done"]


@contextmanager
def _steps(trainer: Trainer, pl_module: LightningModule, seed: int, rates: GroupRates) -> Iterator[TrainingSteps]:
    with training_batches(trainer, seed) as next_batch:
        start_training(trainer, pl_module)
        # A warm-up in the module's own `optimizer_step`, or a schedule under manual optimization, must not interfere.
        steps = TrainingSteps(trainer, pl_module, next_batch, seed, before_step=rates.hold)
        with steps.counting():
            yield steps
