"""The figures of a study's report, by kind: each a function of the study and its results.

A kind is added by writing one module with a function under `@figure_kind`.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from steepest.common.discovery import import_modules
from steepest.study.analysis.drawing import Drawing, NothingToDraw
from steepest.study.analysis.selection import varied_number
from steepest.study.analysis.wording import spoken
from steepest.study.figures.gallery import check_file
from steepest.study.figures.style import FIGURES
from steepest.study.question.axes import axis_named, cell_name, label_of
from steepest.study.question.definition import Study
from steepest.study.trials.results import TrialResult

import_modules("steepest.study.figures")

# Of every kind: `only` keeps trials by their labels ({optimizer: [SGD, Adam]}), `title` replaces the generated one.
COMMON = ("only", "title")
_AXES = ("by", "split")

__all__ = ["FIGURES", "Drawing", "NothingToDraw", "check_figures", "draw"]


def check_figures(study: Study) -> None:
    """Check the figures that a study asks for, before anything runs.

    Raises:
        ValueError: if a kind, an option, an axis or a label does not exist, or an option is missing.
    """
    for entry in study.figures:
        kind = entry.get("kind")
        if kind not in FIGURES:
            raise ValueError(f"{study.path}: there is no figure {kind!r}; kinds: {', '.join(sorted(FIGURES))}")
        parameters = dict(list(inspect.signature(FIGURES[kind]).parameters.items())[3:])
        for name in entry:
            if name != "kind" and name not in (*parameters, *COMMON):
                allowed = ", ".join([*parameters, *COMMON])
                raise ValueError(f"{study.path}: a figure of {kind} has no option {name!r}; options: {allowed}")
        for name, parameter in parameters.items():
            if parameter.default is inspect.Parameter.empty and name not in entry:
                raise ValueError(f"{study.path}: a figure of {kind} needs the option {name!r}")
        _check_values(study, entry)
        for name in _AXES:
            if entry.get(name) is not None:
                axis_named(study, entry[name])
        if entry.get("axis") is not None:
            varied_number(study, entry["axis"])
        _wanted(study, entry)


def draw(study: Study, results: Sequence[TrialResult], folder: Path, entry: Mapping[str, Any]) -> list[Drawing]:
    """Draw one of the study's figures.

    Args:
        study: What was asked.
        results: What came out, of all stages.
        folder: Of the study, for what is read from the folders of its runs.
        entry: The figure's kind and options, as in the study file.

    Raises:
        NothingToDraw: if the results lack what it needs.
        ValueError: if an option is wrong.
    """
    _check_values(study, entry)
    wanted = _wanted(study, entry)
    kept = [result for result in results if all(result.labels.get(axis) in own for axis, own in wanted.items())]
    options = {name: value for name, value in entry.items() if name not in ("kind", *COMMON)}
    drawings = FIGURES[entry["kind"]](study, kept, folder, **options)
    if "title" in entry:
        name = "group" if drawings[0].group else "title"
        return [replace(drawing, **{name: str(entry["title"])}) for drawing in drawings]
    if wanted and not drawings[0].group:
        kept_only = ", ".join(cell_name(study, [axis], [spoken(own)]) for axis, own in wanted.items())
        return [replace(drawing, title=f"{drawing.title} ({kept_only})") for drawing in drawings]
    return drawings


def _check_values(study: Study, entry: Mapping[str, Any]) -> None:
    """Check values of options by the annotations of the function that draws them."""
    hints = get_type_hints(FIGURES[entry["kind"]])
    for name in [name for name in entry if name not in ("kind", *COMMON)]:
        parts = get_args(hints[name]) if get_origin(hints[name]) in (Union, UnionType) else (hints[name],)
        if not any(_fits(entry[name], part) for part in parts):
            allowed = spoken([word for part in parts for word in _words(part)], "or")
            raise ValueError(
                f"{study.path}: {name} of a figure of {entry['kind']} must be {allowed}, got {entry[name]!r}"
            )
    if entry["kind"] == "gallery":
        check_file(study, entry["file"])


def _fits(value: Any, annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return value in get_args(annotation)
    if get_origin(annotation) is Sequence:
        return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
    return isinstance(value, annotation)


def _words(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) is Sequence:
        return ["a list of names"]
    return {str: ["a name"], bool: ["true", "false"]}.get(annotation, [])


def _wanted(study: Study, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """Labels to keep, by axis."""
    only = entry.get("only") or {}
    if not isinstance(only, Mapping):
        raise ValueError(f"{study.path}: `only` of a figure must hold labels by axis, got {only!r}")
    wanted = {}
    for name, given in only.items():
        known = axis_named(study, name).alternatives
        wanted[name] = [label_of(label) for label in (given if isinstance(given, list) else [given])]
        for label in wanted[name]:
            if label not in known:
                raise ValueError(
                    f"{study.path}: `only` of a figure names {label!r}, which is not one of {', '.join(known)}"
                )
    return wanted
