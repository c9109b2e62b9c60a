"""The trials of a study: which runs of `steepest fit` it asks for, their share, place and needs."""

import hashlib
import inspect
import itertools
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

import yaml

from steepest.parsing.words import chosen_class_path, config_files, given_value, read_config
from steepest.study.question.axes import label_of
from steepest.study.question.checks import read_yaml
from steepest.study.question.definition import Study
from steepest.study.question.spaces import points, space_of

Stage = Literal["tuning", "final"]
Cell = tuple[str, ...]

# Of all trials, unless the study's options say otherwise: what only a person at the screen, or a later run, needs.
_QUIET = {
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": False,
    "trainer.enable_checkpointing": False,
}

LONGEST_NAME = 80  # of a folder


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


@dataclass(frozen=True)
class Shard:
    """Every `count`-th trial of a stage in the order of the keys, from the `index`-th.

    Attributes:
        index: Which share, counted from 1.
        count: Number of shares.
    """

    index: int
    count: int

    def share(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials of this share; the shares of all indices make up the whole."""
        mine = {trial.key for trial in sorted(trials, key=lambda trial: trial.key)[self.index - 1 :: self.count]}
        return [trial for trial in trials if trial.key in mine]


WHOLE = Shard(1, 1)


def parse_shard(text: str | None) -> Shard:
    """The share named by `i/n`; without one the whole.

    Raises:
        ValueError: if it is not of this form with 1 <= i <= n.
    """
    if text is None:
        return WHOLE
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--shard must be i/n with 1 <= i <= n, such as 2/8, got {text!r}")
    return Shard(int(match[1]), int(match[2]))


def run_place(trial: Trial, study_folder: Path) -> tuple[Path, str]:
    """`--runs_dir` and `--name` of a trial: a folder for every axis and tuned option, a name for the seed."""
    parts = [f"{axis}={label}" for axis, label in trial.labels.items()]
    parts += [f"{key}={label_of(value)}" for key, value in trial.point.items()]
    return study_folder.joinpath("runs", trial.stage, *map(safe_name, parts)), f"seed_{trial.seed}"


def safe_name(text: str) -> str:
    """A folder's name that can be read, and differs for different texts.

    What a file system or TensorBoard's filter could stumble over becomes `_`; then a digest keeps two such names apart.
    """
    name = re.sub(r"[^\w.+=,@-]+", "_", text, flags=re.ASCII).lstrip(".")
    if name == text and len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def data_words(words: Sequence[str], data_dir: Path | None) -> list[str]:
    """`--data.data_dir` for data that lie in files; embedded data has no such option."""
    if data_dir is None:
        return []
    data_class = _data_class(chosen_class_path(words, "data"))
    if data_class is None or "data_dir" not in inspect.signature(data_class).parameters:
        return []
    return ["--data.data_dir", str(data_dir)]


def trainer_option(words: Sequence[str], name: str) -> Any:
    """An option of the trainer as the configs and the words after them set it, or None."""
    given = given_value(words, f"trainer.{name}")
    if given is not None:
        return yaml.safe_load(given)
    values = [(read_config(path).get("trainer") or {}).get(name) for path in config_files(words)]
    return next((value for value in reversed(values) if value is not None), None)


def device_count(words: Sequence[str]) -> int:
    """Devices that one trial asks for; 1 where the trainer decides."""
    devices = trainer_option(words, "devices")
    if isinstance(devices, list):
        return len(devices)
    if isinstance(devices, str) and devices not in ("auto", "-1"):
        return len([part for part in devices.split(",") if part.strip()])
    return devices if isinstance(devices, int) and devices > 0 else 1


def needs_own_process(words: Sequence[str]) -> bool:
    """Whether a run forms a process group: its launcher repeats the command line, and the group outlives the run."""
    strategy = trainer_option(words, "strategy")
    nodes = trainer_option(words, "num_nodes") or 1
    return device_count(words) > 1 or int(nodes) > 1 or strategy not in (None, "auto")


@lru_cache(maxsize=64)
def _content(path: Path, modified: int) -> Any:
    # The same for all trials of a plan, of which there may be a thousand.
    return read_yaml(path)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _shortest(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path.resolve())) else str(path.resolve())


def _data_class(path: str | None) -> Any:
    import steepest.datamodules as datamodules

    if path is None or "." not in path:
        return getattr(datamodules, path or "", None)
    try:
        return resolve_name(path)
    except (ImportError, AttributeError):
        return None  # the trial itself will say what is wrong with it
