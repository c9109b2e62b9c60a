"""What a trial leaves behind."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from steepest.common.atomic import replacing
from steepest.study.question.definition import Metric
from steepest.study.trials.plan import Stage, Trial

Status = Literal["finished", "diverged", "failed"]


@dataclass(frozen=True)
class TrialResult:
    """One trial's outcome.

    Attributes:
        key: Of the trial.
        stage: Of the trial.
        labels: Of the trial.
        point: Of the trial.
        seed: Of the trial.
        command: The line that repeats it.
        status: Whether its schedule came to its end, its loss ran away, or it ended in an error.
        error: The error, in one line.
        diverged_at: The step at which the loss ran away.
        steps: Optimizer steps made.
        train_seconds: Time in training steps, without evaluation, diagnostics and the first steps.
        seconds: Time of the whole trial.
        parameters: Trained parameters of the model.
        final: Last value of every scalar.
        history: Every scalar as rows of step, training seconds (or None) and value.
        run_folder: The run's folder, relative to the study's.
        host: Where it ran.
        finished_at: When it ended, in UTC.
        refused: Whether it failed as bad input before its first step: its options or data are to blame, not the run.
    """

    key: str
    stage: Stage
    labels: Mapping[str, str]
    point: Mapping[str, Any]
    seed: int
    command: str
    status: Status
    error: str | None
    diverged_at: int | None
    steps: int
    train_seconds: float
    seconds: float
    parameters: int | None
    final: Mapping[str, float]
    history: Mapping[str, list[list[Any]]]
    run_folder: str
    host: str
    finished_at: str
    refused: bool = False

    @property
    def cell(self) -> tuple[str, ...]:
        """The labels alone."""
        return tuple(self.labels.values())

    def value(self, metric: Metric) -> float:
        """The metric of this trial; NaN of one that did not finish or did not log it."""
        if self.status != "finished":
            return math.nan
        if metric.at == "final":
            value = self.final.get(metric.name, math.nan)
            return math.nan if value is None else value
        values = [row[2] for row in self.history.get(metric.name, ()) if row[2] is not None and math.isfinite(row[2])]
        return (max if metric.mode == "max" else min)(values, default=math.nan)


def result_path(folder: Path, key: str) -> Path:
    """Where the result of a trial is or will be."""
    return folder / "trials" / key / "result.json"


def write_result(folder: Path, result: TrialResult) -> None:
    """Write a result in one move, so that a killed process leaves a whole one or none."""
    text = json.dumps(asdict(result), indent=1)
    with replacing(result_path(folder, result.key)) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def read_result(folder: Path, key: str) -> TrialResult | None:
    """The result of a trial, or None if it has none.

    Raises:
        ValueError: if the file is not a result, such as one of another version or edited by hand.
    """
    path = result_path(folder, key)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return TrialResult(
            **{field.name: content[field.name] for field in fields(TrialResult) if field.name in content}
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the result of a trial; delete it, and the trial runs again") from error


def load_results(folder: Path) -> list[TrialResult]:
    """Every result in a study's folder, in the order of their keys."""
    keys = sorted(path.parent.name for path in (folder / "trials").glob("*/result.json"))
    return [result for key in keys if (result := read_result(folder, key)) is not None]


def results_for(trials: Sequence[Trial], stored: Mapping[str, TrialResult]) -> list[TrialResult]:
    """The stored results of these trials, by key, under the stage, labels and points that the trials have."""
    return [
        replace(stored[trial.key], stage=trial.stage, labels=dict(trial.labels), point=dict(trial.point))
        for trial in trials
        if trial.key in stored
    ]
