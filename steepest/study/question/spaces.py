"""Search spaces of the tuning, and their points."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import qmc

from steepest.study.question.axes import read_ends, spaced
from steepest.study.question.checks import check_keys, read_seeds
from steepest.study.question.definition import Axis, Dimension, Space, Tuning

_TUNING_KEYS = ("method", "trials", "seeds", "space", "spaces", "extend")
METHODS = ("grid", "quasi_random")
FIRST_TUNING_SEED = 1000
MOST_EXTENSIONS = 3


def read_tuning(content: Any, axes: Sequence[Axis], where: str) -> Tuning | None:
    """Read `tuning`; None if there is none.

    Raises:
        ValueError: if a key or value is wrong, or cells would get different numbers of trials.
    """
    if content is None:
        return None
    where = f"{where}: tuning"
    if not isinstance(content, dict):
        raise ValueError(f"{where} must be a mapping: {', '.join(_TUNING_KEYS)}")
    check_keys(content, _TUNING_KEYS, where)
    method = content.get("method", "grid")
    if method not in METHODS:
        raise ValueError(f"{where}.method must be one of {', '.join(METHODS)}, got {method!r}")
    drawn = method != "grid"
    trials = content.get("trials", 0)
    if drawn != bool(trials) or isinstance(trials, bool) or not isinstance(trials, int) or trials < 0:
        raise ValueError(f"{where}.trials is the number of trials of quasi_random; a grid takes points; got {trials!r}")
    extend = content.get("extend", False)
    if not isinstance(extend, bool) or (extend and drawn):
        raise ValueError(f"{where}.extend must be true or false, and needs the method grid, got {extend!r}")
    space = _space(content.get("space"), drawn, f"{where}.space")
    labels = [label for axis in axes for label in axis.alternatives]
    given = content.get("spaces") or {}
    if not isinstance(given, dict):
        raise ValueError(f"{where}.spaces must hold spaces by the name of an alternative")
    check_keys({str(name): value for name, value in given.items()}, labels, f"{where}.spaces")
    spaces = {str(name): _space(value, drawn, f"{where}.spaces.{name}") for name, value in given.items()}
    seeds = read_seeds(content.get("seeds", [FIRST_TUNING_SEED]), f"{where}.seeds")
    tuning = Tuning(method, trials, seeds, space, spaces, extend)
    counts = {len(points(tuning, each)) for each in (space, *spaces.values()) if each}
    if len(counts) > 1:
        raise ValueError(f"{where}: spaces of {' and '.join(map(str, sorted(counts)))} points; all need equally many")
    return tuning


def space_of(tuning: Tuning, labels: Mapping[str, str]) -> Space:
    """What is tuned in a cell: the space of its first alternative that has one of its own, or the common one."""
    return next((tuning.spaces[label] for label in labels.values() if label in tuning.spaces), tuning.space)


def check_disjoint(axes: Sequence[Axis], tuning: Tuning | None, where: str) -> None:
    """Refuse two axes, or an axis and the tuning, that set the same option: one would undo the other.

    Raises:
        ValueError: naming both and the option.
    """
    for one, other in itertools.combinations(axes, 2):
        for key in sorted(one.keys & other.keys):
            raise ValueError(f"{where}: the axes {one.name!r} and {other.name!r} both set {key!r}; drop it from one")
    if tuning is None:
        return
    for labels in itertools.product(*(axis.alternatives for axis in axes)):
        space = space_of(tuning, dict(zip([axis.name for axis in axes], labels, strict=True)))
        for axis, label in zip(axes, labels, strict=True):
            for key in sorted(set(axis.alternatives[label]) & set(space)):
                raise ValueError(
                    f"{where}: {key!r} is set by {label!r} of the axis {axis.name!r} and also tuned; "
                    f"drop it there, or give {label!r} an entry of its own in tuning.spaces"
                )


def points(tuning: Tuning, space: Space) -> list[dict[str, Any]]:
    """The points to try, the same number in every space; none if nothing is tuned."""
    if not space:
        return []
    if tuning.method == "grid":
        columns = [grid_values(dimension) for dimension in space.values()]
        return [dict(zip(space, values, strict=True)) for values in itertools.product(*columns)]
    # The same points of the unit cube for all cells: none has luckier ones.
    drawn = qmc.Halton(len(space), scramble=True, rng=0).random(tuning.trials)
    return [
        {key: _at(dimension, share) for (key, dimension), share in zip(space.items(), row, strict=True)}
        for row in drawn.tolist()
    ]


def grid_values(dimension: Dimension) -> list[Any]:
    """The values of a dimension of a grid, in order."""
    if dimension.scale == "values":
        return list(dimension.values)
    return list(spaced(dimension.scale, list(dimension.ends), dimension.points, "tuning"))


def edges(dimension: Dimension, tried: Sequence[Any]) -> tuple[Any, Any] | None:
    """Lowest and highest value tried, or None of a list of names, which has no edge."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in tried) or len(tried) < 2:
        return None
    return min(tried), max(tried)


def beyond(dimension: Dimension, tried: Sequence[float], best: float) -> float | None:
    """The next value past the edge that `best` lies on, or None if it is inside or the grid was extended enough."""
    if dimension.scale == "values" or len(tried) - dimension.points >= MOST_EXTENSIONS:
        return None
    ordered = sorted(tried)
    if best not in (ordered[0], ordered[-1]):
        return None
    lowest, highest = dimension.ends
    upward = 1 if best == ordered[-1] else -1
    if dimension.scale == "log":
        factor = (highest / lowest) ** (1 / (dimension.points - 1))
        return float(f"{best * factor**upward:.6g}")
    return float(f"{best + upward * (highest - lowest) / (dimension.points - 1):.6g}")


def _space(content: Any, drawn: bool, where: str) -> dict[str, Dimension]:
    if not isinstance(content or {}, dict):
        raise ValueError(f"{where} must hold ranges by option: {{optimizer.lr: {{log: [1e-4, 1], points: 9}}}}")
    return {str(key): _dimension(value, drawn, f"{where}.{key}") for key, value in (content or {}).items()}


def _dimension(content: Any, drawn: bool, where: str) -> Dimension:
    kinds = [kind for kind in ("log", "linear", "values") if isinstance(content, dict) and kind in content]
    expected = {*kinds, "points"} if kinds != ["values"] and not drawn else set(kinds)
    if len(kinds) != 1 or set(content) != expected:
        points = "" if drawn else " with points"
        raise ValueError(f"{where} must be {{log: [lowest, highest]}} or linear{points}, or {{values: [...]}}")
    kind: Any = kinds[0]
    if kind == "values":
        values = content["values"]
        if not isinstance(values, list) or not values:
            raise ValueError(f"{where}: values must be a list of at least one value, got {values!r}")
        return Dimension("values", values=tuple(values))
    if not drawn:
        spaced(kind, content[kind], content["points"], where)
    return Dimension(kind, read_ends(kind, content[kind], where), 0 if drawn else content["points"])


def _at(dimension: Dimension, share: float) -> Any:
    if dimension.scale == "values":
        return dimension.values[min(int(share * len(dimension.values)), len(dimension.values) - 1)]
    lowest, highest = dimension.ends
    if dimension.scale == "log":
        return float(f"{math.exp(math.log(lowest) + share * math.log(highest / lowest)):.4g}")
    return float(f"{lowest + share * (highest - lowest):.4g}")
