"""Results of trials as they are read back from a study's folder."""

import math
from collections.abc import Sequence
from typing import Any

from steepest.study.question.definition import Metric
from steepest.study.trials.results import TrialResult

ACCURACY = Metric("val/accuracy", "max", "final", 0.9, "validation accuracy")


def trial(
    labels: dict[str, str],
    seed: int = 0,
    values: Sequence[float] = (0.5, 0.8, 0.92),
    status: str = "finished",
    stage: str = "final",
    point: dict[str, Any] | None = None,
    **changes: Any,
) -> TrialResult:
    """A trial evaluated every ten steps, two seconds each, with these accuracies."""
    key = "-".join([stage, *labels.values(), *map(str, (point or {}).values()), str(seed)])
    fields: dict[str, Any] = {
        "key": key,
        "stage": stage,
        "labels": labels,
        "point": point or {},
        "seed": seed,
        "command": f"steepest fit --optimizer {next(iter(labels.values()), 'sgd')} --seed_everything {seed}",
        "status": status,
        "error": "no such file, 'x'" if status == "failed" else None,
        "diverged_at": 17 if status == "diverged" else None,
        "steps": 10 * len(values),
        "train_seconds": 2.0 * len(values),
        "seconds": 2.5 * len(values) + 1,
        "parameters": 1000,
        "final": {"val/accuracy": values[-1], "test/loss": 0.25} if values else {},
        "history": {"val/accuracy": [[10 * k, 2.0 * k, value] for k, value in enumerate(values, 1)]},
        "run_folder": f"runs/{stage}/{key}",
        "host": "here",
        "finished_at": "2026-01-01T00:00:00+00:00",
    }
    return TrialResult(**fields | changes)


def metric(**changes: Any) -> Metric:
    """The validation accuracy with changes."""
    return Metric(**{**vars(ACCURACY), **changes})


NAN, INF = math.nan, math.inf
