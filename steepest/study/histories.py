"""The history of a trial as a few plain fields, one record for each evaluation."""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from steepest.study.results import TrialResult

# A field's scalars, of which a run logs one or another: the first that is there counts.
SCALARS = {
    "val_loss": ("val/loss",),
    "val_acc": ("val/accuracy",),
    "max_spectral_norm": ("spectral/norm_max",),
    "sharpness": (
        "sharpness/batch",
        "sharpness/running",
        "sharpness/gauss_newton_batch",
        "sharpness/gauss_newton_running",
    ),
    "grad_noise_scale": ("noise/scale", "noise/batch_scale", "noise/running_scale"),
}
FIELDS = (
    "step",
    "epoch",
    "train_loss",
    "train_acc",
    "val_loss",
    "val_acc",
    "max_spectral_norm",
    "sharpness",
    "grad_noise_scale",
    "lr",
    "time",
)
Point = Sequence[Any]  # step, training seconds, value


def history_records(result: TrialResult) -> list[dict[str, float | int | None]]:
    """What a trial had measured at each of its evaluations.

    Args:
        result: With the history of its scalars.

    Returns:
        A record of all `FIELDS` for each step at which a `val/` scalar was logged, in order. `epoch` is the number of
        epochs completed. `train_loss` and `train_acc` are means over the epoch (while the weights move) where every
        evaluation ends one, else over the steps since the scalar was logged last. `lr` is the largest of the parameter
        groups' rates. `time` is the training time so far in seconds, without evaluation. What is measured at other
        steps is the last value up to then; None is what was not measured.
    """
    history = result.history
    evaluations = {point[0]: point[1] for name in history if name.startswith("val/") for point in history[name]}
    epochs = [point[0] for point in history.get("train/epoch_loss", ())]
    prefix = "train/epoch_" if set(evaluations) <= set(epochs) else "train/"
    scalars = {"train_loss": (f"{prefix}loss",), "train_acc": (f"{prefix}accuracy",), **SCALARS}
    logged = {field: next((history[name] for name in names if name in history), ()) for field, names in scalars.items()}
    rates = [history[name] for name in _rate_names(history)]
    records = []
    for step, seconds in sorted(evaluations.items()):
        values: dict[str, float | int | None] = {field: _last(points, step) for field, points in logged.items()}
        values |= {"step": step, "epoch": bisect_right(epochs, step) if epochs else None, "time": seconds}
        values["lr"] = max((rate for points in rates if (rate := _last(points, step)) is not None), default=None)
        records.append({field: values[field] for field in FIELDS})
    return records


def _rate_names(history: Mapping[str, Any]) -> list[str]:
    """Scalars that are learning rates: not the range test's, nor the groups' other options (`lr/<name>_momentum`)."""
    names = [name for name in history if re.match(r"lr/(?!range_|largest_)", name)]
    return [name for name in names if not any(name.startswith(f"{other}_") for other in names)]


def _last(points: Sequence[Point], step: float) -> float | None:
    """The last value at a step up to `step`."""
    place = bisect_right(points, step, key=lambda point: point[0])
    return points[place - 1][2] if place else None
