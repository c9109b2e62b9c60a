"""What several seeds of one experiment say together: mean, spread and interval of the runs that finished."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy
from scipy import stats

INTERVALS = {"t": "Student's", "bootstrap": "bootstrap"}  # names in sentences


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


def spread(values: Sequence[float]) -> float:
    """Standard deviation across the points of an axis, of widths for example.

    A small one says that the axis does not matter for this metric, not that its best learning rate stays: the shift of
    the optimum tells that (`steepest.study.sensitivity.shift`).

    Args:
        values: The mean at each point; those that are not finite are left out.

    Returns:
        With divisor count - 1; NaN for fewer than two.
    """
    return summarize(values).standard_deviation
