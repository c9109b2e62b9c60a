"""Results as flat rows and typed columns, for tables that other programs read."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy
import pyarrow

from steepest.study.definition import Metric, Study
from steepest.study.results import TrialResult
from steepest.study.tuning import choose

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
    """A value for a cell: NaN is no value, and lists are text."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return value if isinstance(value, str | int | None) else json.dumps(value)
