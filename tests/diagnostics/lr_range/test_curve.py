import math
from dataclasses import replace
from itertools import pairwise

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.diagnostics.lr_range.curve import Divergence, LRCurve, MovingAverage, centered, grid
from steepest.diagnostics.lr_range.range_test import LRTrial, largest_stable
from steepest.diagnostics.lr_range.suggestions import _longest_decreasing, combined, suggest, suggestions


def curve(losses: list[float], low: float = 1e-4, high: float = 1e3, smoothing: float = 0.9) -> LRCurve:
    average = MovingAverage(smoothing)
    smoothed = [average.add(loss) for loss in losses]
    rates = grid(low, high, len(losses), "exponential")
    limit = Divergence().limit(losses[0], min(smoothed))
    return LRCurve("test", 0, rates, rates, losses, smoothed, "diverged", smoothing, limit)


def falling(center: float, noise: float, seed: int, steps: int = 100) -> LRCurve:
    """A loss that falls as a logistic function of log10(lr), steepest at `center`, and explodes behind 2."""
    generator = numpy.random.default_rng(seed)
    losses = []
    for rate in grid(1e-4, 1e3, steps, "exponential"):
        x = math.log10(rate)
        fall = 1.5 / (1.0 + math.exp(-3.0 * (x - center)))
        losses.append(2.3 - fall + math.exp(3.0 * (x - 2.0)) + noise * generator.normal())
        if losses[-1] > 6.0:
            break
    return replace(curve(losses), learning_rates=grid(1e-4, 1e3, steps, "exponential")[: len(losses)])


@pytest.mark.parametrize("center", [-2.0, -1.0, 0.0])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_steepest_is_where_the_loss_falls_fastest_over_the_logarithm(center, noise) -> None:
    found = combined([falling(center, noise, seed) for seed in range(9)], "steepest")
    assert found is not None
    assert math.log10(found) == pytest.approx(center, abs=0.15)


def test_the_rules_agree_with_a_smooth_curve() -> None:
    smooth = falling(-1.0, 0.0, 0)
    found = {name: math.log10(value) for name, value in suggestions(smooth).items() if value is not None}
    x = numpy.log10(smooth.learning_rates)
    losses = numpy.asarray(smooth.losses)
    lowest = float(x[losses.argmin()])
    assert found["minimum"] == pytest.approx(lowest - 1.0, abs=0.3)
    # A curve that falls from its first point on is its own longest decreasing subsequence.
    assert found["valley"] == pytest.approx((lowest - 4.0) / 2.0, abs=0.2)
    assert found["max_stable"] == pytest.approx(float(x[losses <= losses[0]].max()), abs=0.3)
    assert found["slide"] < lowest - 14 * 7 / 99
    assert found["steepest"] < found["max_stable"]


def test_noise_moves_the_suggestions_little() -> None:
    for rule, spread in (("steepest", 0.3), ("minimum", 0.2), ("valley", 0.3), ("max_stable", 0.2)):
        values = [math.log10(suggest(falling(-1.0, 0.05, seed), rule) or math.nan) for seed in range(40)]  # type: ignore
        assert numpy.std(values) < spread, rule


def test_a_curve_without_a_fall_suggests_nothing() -> None:
    generator = numpy.random.default_rng(0)
    flat = curve([2.0 + 0.1 * generator.normal() for _ in range(80)])
    rising = curve([2.0 + 0.01 * step for step in range(80)])
    for own in (flat, rising):
        found = suggestions(own)
        assert all(found[rule] is None for rule in ("steepest", "minimum", "valley", "slide"))
    assert suggestions(rising)["max_stable"] == pytest.approx(1e-4, rel=1e-9)
    assert combined([flat, rising], "minimum") is None
    assert suggest(curve([1.0, 0.5]), "steepest") is None


