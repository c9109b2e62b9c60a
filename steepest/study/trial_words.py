"""What the words of a trial say, and where its run goes."""

import hashlib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml

from steepest.study.axes import label_of
from steepest.study.plan import Trial

LONGEST_NAME = 80


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
    from steepest.parsing import chosen_class_path

    data_class = _data_class(chosen_class_path(words, "data"))
    if data_class is None or "data_dir" not in inspect.signature(data_class).parameters:
        return []
    return ["--data.data_dir", str(data_dir)]


def _data_class(path: str | None) -> Any:
    import datamodules

    if path is None or "." not in path:
        return getattr(datamodules, path or "", None)
    try:
        return resolve_name(path)
    except (ImportError, AttributeError):
        return None  # the trial itself will say what is wrong with it


def trainer_option(words: Sequence[str], name: str) -> Any:
    """An option of the trainer as the configs and the words after them set it, or None."""
    from steepest.parsing import config_files, given_value

    given = given_value(words, f"trainer.{name}")
    if given is not None:
        return yaml.safe_load(given)
    contents = [yaml.safe_load(path.read_text(encoding="utf-8")) or {} for path in config_files(words)]
    values = [(content.get("trainer") or {}).get(name) for content in contents]
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
