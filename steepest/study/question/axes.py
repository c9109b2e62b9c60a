"""The axes of a study: named alternatives, or values of one option."""

import math
from collections.abc import Sequence
from typing import Any

import numpy

from steepest.study.question.definition import Axis, Study

_VALUE_KEYS = {"key", "values", "log", "linear", "points"}


def read_axes(content: Any, where: str) -> tuple[Axis, ...]:
    """Read `axes`.

    Raises:
        ValueError: if there is none, one is empty, or one is neither of the two kinds.
    """
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{where}: axes must name at least one thing to vary")
    return tuple(_axis(str(name), value, f"{where}: axes.{name}") for name, value in content.items())


def spaced(scale: str, ends: Any, points: Any, where: str) -> tuple[float, ...]:
    """Numbers between two ends, both included, rounded to six digits so that they read well.

    Args:
        scale: `log` or `linear`.
        ends: Lowest and highest.
        points: How many, at least 2.
        where: Named in errors.

    Raises:
        ValueError: if ends or points are not such numbers.
    """
    lowest, highest = read_ends(scale, ends, where)
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise ValueError(f"{where}: points must be a whole number from 2, got {points!r}")
    between = numpy.geomspace if scale == "log" else numpy.linspace
    return tuple(float(f"{value:.6g}") for value in between(lowest, highest, points))


def read_ends(scale: str, ends: Any, where: str) -> tuple[float, float]:
    """Two numbers in ascending order, above 0 for a logarithmic scale.

    Raises:
        ValueError: otherwise.
    """
    numbers = isinstance(ends, list) and all(isinstance(e, int | float) and not isinstance(e, bool) for e in ends)
    if not numbers or len(ends) != 2 or not ends[0] < ends[1] or (scale == "log" and ends[0] <= 0):
        positive = " above 0" if scale == "log" else ""
        raise ValueError(f"{where}: {scale} must be [lowest, highest]{positive}, got {ends!r}")
    return float(ends[0]), float(ends[1])


def label_of(value: Any) -> str:
    """How a value is written in tables and folders."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _axis(name: str, content: Any, where: str) -> Axis:
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{where} must hold alternatives by name, or a key and values; it is empty")
    if "key" in content:
        return _value_axis(name, content, where)
    for label, options in content.items():
        if not isinstance(options, dict | None) or not all(isinstance(key, str) for key in options or {}):
            raise ValueError(
                f"{where}.{label} must be a mapping of options ({{optimizer: sgd}}), got {options!r}; "
                "an axis of values needs a key"
            )
    return Axis(name, {str(label): dict(options or {}) for label, options in content.items()})


def _value_axis(name: str, content: dict[str, Any], where: str) -> Axis:
    unknown = set(content) - _VALUE_KEYS
    if unknown:
        raise ValueError(f"{where}: unknown key {sorted(unknown)[0]!r}; allowed: key with values, log or linear")
    given = [kind for kind in ("values", "log", "linear") if kind in content]
    if len(given) != 1 or not isinstance(content["key"], str) or ("points" in content) != (given != ["values"]):
        raise ValueError(f"{where} needs a key and either values, or log or linear with points")
    if given == ["values"]:
        values = content["values"]
        if not isinstance(values, list) or not values:
            raise ValueError(f"{where}: values must be a list of at least one value, got {values!r}")
    else:
        values = list(spaced(given[0], content[given[0]], content["points"], where))
    labels = [label_of(value) for value in values]
    if len(set(labels)) < len(labels):
        raise ValueError(f"{where}: a value is there twice: {', '.join(labels)}")
    alternatives = {label: {content["key"]: value} for label, value in zip(labels, values, strict=True)}
    return Axis(name, alternatives, content["key"], tuple(values))


def axis_named(study: Study, name: str) -> Axis:
    """The axis of that name.

    Raises:
        ValueError: if there is none.
    """
    for axis in study.axes:
        if axis.name == name:
            return axis
    names = ", ".join(axis.name for axis in study.axes) or "none"
    raise ValueError(f"{study.path}: there is no axis {name!r}; axes: {names}")


def numbers_of(axis: Axis) -> dict[str, float] | None:
    """Value of each label of an axis of two numbers or more, also of names that are numbers; None for another axis."""
    values = {label: number(label) for label in axis.alternatives}
    found = {label: value for label, value in values.items() if value is not None}
    return found if len(found) == len(values) > 1 else None


def axis_label(name: str) -> str:
    """Name of an axis or of a dotted option: "optimizer.lr" is "learning rate"."""
    last = name.rsplit(".", 1)[-1]
    return "learning rate" if last == "lr" else last.replace("_", " ")


def cell_name(study: Study, names: Sequence[str], labels: Sequence[str]) -> str:
    """Labels on some axes in one line; a value is told with the name of its axis."""
    named = []
    for name, label in zip(names, labels, strict=True):
        axis = axis_named(study, name)
        bare = axis.key is None and numbers_of(axis) is None
        named.append(label if bare else f"{axis_label(name)} {label}")
    return ", ".join(named)


def number(label: Any) -> float | None:
    """A label or option as a finite number; None if it is not one."""
    if isinstance(label, bool):
        return None
    try:
        value = float(label)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
