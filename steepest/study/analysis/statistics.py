"""What several seeds say together: mean and interval of one group of runs, and which groups differ."""

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy
from scipy import stats

Test = Literal["welch", "mann_whitney", "paired"]
Group = Sequence[float] | Mapping[int, float]

# Names in sentences.
INTERVALS = {"t": "Student's", "bootstrap": "bootstrap"}
TESTS = {"welch": "Welch's t-test", "paired": "paired t-test", "mann_whitney": "Mann-Whitney test"}
WITHOUT_SCATTER = "not testable: results do not vary over seeds"


@dataclass(frozen=True)
class Summary:
    """Of one number over several runs; what is undefined is NaN.

    Attributes:
        mean: Over the runs that finished.
        standard_deviation: Of the sample (divisor count - 1); NaN for fewer than two runs.
        count: How many runs finished.
        low: Lower end of the confidence interval of the mean; NaN for fewer than two runs.
        high: Its upper end.
        median: Over the runs that finished.
        diverged: How many further runs have no value. All else leaves them out, so it must be told beside the mean.
    """

    mean: float
    standard_deviation: float
    count: int
    low: float
    high: float
    median: float
    diverged: int


@dataclass(frozen=True)
class Comparison:
    """Of two groups of runs.

    Attributes:
        first: Name of one group.
        second: Name of the other.
        counts: How many runs of each were compared.
        difference: Mean of the first minus mean of the second; NaN where one has no finished run.
        low: Lower end of the difference's confidence interval; NaN if not testable.
        high: Its upper end.
        effect_size: Hedges' g: the difference in pooled standard deviations, corrected for small samples; NaN if not
            testable.
        p_value: Two-sided, of this pair alone; NaN if not testable.
        adjusted_p_value: By Holm's correction over all pairs that were tested.
        reason: Why the pair is not testable; None if it is.
    """

    first: str
    second: str
    counts: tuple[int, int]
    difference: float
    low: float
    high: float
    effect_size: float
    p_value: float
    adjusted_p_value: float
    reason: str | None = None


@dataclass(frozen=True)
class Winner:
    """The best of several groups, as far as the runs tell.

    Attributes:
        name: The group with the best mean among those where no run diverged (among all, if runs diverged in each).
        mean: Its mean.
        indistinguishable: Groups whose difference from it is not significant, best first.
        untestable: Groups with too few finished runs to be tested against it, best first; those without any run last.
        constant: Groups that no test can compare with it, since neither varies over seeds, best first.
        diverged: Groups all of whose runs diverged.
        unreliable: Groups whose finished runs have a better mean, but in which others diverged.
        level: Adjusted p-value below which a difference is significant.
    """

    name: str
    mean: float
    indistinguishable: tuple[str, ...]
    untestable: tuple[str, ...]
    constant: tuple[str, ...]
    diverged: tuple[str, ...]
    unreliable: tuple[str, ...]
    level: float


def summarize(values: Sequence[float], method: Literal["t", "bootstrap"] = "t", confidence: float = 0.95) -> Summary:
    """Mean, spread and confidence interval of the mean over runs.

    Args:
        values: One for each run, in any order; not finite for a run that diverged.
        method: "t" for Student's interval, right where runs scatter normally; "bootstrap" for the BCa bootstrap of the
            mean (Efron 1987, doi:10.2307/2289144; 10,000 resamples, the same for the same values), which assumes no
            distribution but is too narrow for fewer than about ten runs.
        confidence: Coverage of the interval, between 0 and 1.

    Returns:
        The summary. Runs that are all equal have the interval [mean, mean].

    Raises:
        ValueError: if `method` or `confidence` is out of range.
    """
    if method not in ("t", "bootstrap"):
        raise ValueError(f"method must be t or bootstrap, not {method}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be above 0 and below 1, not {confidence}")
    # In order, so that the resamples do not depend on the order of the runs.
    finished = numpy.array(sorted(value for value in values if math.isfinite(value)), dtype=numpy.float64)
    count, diverged = len(finished), len(values) - len(finished)
    if count == 0:
        return Summary(math.nan, math.nan, 0, math.nan, math.nan, math.nan, diverged)
    mean, median = float(finished.mean()), float(numpy.median(finished))
    if count == 1:
        return Summary(mean, math.nan, 1, math.nan, math.nan, median, diverged)
    deviation = float(finished.std(ddof=1))
    if is_constant(finished):
        return Summary(median, 0.0, count, median, median, median, diverged)
    if method == "t":
        margin = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * deviation / math.sqrt(count)
        return Summary(mean, deviation, count, mean - margin, mean + margin, median, diverged)
    interval = stats.bootstrap(
        (finished,),
        numpy.mean,
        n_resamples=10_000,
        confidence_level=confidence,
        method="BCa",
        rng=numpy.random.default_rng(0),
    ).confidence_interval
    return Summary(mean, deviation, count, float(interval.low), float(interval.high), median, diverged)


