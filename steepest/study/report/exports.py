"""Results for other programs: tables of typed columns, and the history of each trial."""

import json
import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from steepest.common.atomic import replacing
from steepest.diagnostics.common.artifacts import save_json
from steepest.study.question.definition import Metric, Study
from steepest.study.trials.results import TrialResult
from steepest.study.trials.tuning import choose

# Columns that every table has, whatever the study, with their types.
TYPES = {
    "key": pyarrow.string(),
    "stage": pyarrow.string(),
    "seed": pyarrow.int64(),
    "status": pyarrow.string(),
    "diverged_at": pyarrow.int64(),
    "value": pyarrow.float64(),
    "best_value": pyarrow.float64(),
    "steps": pyarrow.int64(),
    "train_seconds": pyarrow.float64(),
    "seconds": pyarrow.float64(),
    "parameters": pyarrow.int64(),
    "command": pyarrow.string(),
    "error": pyarrow.string(),
}

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

# Of a record of a history, in this order.
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


def write_tables(folder: Path, study: Study, results: Sequence[TrialResult]) -> None:
    """Write `results.parquet` and `results.csv`, the same table, and `histories/<key>.json` for each trial.

    If a tuning tried something, also `tuning.csv`: each point, what came of it, and which one was chosen.

    Args:
        folder: The study's.
        study: Names the metric.
        results: Trials of any stage, a row each, in this order.
    """
    table = arrow_table(result_rows(results, study.metric))
    with replacing(folder / "results.parquet") as path:
        pyarrow.parquet.write_table(table, path)
    with replacing(folder / "results.csv") as path:
        pyarrow.csv.write_csv(table, path)
    tried = tuning_rows(study, results)
    if tried:
        with replacing(folder / "tuning.csv") as path:
            pyarrow.csv.write_csv(arrow_table(tried), path)
    for result in results:
        save_json(history_records(result), folder / "histories" / f"{result.key}.json")


def result_rows(results: Sequence[TrialResult], metric: Metric) -> list[dict[str, Any]]:
    """A flat row for each trial, all with the same columns in the same order.

    Args:
        results: Trials of any stage.
        metric: Read into `value` as the study judges it, and into `best_value` at the best evaluation.

    Returns:
        Columns: key, stage; one for each axis (numbers where all its labels are; `axis/<name>` where another column has
        the name); `tuned/<option>`; seed, status, diverged_at, value, best_value, steps, train_seconds, seconds,
        parameters; `final/<scalar>` for every scalar that any trial logged; command, error. What a trial does not have
        is None.
    """
    axes = list(dict.fromkeys(name for result in results for name in result.labels))
    tuned = list(dict.fromkeys(name for result in results for name in result.point))
    scalars = sorted({name for result in results for name in result.final})
    labels = {name: _typed([result.labels.get(name) for result in results]) for name in axes}
    best = replace(metric, at="best")
    rows = []
    for place, result in enumerate(results):
        row: dict[str, Any] = {"key": result.key, "stage": result.stage}
        row |= {f"axis/{name}" if name in TYPES else name: labels[name][place] for name in axes}
        row |= {f"tuned/{name}": _plain(result.point.get(name)) for name in tuned}
        row |= {"seed": result.seed, "status": result.status, "diverged_at": result.diverged_at}
        row |= {"value": _plain(result.value(metric)), "best_value": _plain(result.value(best))}
        row |= {name: _plain(getattr(result, name)) for name in ("steps", "train_seconds", "seconds", "parameters")}
        row |= {f"final/{name}": _plain(result.final.get(name)) for name in scalars}
        rows.append(row | {"command": result.command, "error": result.error})
    return rows


def tuning_rows(study: Study, results: Sequence[TrialResult]) -> list[dict[str, Any]]:
    """A row for each point that the tuning tried in each cell, in the order it was tried.

    Args:
        study: The study.
        results: Its trials of all stages.

    Returns:
        Columns: one for each axis and `tuned/<option>` as in `result_rows`; `trials`, how many of the point's seeds
        have a result; `value`, the mean by which points are compared, None where one of them did not finish; `chosen`;
        `on_edge`, the chosen point's options whose value is the lowest or highest tried, joined by ", ".
    """
    choices = choose(study, results)
    tried: dict[tuple[str, str], list[dict[str, Any]]] = {}
    tuning = [result for result in results if result.stage == "tuning"]
    for result, row in zip(tuning, result_rows(tuning, study.metric), strict=True):
        tried.setdefault((str(result.labels), str(dict(result.point))), []).append({"result": result, "row": row})
    rows = []
    for runs in tried.values():
        result, row = runs[0]["result"], runs[0]["row"]
        values = [run["row"]["value"] for run in runs]
        choice = choices.get(result.cell)
        chosen = choice is not None and choice.point is not None and dict(choice.point) == dict(result.point)
        kept = {name: row[name] for name in row if name not in TYPES and not name.startswith("final/")}
        kept |= {"trials": len(runs), "value": None if None in values else float(numpy.mean(values)), "chosen": chosen}
        rows.append(kept | {"on_edge": ", ".join(choice.on_edge) if choice is not None and chosen else ""})
    return rows


def arrow_table(rows: Sequence[dict[str, Any]]) -> pyarrow.Table:
    """Rows that all have the same columns as a table; without any row it has the fixed columns of `result_rows`."""
    names = list(rows[0]) if rows else list(TYPES)
    return pyarrow.table({name: _column(name, [row[name] for row in rows]) for name in names})


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


def _column(name: str, values: list[Any]) -> pyarrow.Array:
    if name in TYPES:
        return pyarrow.array(values, TYPES[name])
    kinds = {type(value) for value in values if value is not None}
    if not kinds or kinds == {float} or kinds == {int, float}:
        return pyarrow.array([None if value is None else float(value) for value in values], pyarrow.float64())
    if len(kinds) == 1:
        return pyarrow.array(values)
    return pyarrow.array([value if isinstance(value, str | None) else json.dumps(value) for value in values])


def _typed(labels: Sequence[str | None]) -> list[Any]:
    """Labels as what they all say: whole numbers, numbers, truth values, or themselves."""
    for kind in (int, float, {"true": True, "false": False}.__getitem__):
        try:
            values = [None if label is None else kind(label) for label in labels]
        except (ValueError, KeyError):
            continue
        if all(value is None or math.isfinite(value) for value in values):
            return values
    return list(labels)


def _plain(value: Any) -> Any:
    """A value for a cell: NaN is not a value, and lists are text."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return value if isinstance(value, str | int | None) else json.dumps(value)


def _rate_names(history: Mapping[str, Any]) -> list[str]:
    """Scalars that are learning rates: not the range test's, nor the groups' other options (`lr/<name>_momentum`)."""
    names = [name for name in history if re.match(r"lr/(?!range_|largest_)", name)]
    return [name for name in names if not any(name.startswith(f"{other}_") for other in names)]


def _last(points: Sequence[Point], step: float) -> float | None:
    """The last value at a step up to `step`."""
    place = bisect_right(points, step, key=lambda point: point[0])
    return points[place - 1][2] if place else None
