"""What a range test or an envelope leaves behind: tables, a record, and words."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steepest.common.atomic import replacing
from steepest.diagnostics.lr_range.curve import LRCurve
from steepest.diagnostics.lr_range.range_test import LRTrial, largest_stable
from steepest.diagnostics.lr_range.suggestions import RULES, Rule, combined, suggestions

ENDINGS = {
    "end": "the end of the range",
    "diverged": "divergence",
    "not finite": "a loss that is not finite",
    "no step": "an optimizer that takes no steps",
}


def by_optimizer(results: Sequence[Any]) -> dict[str, list[Any]]:
    """Curves or trials by the name of their optimizer, in order."""
    names = dict.fromkeys(result.optimizer for result in results)
    return {name: [result for result in results if result.optimizer == name] for name in names}


def curves_record(curves: Sequence[LRCurve], rule: Rule) -> dict[str, Any]:
    """All that curves tell, as plain values: medians of the suggestions over seeds, and each curve with its own."""
    return {
        "mode": "range",
        "rule": rule,
        "optimizers": [
            {
                "optimizer": name,
                "suggestion": combined(own, rule),
                "suggestions": {other: combined(own, other) for other in RULES},  # type: ignore[arg-type]
                "curves": [{**vars(curve), "suggestions": suggestions(curve)} for curve in own],
            }
            for name, own in by_optimizer(curves).items()
        ],
    }


def trials_record(trials: Sequence[LRTrial]) -> dict[str, Any]:
    """All that trials tell, as plain values."""
    return {
        "mode": "envelope",
        "optimizers": [
            {
                "optimizer": name,
                "largest_stable": largest_stable(own),
                "largest_stable_by_seed": {
                    str(seed): largest_stable([trial for trial in own if trial.seed == seed])
                    for seed in dict.fromkeys(trial.seed for trial in own)
                },
                "trials": [{**vars(trial), "final": trial.final, "stable": trial.stable} for trial in own],
            }
            for name, own in by_optimizer(trials).items()
        ],
    }


def save_curves(curves: Sequence[LRCurve], path: Path) -> None:
    """Write a table with a row for each step of each curve."""
    rows: list[Sequence[Any]] = [("optimizer", "seed", "step", "factor", "learning_rate", "loss", "smoothed_loss")]
    for curve in curves:
        columns = zip(curve.factors, curve.learning_rates, curve.losses, curve.smoothed, strict=True)
        rows += [(curve.optimizer, curve.seed, step, *values) for step, values in enumerate(columns, 1)]
    _save(rows, path)


def save_trials(trials: Sequence[LRTrial], path: Path) -> None:
    """Write a table with a row for each trial."""
    header = ("optimizer", "seed", "factor", "learning_rate", "steps", "first_loss", "final_loss", "stable")
    rows: list[Sequence[Any]] = [header]
    for trial in trials:
        measured = (len(trial.losses), trial.losses[0], trial.final, trial.stable)
        rows.append((trial.optimizer, trial.seed, trial.factor, trial.learning_rate, *measured))
    _save(rows, path)


def curve_lines(curves: Sequence[LRCurve], rule: Rule) -> list[str]:
    """A few lines for people: what each rule suggests for each optimizer, and how the test ended."""
    lines = []
    for name, own in by_optimizer(curves).items():
        values = {other: combined(own, other) for other in RULES}  # type: ignore[arg-type]
        listed = ", ".join(f"{other.replace('_', '-')} {_number(value)}" for other, value in values.items())
        endings = ", ".join(dict.fromkeys(ENDINGS[curve.ending] for curve in own))
        count = f"{len(own)} seeds" if len(own) > 1 else f"seed {own[0].seed}"
        lines.append(f"{name} ({count}): suggested learning rate {_number(values[rule])} by {rule.replace('_', '-')}")
        lines.append(f"  all rules: {listed}; ended by {endings}")
        if values["minimum"] is None:
            lines.append("  the loss never falls clearly before it rises: take more steps, more seeds or another range")
        if any(curve.ending == "end" for curve in own):
            lines.append("  the loss had not diverged at the end of the range: max-stable is a lower bound")
    return lines


def trial_lines(trials: Sequence[LRTrial]) -> list[str]:
    """A line for each optimizer: its largest stable learning rate."""
    lines = []
    for name, own in by_optimizer(trials).items():
        seeds = len(dict.fromkeys(trial.seed for trial in own))
        largest = largest_stable(own)
        if largest is None:
            text = f"no learning rate from {_number(own[0].learning_rate)} on is stable"
        else:
            text = f"largest stable learning rate {_number(largest)}"
            if largest == max(trial.learning_rate for trial in own):
                text += ", the largest tried"
        lines.append(f"{name} ({seeds} seed{'s' if seeds > 1 else ''}): {text}")
    return lines


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def _save(rows: Sequence[Sequence[Any]], path: Path) -> None:
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and not math.isfinite(value) else value