def spread(values: Sequence[float]) -> float:
    """Standard deviation across the points of an axis, of widths for example.

    A small one says that the axis does not matter for this metric, not that its best learning rate stays: the shift of
    the optimum tells that (`steepest.study.analysis.sensitivity.shift`).

    Args:
        values: The mean at each point; those that are not finite are left out.

    Returns:
        With divisor count - 1; NaN for fewer than two.
    """
    return summarize(values).standard_deviation


def compare_pairs(groups: Mapping[str, Group], test: Test = "welch", confidence: float = 0.95) -> list[Comparison]:
    """Compare every two groups; p-values are adjusted by Holm's method for the number of pairs tested.

    In a study the same seed means the same initialization and the same order of the data in every group, so that runs
    of one seed belong together and `test="paired"` is legitimate: it removes what the seed does to all groups alike,
    and it is stronger where seeds matter more than chance does within a run. Welch's test is the default because it
    assumes less: training is chaotic, so that the correlation between runs of one seed is mostly lost after some
    epochs, and pairing then only halves the degrees of freedom. Decide before looking at the results.

    Args:
        groups: Values by name, one for each run, not finite for a run that diverged, which is left out. As a mapping
            by the seed of each run.
        test: "welch": t-test that lets groups scatter differently. "mann_whitney": its p-value is of ranks, free of
            assumptions on the distribution (with five runs each it is at best 0.008); the interval is Welch's.
            "paired": t-test of the differences; a seed counts where both runs finished. Groups that are not mappings
            are in the order of the same seeds.
        confidence: Coverage of the intervals, between 0 and 1; one pair's, not adjusted.

    Returns:
        One comparison for each pair, in the order of `groups`.

    Raises:
        ValueError: if an argument is out of range, or groups of pairs have different lengths.
    """
    if test not in ("welch", "mann_whitney", "paired"):
        raise ValueError(f"test must be welch, mann_whitney or paired, not {test}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be above 0 and below 1, not {confidence}")
    lengths = {name: len(values) for name, values in groups.items() if not isinstance(values, Mapping)}
    if test == "paired" and len(set(lengths.values())) > 1:
        raise ValueError(f"paired groups must have one value for each of the same seeds, not {lengths}")
    runs = {name: _by_seed(group) for name, group in groups.items()}
    comparisons = [
        _compare(first, second, runs[first], runs[second], test, confidence)
        for first, second in itertools.combinations(groups, 2)
    ]
    adjusted = iter(holm([each.p_value for each in comparisons if each.reason is None]))
    return [each if each.reason else replace(each, adjusted_p_value=next(adjusted)) for each in comparisons]


