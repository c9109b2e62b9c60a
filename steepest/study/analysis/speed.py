"""Steps and training time to a target, where a miss counts as infinity; profiles and speed-ups made of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy

from steepest.study.question.definition import Metric
from steepest.study.trials.results import TrialResult

LARGEST_RATIO = 4.0  # to the fastest; what is slower counts like a miss


@dataclass(frozen=True)
class Crossing:
    """Where a run first reached its target.

    Attributes:
        step: Optimizer steps until then; infinite if it never did.
        seconds: Training time until then, without evaluation; infinite if it never did, NaN if no clock ran.
    """

    step: float
    seconds: float

    @property
    def reached(self) -> bool:
        """Whether it ever did."""
        return math.isfinite(self.step)


@dataclass(frozen=True)
class TimeToTarget:
    """Of several runs; infinite means never.

    Attributes:
        count: Runs that could have reached the target: those that finished or diverged.
        reached: How many of them did.
        median_steps: Infinite if half of the runs or more missed.
        mean_steps: Infinite if any run missed.
        median_seconds: Likewise; NaN if no clock ran.
        mean_seconds: Likewise.
    """

    count: int
    reached: int
    median_steps: float
    mean_steps: float
    median_seconds: float
    mean_seconds: float

    def __str__(self) -> str:
        return f"{self.reached} of {self.count} reached"


MISS = Crossing(math.inf, math.inf)


def first_crossing(points: Sequence[Sequence[float | None]], target: float, mode: Literal["max", "min"]) -> Crossing:
    """The first evaluation at which a metric is at its target or beyond.

    Nothing is interpolated: targets are judged where every run of a study is evaluated, so that no run gains from being
    looked at more often.

    Args:
        points: Step, training seconds (None without a clock) and value of each evaluation, in order.
        target: Value to reach.
        mode: "max" if larger is better, "min" if smaller is.

    Returns:
        Its step and time, infinite if there is none.

    Raises:
        ValueError: if `mode` is neither.
    """
    if mode not in ("max", "min"):
        raise ValueError(f"mode must be max or min, not {mode}")
    for step, seconds, value in points:
        if step is not None and value is not None and (value >= target if mode == "max" else value <= target):
            return Crossing(float(step), math.nan if seconds is None else float(seconds))
    return MISS


def crossing(result: TrialResult, metric: Metric) -> Crossing:
    """Where a trial first reached the metric's target; one that diverged later has not reached it.

    A run that an optimizer cannot complete is of no use, however good it was for a while.

    Raises:
        ValueError: if the metric has no target.
    """
    if metric.target is None:
        raise ValueError(f"the metric {metric.name} has no target")
    if result.status != "finished":
        return MISS
    return first_crossing(result.history.get(metric.name, []), metric.target, metric.mode)


def time_to_target(results: Sequence[TrialResult], metric: Metric) -> TimeToTarget:
    """Mean and median time to the target over trials; failed ones, which say nothing of the optimizer, are left out.

    Args:
        results: Trials that differ in their seed.
        metric: With a target.

    Raises:
        ValueError: if the metric has no target.
    """
    crossings = [crossing(result, metric) for result in results if result.status != "failed"]
    steps, seconds = [each.step for each in crossings], [each.seconds for each in crossings]
    reached = sum(each.reached for each in crossings)
    return TimeToTarget(len(crossings), reached, *_middles(steps), *_middles(seconds))


@dataclass(frozen=True)
class Profile:
    """Of one optimizer over several workloads.

    Attributes:
        ratios: Its time over the fastest one's, for each workload; infinite where it missed the target.
        taus: Grid of ratios from 1 to the largest that counts.
        shares: Share of the workloads whose ratio is at most tau, between 0 and 1, never falling.
        score: Area under the shares over that of always being fastest: from 0 to 1, exact, not by the grid.
    """

    ratios: tuple[float, ...]
    taus: tuple[float, ...]
    shares: tuple[float, ...]
    score: float


def performance_profiles(
    times: Mapping[str, Sequence[float]], largest_ratio: float = LARGEST_RATIO, points: int = 301
) -> dict[str, Profile]:
    """Profiles of several optimizers over the same workloads, as AlgoPerf scores them.

    Ratios are to the fastest of the optimizers given, so that adding one may change the scores of the others.

    Args:
        times: By optimizer, the time to the target of each workload, in the same order; infinite for a miss.
        largest_ratio: Ratios above it count like a miss; above 1.
        points: Size of the grid from 1 to it; at least 2.

    Returns:
        By optimizer. A workload that none completes counts as a miss of all.

    Raises:
        ValueError: if an argument is out of range.
    """
    if not 1 < largest_ratio < math.inf or points < 2:
        raise ValueError(
            f"a profile needs a largest ratio above 1 and 2 points, not {largest_ratio:g} and {points} points"
        )
    ratios = _ratios(times)
    taus = numpy.linspace(1.0, largest_ratio, points)
    return {
        name: Profile(
            tuple(own),
            tuple(taus.tolist()),
            tuple(float(numpy.mean([ratio <= tau for ratio in own])) for tau in taus),
            float(numpy.mean([max(0.0, largest_ratio - ratio) for ratio in own])) / (largest_ratio - 1.0),
        )
        for name, own in ratios.items()
    }


def speed_ups(
    times: Mapping[str, Sequence[float]], baseline: str, largest_ratio: float = LARGEST_RATIO
) -> dict[str, float]:
    """How many times faster than a baseline each optimizer is: geometric mean over workloads.

    A miss has no time, so that each workload's speed-up is held between 1 / `largest_ratio` and `largest_ratio`: a miss
    counts as so many times slower, no more and no less than the slowest that counts. Where both miss it is 1.

    Args:
        times: As in `performance_profiles`.
        baseline: Name of the optimizer that has 1.
        largest_ratio: Above 1.

    Returns:
        By optimizer; above 1 is faster than the baseline.

    Raises:
        ValueError: if an argument is out of range.
    """
    if baseline not in times:
        raise ValueError(f"the baseline must be one of {', '.join(times)}, not {baseline}")
    if not 1 < largest_ratio < math.inf:
        raise ValueError(f"the largest ratio must be above 1, not {largest_ratio:g}")
    ratios = _ratios(times)
    return {
        name: math.exp(
            float(numpy.mean([_log_speed_up(*pair, largest_ratio) for pair in zip(own, ratios[baseline], strict=True)]))
        )
        for name, own in ratios.items()
    }


def workload_times(
    results: Sequence[TrialResult],
    metric: Metric,
    by: str,
    clock: Literal["step", "seconds"] = "step",
    never: Sequence[Mapping[str, str]] = (),
) -> dict[str, list[float]]:
    """Times to the target in the form of `performance_profiles`.

    Each combination of the labels of all other axes is a workload, whose time is the median over seeds, a miss being
    infinite. In a study with a single workload each seed is one instead: the profile then tells how reliably an
    optimizer is fastest on it, and nothing of other workloads.

    Args:
        results: Trials of the final stage; failed ones are left out, and so is a workload that some label lacks.
        metric: With a target.
        by: Name of the axis whose labels are compared.
        clock: Optimizer steps or training seconds.
        never: Labels of cells that have no final trials because their tuning diverged wherever it looked: misses.

    Returns:
        By label, in the order of `results`, then of `never`.

    Raises:
        ValueError: if the metric has no target, or there is no such axis, clock or training time.
    """
    if clock not in ("step", "seconds"):
        raise ValueError(f"clock must be step or seconds, not {clock}")
    times: dict[str, dict[tuple[str, ...], dict[int, float]]] = {}
    for result in results:
        if by not in result.labels:
            raise ValueError(f"there is no axis {by}, only {', '.join(result.labels)}")
        if result.status != "failed":
            workload = tuple(label for axis, label in result.labels.items() if axis != by)
            seeds = times.setdefault(result.labels[by], {}).setdefault(workload, {})
            seeds[result.seed] = getattr(crossing(result, metric), clock)
    seeds_of_all = {seed for own in times.values() for seeds in own.values() for seed in seeds}
    for labels in never:
        workload = tuple(label for axis, label in labels.items() if axis != by)
        times.setdefault(labels[by], {}).setdefault(workload, dict.fromkeys(seeds_of_all, math.inf))
    single = len({workload for own in times.values() for workload in own}) == 1
    instances: dict[str, dict[Any, float]] = {}
    for label, own in times.items():
        medians = {workload: float(numpy.median(list(seeds.values()))) for workload, seeds in own.items()}
        instances[label] = {seed: time for seeds in own.values() for seed, time in seeds.items()} if single else medians
    common = [each for each in next(iter(instances.values()), {}) if all(each in own for own in instances.values())]
    return {label: [own[each] for each in common] for label, own in instances.items()}


def _middles(values: Sequence[float]) -> tuple[float, float]:
    """Median and mean, of which infinity may be part."""
    return (float(numpy.median(values)), float(numpy.mean(values))) if values else (math.nan, math.nan)


def _ratios(times: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    counts = {len(own) for own in times.values()}
    if len(counts) != 1 or counts == {0}:
        raise ValueError(f"every optimizer needs a time for each of the same workloads, not {sorted(counts)} times")
    wrong = [f"{name} has {time}" for name, own in times.items() for time in own if not time >= 0]
    if wrong:
        raise ValueError(f"times must be numbers from 0 on or infinite for a miss: {wrong[0]}")
    fastest = [min(workload) for workload in zip(*times.values(), strict=True)]
    return {name: [_ratio(time, best) for time, best in zip(own, fastest, strict=True)] for name, own in times.items()}


def _ratio(time: float, fastest: float) -> float:
    if math.isinf(time):
        return math.inf
    return 1.0 if time == fastest else time / fastest if fastest > 0 else math.inf


def _log_speed_up(own: float, baseline: float, largest: float) -> float:
    if math.isinf(own) and math.isinf(baseline):
        return 0.0
    return math.log(min(max(baseline / own, 1 / largest), largest))
