"""What a run's own files say about it."""

import csv
import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

CLOCK = "time/train_seconds"

Curve = list[tuple[int, float]]


def read_curves(file: Path) -> dict[str, Curve]:
    """Step and value of every scalar in a `metrics.csv`, in the order of the steps; empty without the file.

    Of several values at one step, such as a run's record and its end, the last counts.
    """
    curves: dict[str, dict[int, float]] = {}
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if not row.get("step"):
                continue
            step = int(float(row["step"]))
            for name, text in row.items():
                if name not in ("step", "epoch") and text:
                    curves.setdefault(name, {})[step] = float(text)
    return {name: sorted(curve.items()) for name, curve in curves.items()}


def with_clock(curves: Mapping[str, Curve]) -> dict[str, list[list[Any]]]:
    """Every scalar as rows of step, training seconds and value; the clock is read between its own records.

    Before its first record the clock is taken to run evenly from 0; without a clock the seconds are None.
    """
    clock = curves.get(CLOCK)
    if not clock:
        return {name: [[step, None, value] for step, value in curve] for name, curve in curves.items()}
    steps, seconds = zip(*((0, 0.0), *(record for record in clock if record[0] > 0)), strict=True)
    return {
        name: [[step, float(numpy.interp(step, steps, seconds)), value] for step, value in curve]
        for name, curve in curves.items()
    }


def last_values(curves: Mapping[str, Curve], record: Mapping[str, Any]) -> dict[str, float]:
    """The last value of every scalar; those that only the record of the run has, such as of a test, come from there."""
    last = {name: float(value) for name, value in record.get("metrics", {}).items()}
    return last | {name: curve[-1][1] for name, curve in curves.items()}


def read_record(run_folder: Path) -> dict[str, Any]:
    """The run's `run.json`, empty if there is none."""
    return _json(run_folder / "run.json")


def divergence_step(run_folder: Path) -> int | None:
    """The step at which the run's loss ran away, if it did."""
    step = _json(run_folder / "divergence.json").get("step")
    return None if step is None else int(step)


def runs_of(parent: Path, command: Sequence[str]) -> list[Path]:
    """The runs under one name that were started by exactly this command, the newest last."""
    text = shlex.join(["steepest", *command])
    return [folder for folder in _versions(parent) if read_record(folder).get("command") == text]


def remove_attempts(parent: Path, command: Sequence[str]) -> None:
    """Delete the runs of a command that left no result, and those that did not come to say whose they are."""
    unsaid = [folder for folder in _versions(parent) if not (folder / "run.json").is_file()]
    for folder in [*runs_of(parent, command), *unsaid]:
        shutil.rmtree(folder)


def _versions(parent: Path) -> list[Path]:
    folders = [path for path in parent.glob("version_*") if path.name.removeprefix("version_").isdigit()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("version_")))


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}