def best(
    groups: Mapping[str, Group], mode: Literal["max", "min"], test: Test = "welch", level: float = 0.05
) -> Winner | None:
    """The best group, and those that the runs cannot distinguish from it.

    Args:
        groups: As in `compare_pairs`.
        mode: Whether the largest or the smallest mean is best.
        test: As in `compare_pairs`.
        level: Adjusted p-value below which a difference is significant, between 0 and 1.

    Returns:
        The winner; None if no run finished.

    Raises:
        ValueError: if an argument is out of range.
    """
    if mode not in ("max", "min"):
        raise ValueError(f"mode must be max or min, not {mode}")
    if not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, not {level}")
    summaries = {name: summarize(list(_by_seed(group).values())) for name, group in groups.items()}
    sign = -1 if mode == "max" else 1
    ranked = sorted(
        (name for name, summary in summaries.items() if summary.count), key=lambda name: sign * summaries[name].mean
    )
    if not ranked:
        return None
    name = next((name for name in ranked if not summaries[name].diverged), ranked[0])
    against = {
        each.second if each.first == name else each.first: each
        for each in compare_pairs(groups, test)
        if name in (each.first, each.second)
    }
    diverged = tuple(other for other, own in summaries.items() if own.diverged and not own.count)
    others = [other for other in ranked if other != name]
    others += [other for other, own in summaries.items() if not own.count and not own.diverged]
    untested = [other for other in others if against[other].reason]
    constant = tuple(other for other in untested if min(against[other].counts) > 1)
    return Winner(
        name,
        summaries[name].mean,
        tuple(other for other in others if against[other].adjusted_p_value >= level),
        tuple(other for other in untested if other not in constant),
        constant,
        diverged,
        tuple(other for other in ranked[: ranked.index(name)] if summaries[other].diverged),
        level,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted by Holm's step-down method (Holm 1979, jstor.org/stable/4615733).

    It bounds the probability of one false claim or more among all tests, whatever depends on what.

    Args:
        p_values: Between 0 and 1, in any order.

    Returns:
        In the same order, each at least as large as before and at most 1.

    Raises:
        ValueError: if a value is not between 0 and 1.
    """
    if not all(0 <= value <= 1 for value in p_values):
        raise ValueError(f"p-values must be between 0 and 1, not {list(p_values)}")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def hedges_g(first: Sequence[float] | numpy.ndarray, second: Sequence[float] | numpy.ndarray) -> float:
    """Difference of means in pooled standard deviations, without bias (Hedges 1981, doi:10.3102/10769986006002107).

    Args:
        first: At least two values, all finite.
        second: Likewise.

    Returns:
        Positive if the first mean is larger; 0 or infinite where neither group scatters.
    """
    x, y = numpy.asarray(first, dtype=numpy.float64), numpy.asarray(second, dtype=numpy.float64)
    difference, freedom = float(x.mean() - y.mean()), len(x) + len(y) - 2
    if is_constant(x) and is_constant(y):
        return 0.0 if is_constant([*x, *y]) else math.copysign(math.inf, difference)
    pooled = math.sqrt(((len(x) - 1) * x.var(ddof=1) + (len(y) - 1) * y.var(ddof=1)) / freedom)
    return math.sqrt(2 / freedom) * math.gamma(freedom / 2) / math.gamma((freedom - 1) / 2) * difference / pooled


def is_constant(values: Sequence[float] | numpy.ndarray, size: float | None = None) -> bool:
    """Whether numbers, at least one and all finite, differ by no more than rounding.

    Args:
        values: The numbers.
        size: Of what was rounded, if not of the numbers themselves: of the terms of differences, for example.

    Returns:
        Also True for differences below 1e-100, whose powers a test statistic could not hold.
    """
    size = float(numpy.max(numpy.abs(values))) if size is None else size
    return float(numpy.ptp(values)) <= max(1e-14 * size, 1e-100)


def _compare(
    first: str, second: str, a: Mapping[int, float], b: Mapping[int, float], test: Test, confidence: float
) -> Comparison:
    finished = [{seed: value for seed, value in own.items() if math.isfinite(value)} for own in (a, b)]
    if test == "paired":
        common = [seed for seed in finished[0] if seed in finished[1]]
        finished = [{seed: own[seed] for seed in common} for own in finished]
    x, y = (numpy.array(list(own.values()), dtype=numpy.float64) for own in finished)
    counts = (len(x), len(y))
    difference = float(x.mean() - y.mean()) if min(counts) > 0 else math.nan
    if min(counts) < 2:
        reason, none = _too_few(first, second, counts, test), math.nan
        return Comparison(first, second, counts, difference, none, none, none, none, none, reason)
    if _without_scatter(x, y, test):
        if is_constant([difference, 0.0], size=float(numpy.max(numpy.abs([*x, *y])))):
            return Comparison(first, second, counts, difference, difference, difference, 0.0, 1.0, math.nan)
        # Few runs of a coarse metric tie by chance, so this is not certain; how probable a tie is, nobody knows.
        none = math.nan
        return Comparison(first, second, counts, difference, none, none, none, none, none, WITHOUT_SCATTER)
    effect = hedges_g(x, y)
    with warnings.catch_warnings():
        # Of groups that hardly scatter: the difference between runs is near rounding, and so is the p-value's error.
        warnings.simplefilter("ignore", RuntimeWarning)
        result: Any = stats.ttest_rel(x, y) if test == "paired" else stats.ttest_ind(x, y, equal_var=False)
        interval = result.confidence_interval(confidence)
        p_value = stats.mannwhitneyu(x, y).pvalue if test == "mann_whitney" else result.pvalue
    low, high = float(interval.low), float(interval.high)
    return Comparison(first, second, counts, difference, low, high, effect, float(p_value), math.nan)


def _by_seed(group: Group) -> Mapping[int, float]:
    return group if isinstance(group, Mapping) else dict(enumerate(group))


def _too_few(first: str, second: str, counts: tuple[int, int], test: Test) -> str:
    if test == "paired":
        return f"not testable: 2 seeds that finished in both are needed, not {counts[0]}"
    named = [f"{name} has {count}" for name, count in zip((first, second), counts, strict=True) if count < 2]
    return f"not testable: 2 finished runs each are needed, {' and '.join(named)}"


def _without_scatter(x: numpy.ndarray, y: numpy.ndarray, test: Test) -> bool:
    """Whether nothing varies over seeds, so that no t-test exists."""
    if test == "paired":
        return is_constant(x - y, size=float(numpy.max(numpy.abs([x, y]))))
    return is_constant(x) and is_constant(y)