def test_the_median_over_seeds_is_taken_over_the_logarithm() -> None:
    own = [falling(center, 0.0, 0) for center in (-2.0, 0.0)]
    single = [suggest(one, "steepest") for one in own]
    assert combined(own, "steepest") == pytest.approx(math.sqrt(single[0] * single[1]))  # type: ignore[operator]


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rule must be one of steepest, .*, got 'best'"):
        suggest(falling(0.0, 0.0, 0), "best")  # type: ignore[arg-type]


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=9))
@settings(max_examples=100, deadline=None)
def test_the_longest_decreasing_subsequence_equals_brute_force(values) -> None:
    longest = 0
    for mask in range(1 << len(values)):
        picked = [value for index, value in enumerate(values) if mask >> index & 1]
        if all(one > other for one, other in pairwise(picked)):
            longest = max(longest, len(picked))
    found = _longest_decreasing(values)
    assert len(found) == longest
    assert found == sorted(found)
    assert all(values[one] > values[other] for one, other in pairwise(found))


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.floats(0.0, 0.99))
@settings(max_examples=100, deadline=None)
def test_the_moving_average_is_the_weighted_mean(values, smoothing) -> None:
    average = MovingAverage(smoothing)
    found = [average.add(value) for value in values]
    assert found[0] == pytest.approx(values[0], rel=1e-12)
    for count in range(1, len(values) + 1):
        weights = smoothing ** numpy.arange(count)[::-1]
        assert found[count - 1] == pytest.approx(numpy.average(values[:count], weights=weights), rel=1e-9, abs=1e-9)


def test_smoothing_in_both_directions_has_no_delay() -> None:
    x = numpy.linspace(-1, 1, 101)
    symmetric = [float(value) for value in x**2]
    found = numpy.asarray(centered(replace(curve(symmetric), limit=math.inf)))
    assert abs(int(found.argmin()) - 50) <= 1
    one_way = numpy.asarray(curve(symmetric).smoothed)
    assert int(one_way.argmin()) > 55  # the delay it avoids


@pytest.mark.parametrize(
    ("rule", "first", "lowest", "limit"),
    [
        (Divergence(), 2.0, 2.0, 4.0),  # without a fall, twice the first loss
        (Divergence(), 2.0, 0.5, 3.5),
        (Divergence(), -2.0, -3.0, -1.0),  # negative losses
        (Divergence(rise=1.0), 2.0, 0.0, 2.0),
        (Divergence(ratio=4.0), 2.0, 0.1, 8.0),
        (Divergence(ratio=4.0), -2.0, -3.0, 4.0),
    ],
)
def test_the_limit_of_divergence(rule, first, lowest, limit) -> None:
    assert rule.limit(first, lowest) == pytest.approx(limit)


def test_grids_include_both_ends() -> None:
    assert grid(1e-3, 1e1, 5, "exponential") == pytest.approx([1e-3, 1e-2, 1e-1, 1.0, 10.0])
    assert grid(1.0, 3.0, 3, "linear") == pytest.approx([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grid(1.0, 1.0, 5, "linear"), "must rise between two numbers above 0, got 1 to 1"),
        (lambda: grid(2.0, 1.0, 5, "linear"), "got 2 to 1"),
        (lambda: grid(0.0, 1.0, 5, "exponential"), "got 0 to 1"),
        (lambda: grid(1.0, math.inf, 5, "exponential"), "got 1 to inf"),
        (lambda: grid(1.0, math.nan, 5, "exponential"), "got 1 to nan"),
        (lambda: grid(1.0, 2.0, 1, "linear"), "at least 2 values, got 1"),
        (lambda: grid(1.0, 2.0, 3, "cubic"), "got 'cubic'"),  # type: ignore[arg-type]
        (lambda: MovingAverage(1.0), r"smoothing must lie in \[0, 1\), got 1.0"),
        (lambda: Divergence(rise=0.0), "divergence must be above 0, got 0.0"),
        (lambda: Divergence(ratio=1.0), "stop_ratio must be above 1, got 1.0"),
    ],
)
def test_values_out_of_range_are_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_largest_stable_rate_is_stable_for_all_seeds() -> None:
    good, bad, broken = [2.0] + 20 * [1.0], [2.0] + 20 * [3.0], [2.0, 1.0, math.nan]
    trials = [LRTrial("a", 0, rate, rate, losses) for rate, losses in ((0.1, good), (0.2, good), (0.4, bad))]
    assert [trial.stable for trial in trials] == [True, True, False]
    assert largest_stable(trials) == 0.2
    assert largest_stable([*trials, LRTrial("a", 1, 0.2, 0.2, broken)]) == 0.1
    assert largest_stable([LRTrial("a", 0, 1.0, 1.0, broken)]) is None
    # The mean of the last ten is compared, not the last one.
    assert LRTrial("a", 0, 1.0, 1.0, [2.0] + 19 * [1.0] + [10.0]).stable
