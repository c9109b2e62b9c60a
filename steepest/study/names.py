"""Axes, cells and options by name, as a reader would write them."""

from collections.abc import Sequence

from steepest.study.definition import Axis, Study
from steepest.study.sensitivity import number


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
