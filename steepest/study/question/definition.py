"""What a study is, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Mode = Literal["max", "min"]
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """What trials are judged by.

    Attributes:
        name: A scalar that the runs log, such as `val/accuracy`.
        mode: Whether more is better.
        at: The value at the end of the schedule, or the best over all evaluations.
        target: A value to be reached, or None.
        label: The name that figures and tables show.
    """

    name: str
    mode: Mode = "max"
    at: Literal["final", "best"] = "final"
    target: float | None = None
    label: str = ""

    def is_better(self, value: float, other: float) -> bool:
        """Whether `value` is strictly better than `other`."""
        return value > other if self.mode == "max" else value < other


@dataclass(frozen=True)
class Axis:
    """One thing that is varied.

    Attributes:
        name: Its name.
        alternatives: Options of `steepest fit` by the label of each alternative.
        key: The one option that is varied, of an axis made of values; None of named alternatives.
        values: Those values, in the order of the labels.
    """

    name: str
    alternatives: Mapping[str, Options]
    key: str | None = None
    values: tuple[Any, ...] = ()

    @property
    def keys(self) -> set[str]:
        """All options that its alternatives set."""
        return {key for options in self.alternatives.values() for key in options}


@dataclass(frozen=True)
class Dimension:
    """The range of one tuned option.

    Attributes:
        scale: How values lie between the ends, or `values` for a list.
        ends: Lowest and highest value; empty for a list.
        points: Number of points on a grid; 0 where the method draws them.
        values: The list.
    """

    scale: Literal["log", "linear", "values"]
    ends: tuple[float, ...] = ()
    points: int = 0
    values: tuple[Any, ...] = ()


Space = Mapping[str, Dimension]


@dataclass(frozen=True)
class Tuning:
    """How every cell's free options are chosen, with the same number of trials for each.

    Attributes:
        method: A grid, or a scrambled Halton sequence.
        trials: Trials a cell, of the drawn methods.
        seeds: Seeds of the tuning trials; the final ones have others.
        space: What is tuned, and where.
        spaces: The same for the cells of one alternative, by its label; an empty one is not tuned.
        extend: Whether a grid whose best point lies on its edge gets more points beyond it.
    """

    method: Literal["grid", "quasi_random"]
    trials: int
    seeds: tuple[int, ...]
    space: Space
    spaces: Mapping[str, Space]
    extend: bool


@dataclass(frozen=True)
class Statistics:
    """How seeds are summed up.

    Attributes:
        interval: Of means, see `steepest.study.analysis.statistics.summarize`.
        test: Of pairs, see `steepest.study.analysis.statistics.compare_pairs`.
    """

    interval: Literal["t", "bootstrap"] = "t"
    test: Literal["welch", "paired", "mann_whitney"] = "welch"


@dataclass(frozen=True)
class Study:
    """A question and the runs that answer it.

    Attributes:
        name: Name of its file.
        scale: The scale that was chosen, such as `smoke`.
        question: What it asks.
        reference: Where the question comes from.
        base: Configs of `steepest fit`, in order.
        options: Options over those, by dotted name.
        callbacks: Options of callbacks beside the default ones, by name.
        axes: What is varied.
        workloads: Names of axes whose labels are tasks: the rest is compared within each of them, never across.
        seeds: Seeds of the final trials.
        tuning: How free options are chosen, or None.
        metric: What counts.
        bound: Training loss above which a run has diverged.
        figures: Figures of the report: `kind`, and options of that kind.
        seconds: Rough time of one trial, for the estimate of a plan, or None.
        path: The file it was read from.
        statistics: Interval and test.
    """

    name: str
    scale: str
    question: str
    reference: str
    base: tuple[Path, ...]
    options: Options
    callbacks: Mapping[str, Options]
    axes: tuple[Axis, ...]
    workloads: tuple[str, ...]
    seeds: tuple[int, ...]
    tuning: Tuning | None
    metric: Metric
    bound: float
    figures: tuple[Options, ...]
    seconds: float | None
    path: Path
    statistics: Statistics = Statistics()
