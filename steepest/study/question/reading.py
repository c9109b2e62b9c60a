"""A study file, read and checked before anything runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from steepest.parsing.words import read_config
from steepest.shipped import find
from steepest.study.question.axes import read_axes
from steepest.study.question.checks import check_keys, meant, read_number, read_seeds, read_yaml
from steepest.study.question.definition import Axis, Metric, Statistics, Study
from steepest.study.question.spaces import check_disjoint, read_tuning

_KEYS = (
    "question",
    "reference",
    "base",
    "options",
    "callbacks",
    "axes",
    "workloads",
    "seeds",
    "tuning",
    "metric",
    "statistics",
    "bound",
    "figures",
    "seconds",
)
_METRIC_KEYS = ("name", "mode", "at", "target", "label")
# Where a scale adds to what stands above it; everything else it replaces.
_MERGED = ("options", "callbacks", "metric", "statistics", "axes", "tuning")
BOUND = 1e6  # a loss that only runs away reaches it; losses of ordinary tasks do not
STORED_SCALE = "scale"  # key of the copy in a study's folder


def load_study(path: Path, scale: str | None = None, *, stored: bool = False) -> Study:
    """Read a study file at one of its scales.

    Args:
        path: The file.
        scale: A name under `scales`; None takes `smoke` if there is one, and the file as it is if it has no scales.
        stored: Whether it is the copy in a study's folder, which names the scale it was read at.

    Raises:
        FileNotFoundError: if the file or a base config is missing.
        ValueError: if anything in it is wrong, in one line that names the key and what is allowed.
    """
    content = read_yaml(path)
    where = str(path)
    if not isinstance(content, dict):
        raise ValueError(f"{where} must hold a study by key: {', '.join(_KEYS)}")
    default = content.pop(STORED_SCALE, None) if stored else None
    check_keys(content, (*_KEYS, "scales"), where)
    scales = content.pop("scales", None) or {}
    if not isinstance(scales, dict) or not all(isinstance(value, dict | None) for value in scales.values()):
        raise ValueError(f"{where}: scales must hold mappings by name (smoke, paper)")
    if scale is None:
        scale = default or ("smoke" if "smoke" in scales or not scales else next(iter(scales)))
    elif scale not in scales:
        known = ", ".join(scales) or "none"
        raise ValueError(f"{where} has no scale {scale!r}{meant(scale, scales)}; scales: {known}")
    chosen = scales.get(scale) or {}
    check_keys(chosen, _KEYS, f"{where}: scales.{scale}")
    return _study(_merge(content, chosen), path, scale)


def _merge(content: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    merged = dict(content)
    for key, value in chosen.items():
        both_map = isinstance(content.get(key), dict) and isinstance(value, dict)
        merged[key] = {**content[key], **value} if key in _MERGED and both_map else value
    return merged


def _study(content: dict[str, Any], path: Path, scale: str) -> Study:
    where = str(path)
    question = content.get("question")
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"{where}: question must say in a sentence what the study asks")
    axes = read_axes(content.get("axes"), where)
    options = _mapping(content, "options", where)
    callbacks = {name: options or {} for name, options in _mapping(content, "callbacks", where).items()}
    seeds = read_seeds(content.get("seeds", 1), f"{where}: seeds")
    tuning = read_tuning(content.get("tuning"), axes, where)
    if tuning is not None and set(tuning.seeds) & set(seeds):
        both = ", ".join(map(str, sorted(set(tuning.seeds) & set(seeds))))
        raise ValueError(f"{where}: seeds {both} are in both seeds and tuning.seeds; the final runs need fresh ones")
    check_disjoint(axes, tuning, where)
    return Study(
        name=path.stem,
        scale=scale,
        question=" ".join(question.split()),
        reference=" ".join(str(content.get("reference") or "").split()),
        base=_base(content.get("base"), path),
        options=options,
        callbacks=callbacks,
        axes=axes,
        workloads=_workloads(content.get("workloads"), axes, where),
        seeds=seeds,
        tuning=tuning,
        metric=_metric(content.get("metric"), where),
        bound=read_number(content.get("bound", BOUND), f"{where}: bound", above=0.0),
        figures=_figures(content.get("figures"), where),
        seconds=None
        if content.get("seconds") is None
        else read_number(content["seconds"], f"{where}: seconds", above=0.0),
        path=path,
        statistics=_statistics(content.get("statistics"), where),
    )


def _mapping(content: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    value = content.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{where}: {key} must be a mapping by name, got {value!r}")
    return value


def _base(value: Any, path: Path) -> tuple[Path, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: base must list configs of `steepest fit`, relative to the study file, or by name")
    try:
        files = tuple(find(name, folder=path.parent) for name in names)
        for file in files:
            read_config(file)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{path}: base: {str(error).removeprefix('--config: ')}") from error
    return files


def _workloads(value: Any, axes: Sequence[Axis], where: str) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value or []
    known = [axis.name for axis in axes]
    if not isinstance(names, list) or not set(map(str, names)) < set(known) or len(set(names)) < len(names):
        raise ValueError(
            f"{where}: workloads must list some of the axes ({', '.join(known)}), not all of them: the others are "
            f"compared on each; got {value!r}"
        )
    return tuple(name for name in known if name in names)


def _metric(value: Any, where: str) -> Metric:
    content = {"name": value} if isinstance(value, str) else value
    if not isinstance(content, dict) or not isinstance(content.get("name"), str):
        raise ValueError(f"{where}: metric must name a scalar that the runs log: {{name: val/accuracy, mode: max}}")
    check_keys(content, _METRIC_KEYS, f"{where}: metric")
    mode, at, target = content.get("mode", "max"), content.get("at", "final"), content.get("target")
    if mode not in ("max", "min"):
        raise ValueError(f"{where}: metric.mode must be max or min, got {mode!r}")
    if at not in ("final", "best"):
        raise ValueError(f"{where}: metric.at must be final or best, got {at!r}")
    if target is not None:
        target = read_number(target, f"{where}: metric.target")
    return Metric(content["name"], mode, at, target, str(content.get("label") or content["name"]))


def _statistics(value: Any, where: str) -> Statistics:
    content = {} if value is None else value
    allowed = {name: get_args(hint) for name, hint in get_type_hints(Statistics).items()}
    if not isinstance(content, dict):
        raise ValueError(f"{where}: statistics must be a mapping such as {{interval: t, test: welch}}, got {value!r}")
    check_keys(content, tuple(allowed), f"{where}: statistics")
    for name, given in content.items():
        if given not in allowed[name]:
            raise ValueError(f"{where}: statistics.{name} must be one of {', '.join(allowed[name])}, got {given!r}")
    return Statistics(**content)


def _figures(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    figures = value or []
    if not isinstance(figures, list) or not all(isinstance(figure, dict) and "kind" in figure for figure in figures):
        raise ValueError(f"{where}: figures must list mappings with a kind: [{{kind: curves}}, {{kind: bars}}]")
    return tuple(figures)
