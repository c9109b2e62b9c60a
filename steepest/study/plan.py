"""The trials of a study: which configurations of `steepest fit` it runs."""

import hashlib
import itertools
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from steepest.study.axes import label_of
from steepest.study.definition import Study
from steepest.study.spaces import points, space_of
from steepest.study.yaml_files import read_yaml

Stage = Literal["tuning", "final"]
Cell = tuple[str, ...]

# Of all trials, unless the study's options say otherwise: what only a person at the screen, or a later run, needs.
_QUIET = {
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": False,
    "trainer.enable_checkpointing": False,
}


@dataclass(frozen=True)
class Trial:
    """One run of `steepest fit`.

    Attributes:
        key: Digest of everything that decides its numbers: content of the base configs, options and seed.
        stage: Whether it is run to choose options, or to be reported.
        labels: Label of its alternative on every axis.
        point: Values of the tuned options.
        seed: Its seed.
        words: The words after `steepest fit`, without folders and the place of the data.
    """

    key: str
    stage: Stage
    labels: Mapping[str, str]
    point: Mapping[str, Any]
    seed: int
    words: tuple[str, ...]

    @property
    def cell(self) -> Cell:
        """The labels alone."""
        return tuple(self.labels.values())


def cells(study: Study) -> list[dict[str, str]]:
    """Every combination of the axes' labels, by the axes' names."""
    names = [axis.name for axis in study.axes]
    return [
        dict(zip(names, labels, strict=True))
        for labels in itertools.product(*(axis.alternatives for axis in study.axes))
    ]


def make_trial(study: Study, stage: Stage, labels: Mapping[str, str], point: Mapping[str, Any], seed: int) -> Trial:
    """The trial of a cell at a point with a seed."""
    options: dict[str, Any] = {**_QUIET, **study.options}
    for axis in study.axes:
        options |= axis.alternatives[labels[axis.name]]
    options |= point
    # A class before its options; otherwise as given. An option for all holds whichever class an alternative chooses.
    ordered = sorted(options.items(), key=lambda item: item[0].count("."))
    words = [word for key, value in ordered for word in (f"--{key}", _text(value))]
    for name, given in {**study.callbacks, "TrainingClock": {}, "DivergenceStop": {"bound": study.bound}}.items():
        words.append(f"--trainer.callbacks+={name}")
        words += [word for key, value in given.items() for word in (f"--trainer.callbacks.{key}", _text(value))]
    words += ["--seed_everything", str(seed)]
    content = [_content(path, path.stat().st_mtime_ns) for path in study.base]
    digest = hashlib.sha256(json.dumps([content, words], sort_keys=True, default=str).encode()).hexdigest()[:16]
    base = [word for path in study.base for word in ("--config", _shortest(path))]
    return Trial(digest, stage, dict(labels), dict(point), seed, (*base, *words))


def tuning_trials(study: Study) -> list[Trial]:
    """Every trial that chooses options, before any extension; none without tuning."""
    if study.tuning is None:
        return []
    return [
        make_trial(study, "tuning", labels, point, seed)
        for labels in cells(study)
        for point in points(study.tuning, space_of(study.tuning, labels))
        for seed in study.tuning.seeds
    ]


def final_trials(study: Study, chosen: Mapping[Cell, Mapping[str, Any] | None]) -> list[Trial]:
    """Every trial that is reported.

    Args:
        study: The study.
        chosen: Tuned values by cell; cells that are not in it have none, and None leaves a cell out.
    """
    trials = []
    for labels in cells(study):
        point = chosen.get(tuple(labels.values()), {})
        if point is not None:
            trials += [make_trial(study, "final", labels, point, seed) for seed in study.seeds]
    return trials


def command_line(trial: Trial) -> str:
    """The line that repeats a trial by hand."""
    return shlex.join(["steepest", "fit", *trial.words])


def describe(labels: Mapping[str, str], point: Mapping[str, Any] | None = None) -> str:
    """Labels and tuned values in one line."""
    tuned = [f"{key.rpartition('.')[2]} {label_of(value)}" for key, value in (point or {}).items()]
    return ", ".join([*labels.values(), *tuned])


@lru_cache(maxsize=64)
def _content(path: Path, modified: int) -> Any:
    # The same for all trials of a plan, of which there may be a thousand.
    return read_yaml(path)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _shortest(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path.resolve())) else str(path.resolve())
