import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from steepest.study.analysis.statistics import spread, summarize

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12)


def test_interval_of_student_by_hand() -> None:
    # Mean 3, standard deviation sqrt(2.5), t(0.975; 4) = 2.776445.
    summary = summarize([3.0, 1.0, 5.0, 2.0, 4.0])
    assert (summary.mean, summary.median, summary.count, summary.diverged) == (3.0, 3.0, 5, 0)
    assert summary.standard_deviation == pytest.approx(math.sqrt(2.5))
    margin = 2.776445 * math.sqrt(2.5 / 5)
    assert (summary.low, summary.high) == pytest.approx((3 - margin, 3 + margin), rel=1e-6)


@pytest.mark.parametrize("method", ["t", "bootstrap"])
def test_coverage_is_near_the_confidence(method) -> None:
    generator = numpy.random.default_rng(1)
    hits, rounds = 0, 60 if method == "bootstrap" else 600
    for _ in range(rounds):
        summary = summarize(generator.normal(2.0, 3.0, 20).tolist(), method, confidence=0.9)
        hits += summary.low <= 2.0 <= summary.high
    assert hits / rounds == pytest.approx(0.9, abs=0.08)


def test_bootstrap_is_that_of_scipy_in_any_order() -> None:
    values = [0.91, 0.93, 0.92, 0.97, 0.90, 0.91]
    summary = summarize(values, "bootstrap")
    generator = numpy.random.default_rng(0)
    expected = stats.bootstrap((sorted(values),), numpy.mean, n_resamples=10_000, rng=generator).confidence_interval
    assert (summary.low, summary.high) == (expected.low, expected.high)
    assert summarize(values[::-1], "bootstrap") == summary


@pytest.mark.parametrize("method", ["t", "bootstrap"])
@pytest.mark.parametrize(
    ("values", "count", "diverged", "mean", "interval"),
    [
        ([], 0, 0, math.nan, (math.nan, math.nan)),
        ([math.nan, math.inf], 0, 2, math.nan, (math.nan, math.nan)),
        ([0.5, math.nan], 1, 1, 0.5, (math.nan, math.nan)),
        ([0.1, 0.1, 0.1, math.nan], 3, 1, 0.1, (0.1, 0.1)),
        ([0.0, 0.0], 2, 0, 0.0, (0.0, 0.0)),
    ],
)
def test_few_equal_and_diverged(values, count, diverged, mean, interval, method) -> None:
    summary = summarize(values, method)
    assert (summary.count, summary.diverged) == (count, diverged)
    assert (summary.mean, summary.low, summary.high) == pytest.approx((mean, *interval), nan_ok=True)


@given(VALUES, st.integers(0, 3), st.randoms(use_true_random=False))
def test_laws(values, diverged, random) -> None:
    summary = summarize(values + diverged * [math.nan])
    assert summary.count == len(values)
    assert summary.diverged == diverged
    assert summary.low <= summary.mean <= summary.high
    assert min(values) - 1e-9 <= summary.mean <= max(values) + 1e-9
    wider = summarize(values, confidence=0.99)
    assert wider.low <= summary.low
    assert wider.high >= summary.high
    random.shuffle(values)
    assert summarize(values + diverged * [math.nan]) == summary


@settings(max_examples=15)
@given(VALUES)
def test_bootstrap_stays_within_the_values(values) -> None:
    summary = summarize(values, "bootstrap")
    assert min(values) - 1e-9 <= summary.low <= summary.high <= max(values) + 1e-9


def test_spread() -> None:
    assert spread([1.0, 3.0, math.nan]) == pytest.approx(math.sqrt(2))
    assert math.isnan(spread([1.0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "normal"}, "method must be t or bootstrap, not normal"),
        ({"confidence": 95}, "confidence must be above 0 and below 1, not 95"),
    ],
)
def test_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        summarize([1.0, 2.0], **options)
