"""A study's folder: what was asked, with which versions, and where its parts lie."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from steepest.common.atomic import replacing
from steepest.study.question.definition import Dimension, Study, Tuning
from steepest.study.question.reading import STORED_SCALE, load_study

STUDY_FILE = "study.yaml"


def folder_of(studies_dir: Path, study: Study) -> Path:
    """`<studies_dir>/<name>/<scale>`."""
    return studies_dir / study.name / study.scale


def store_study(folder: Path, study: Study) -> None:
    """Keep the study, at its scale, and its base configs in its folder, so that going on needs nothing else."""
    names = []
    for number, path in enumerate(study.base):
        name = f"base/{number}/{path.name}"
        if path.resolve() != (folder / name).resolve():
            with replacing(folder / name) as partial:
                shutil.copyfile(path, partial)
        names.append(name)
    content = {STORED_SCALE: study.scale, "base": names, **_plain(study)}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    with replacing(folder / STUDY_FILE) as partial:
        partial.write_text(text, encoding="utf-8")


def load_stored(folder: Path) -> Study:
    """The study that a folder belongs to.

    Raises:
        FileNotFoundError: if the folder is not that of a study.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a study: there is no {STUDY_FILE} in it")
    study = load_study(path, stored=True)
    return replace(study, name=folder.resolve().parent.name)


def _plain(study: Study) -> dict[str, Any]:
    content: dict[str, Any] = {
        "question": study.question,
        "reference": study.reference,
        "options": dict(study.options),
        "callbacks": {name: dict(options) for name, options in study.callbacks.items()},
        "axes": {axis.name: _axis(axis) for axis in study.axes},
        "workloads": list(study.workloads),
        "seeds": list(study.seeds),
        "metric": dict(study.metric.__dict__),
        "statistics": dict(study.statistics.__dict__),
        "bound": study.bound,
        "figures": [dict(figure) for figure in study.figures],
        "seconds": study.seconds,
    }
    if study.tuning is not None:
        content["tuning"] = _tuning(study.tuning)
    return content


def _axis(axis: Any) -> dict[str, Any]:
    if axis.key is not None:
        return {"key": axis.key, "values": list(axis.values)}
    return {label: dict(options) for label, options in axis.alternatives.items()}


def _tuning(tuning: Tuning) -> dict[str, Any]:
    content: dict[str, Any] = {
        "method": tuning.method,
        "seeds": list(tuning.seeds),
        "space": {key: _dimension(value) for key, value in tuning.space.items()},
        "spaces": {
            name: {key: _dimension(value) for key, value in space.items()} for name, space in tuning.spaces.items()
        },
        "extend": tuning.extend,
    }
    return content | ({"trials": tuning.trials} if tuning.method != "grid" else {})


def _dimension(dimension: Dimension) -> dict[str, Any]:
    if dimension.scale == "values":
        return {"values": list(dimension.values)}
    return {dimension.scale: list(dimension.ends)} | ({"points": dimension.points} if dimension.points else {})
