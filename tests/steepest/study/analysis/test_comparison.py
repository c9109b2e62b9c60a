import itertools
import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from steepest.study.analysis.statistics import best, compare_pairs, hedges_g, holm

A = [0.90, 0.91, 0.92, 0.91, 0.93]
B = [0.94, 0.95, 0.93, 0.96, 0.95]
C = [0.91, 0.95, 0.90, 0.94, 0.93]
NAN = math.nan
PROBABILITIES = st.lists(st.floats(0, 1), max_size=8)


def test_welch_from_its_formula() -> None:
    (comparison,) = compare_pairs({"a": A, "b": B}, confidence=0.9)
    squares = numpy.var(A, ddof=1) / 5, numpy.var(B, ddof=1) / 5
    error = math.sqrt(sum(squares))
    freedom = sum(squares) ** 2 / sum(square**2 / 4 for square in squares)
    assert comparison.difference == pytest.approx(-0.032)
    assert comparison.p_value == pytest.approx(2 * stats.t.sf(0.032 / error, freedom))
    margin = stats.t.ppf(0.95, freedom) * error
    assert (comparison.low, comparison.high) == pytest.approx((-0.032 - margin, -0.032 + margin))
    assert comparison.adjusted_p_value == comparison.p_value
    assert comparison.counts == (5, 5)


def test_pairs_take_away_what_the_seed_does_to_both() -> None:
    generator = numpy.random.default_rng(0)
    seeds = generator.normal(0, 1, 6)
    first, second = seeds + generator.normal(0, 0.01, 6), seeds + 0.05 + generator.normal(0, 0.01, 6)
    (paired,) = compare_pairs({"a": first, "b": second}, test="paired")
    expected = stats.ttest_1samp(first - second, 0.0)
    assert paired.p_value == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (paired.low, paired.high) == pytest.approx((interval.low, interval.high))
    (unpaired,) = compare_pairs({"a": first, "b": second})
    assert paired.p_value < 0.01 < 0.5 < unpaired.p_value
    # A seed that diverged in one group counts in neither.
    (fewer,) = compare_pairs({"a": [*first[:5], NAN], "b": second}, test="paired")
    assert fewer.counts == (5, 5)
    assert fewer.difference == pytest.approx(float(numpy.mean(first[:5] - second[:5])))


def test_pairs_are_made_by_seed() -> None:
    by_seed = {"a": {0: 1.0, 1: 2.0, 2: 4.0, 3: NAN}, "b": {2: 4.5, 1: 3.0, 0: 1.2, 9: 7.0}, "c": {3: 1.0, 0: 2.0}}
    pair, few, _ = compare_pairs(by_seed, test="paired")
    assert pair.counts == (3, 3)
    assert pair.difference == pytest.approx(-(0.2 + 1.0 + 0.5) / 3)
    assert pair.p_value == pytest.approx(stats.ttest_1samp([-0.2, -1.0, -0.5], 0.0).pvalue)
    assert few.reason == "not testable: 2 seeds that finished in both are needed, not 1"
    winner = best(by_seed, "min", test="paired")
    assert winner is not None
    assert (winner.name, winner.untestable) == ("c", ("a", "b"))
    (unpaired,) = compare_pairs({name: by_seed[name] for name in ("a", "b")})
    assert unpaired.counts == (3, 4)


def test_mann_whitney_counts_all_arrangements() -> None:
    x, y = [1.0, 2.0, 4.5], [3.0, 4.0, 6.0, 7.0]
    (comparison,) = compare_pairs({"x": x, "y": y}, test="mann_whitney")
    values = x + y

    def statistic(chosen) -> int:
        others = [value for place, value in enumerate(values) if place not in chosen]
        return sum(values[place] > other for place in chosen for other in others)

    every = [statistic(chosen) for chosen in itertools.combinations(range(7), 3)]
    smallest = min(statistic((0, 1, 2)), 12 - statistic((0, 1, 2)))
    assert comparison.p_value == pytest.approx(2 * sum(each <= smallest for each in every) / len(every))
    assert comparison.low < comparison.difference < comparison.high


def test_effect_size_by_hand() -> None:
    # Means 2 and 4, both variances 1: two pooled deviations; the correction for 4 degrees of freedom is
    # gamma(2) / (sqrt(2) gamma(1.5)) = 0.797885.
    assert hedges_g([3.0, 4.0, 5.0], [1.0, 2.0, 3.0]) == pytest.approx(2 * 0.797885, rel=1e-6)
    assert hedges_g([1.0, 1.0], [1.0, 1.0]) == 0.0
    assert hedges_g([1.0, 1.0], [2.0, 2.0]) == -math.inf


def test_holm_by_hand() -> None:
    # Ascending: 5 x 0.0003, 4 x 0.003, 3 x 0.054, 2 x 0.32, and 0.5 lifted to the one before.
    assert holm([0.5, 0.003, 0.32, 0.054, 0.0003]) == pytest.approx([0.64, 0.012, 0.64, 0.162, 0.0015])
    assert holm([]) == []
    with pytest.raises(ValueError, match="between 0 and 1, not"):
        holm([0.1, NAN])


@given(PROBABILITIES, st.randoms(use_true_random=False))
def test_laws_of_holm(p_values, random) -> None:
    adjusted = holm(p_values)
    assert all(1 >= after >= before for before, after in zip(p_values, adjusted, strict=True))
    assert all(after <= min(1.0, len(p_values) * before) for before, after in zip(p_values, adjusted, strict=True))
    pairs = sorted(zip(p_values, adjusted, strict=True))
    assert [after for _, after in pairs] == sorted(adjusted)
    order = list(range(len(p_values)))
    random.shuffle(order)
    assert holm([p_values[place] for place in order]) == [adjusted[place] for place in order]


def test_all_pairs_are_corrected_together_and_those_not_testable_left_out() -> None:
    groups = {"a": A, "b": B, "one": [0.5, NAN], "c": C, "none": [NAN, NAN]}
    comparisons = {(each.first, each.second): each for each in compare_pairs(groups)}
    assert list(comparisons) == list(itertools.combinations(groups, 2))
    tested = [comparisons[pair] for pair in (("a", "b"), ("a", "c"), ("b", "c"))]
    assert [each.adjusted_p_value for each in tested] == holm([each.p_value for each in tested])
    assert (
        comparisons["one", "none"].reason == "not testable: 2 finished runs each are needed, one has 1 and none has 0"
    )
    assert comparisons["a", "one"].difference == pytest.approx(0.414)
    for pair, each in comparisons.items():
        assert math.isnan(each.p_value) is math.isnan(each.adjusted_p_value) is bool({"one", "none"} & {*pair})


@pytest.mark.parametrize("test", ["welch", "paired", "mann_whitney"])
def test_runs_that_do_not_scatter(test) -> None:
    groups = {"x": [0.3, 0.1 + 0.2], "same": [0.3, 0.3], "other": [0.5, 0.5]}
    equal, different, _ = compare_pairs(groups, test=test)
    assert (equal.p_value, equal.adjusted_p_value, equal.effect_size, equal.reason) == (1.0, 1.0, 0.0, None)
    # Two seeds that tie by chance, as accuracies on few images do, make no difference certain.
    assert different.difference == pytest.approx(-0.2)
    assert different.reason == "not testable: results do not vary over seeds"
    assert math.isnan(different.p_value)
    assert math.isnan(different.adjusted_p_value)
    winner = best(groups, "max", test)
    assert winner is not None
    assert (winner.name, winner.constant, winner.untestable, winner.indistinguishable) == (
        "other",
        ("x", "same"),
        (),
        (),
    )
    winner = best(groups, "min", test)
    assert winner is not None
    assert (winner.constant, {winner.name, *winner.indistinguishable}) == (("other",), {"x", "same"})


def test_pairs_that_always_differ_alike() -> None:
    same, shifted, _ = compare_pairs({"x": A, "same": A, "shifted": [value + 0.5 for value in A]}, test="paired")
    assert (same.p_value, same.difference) == (1.0, 0.0)
    assert shifted.difference == pytest.approx(-0.5)
    assert shifted.reason == "not testable: results do not vary over seeds"


GROUPS = st.lists(st.lists(st.floats(-1e3, 1e3) | st.just(NAN), min_size=5, max_size=5), min_size=2, max_size=4)


@given(GROUPS, st.sampled_from(["welch", "paired", "mann_whitney"]))
def test_laws_of_comparisons(values, test) -> None:
    groups = {str(place): each for place, each in enumerate(values)}
    forward = {frozenset((each.first, each.second)): each for each in compare_pairs(groups, test=test)}
    backward = {
        frozenset((each.first, each.second)): each for each in compare_pairs(dict(reversed(groups.items())), test=test)
    }
    for pair, each in forward.items():
        other = backward[pair]
        assert other.difference == pytest.approx(-each.difference, nan_ok=True)
        assert other.adjusted_p_value == pytest.approx(each.adjusted_p_value, nan_ok=True, abs=1e-9)
        if each.reason is None:
            assert 0 <= each.p_value <= each.adjusted_p_value <= 1
            assert each.low <= each.difference <= each.high
            assert (other.low, other.high) == pytest.approx((-each.high, -each.low))


def test_the_winner_and_those_like_it() -> None:
    groups = {"a": A, "b": B, "c": C, "lucky": [0.99, 0.99, 0.98, 0.99, NAN], "one": [0.9], "none": [NAN]}
    winner = best(groups, "max")
    assert winner is not None
    assert (winner.name, winner.mean) == ("b", pytest.approx(0.946))
    assert winner.indistinguishable == ("c",)
    assert winner.untestable == ("one",)
    assert winner.diverged == ("none",)
    assert winner.unreliable == ("lucky",)
    losing = best(groups, "min")
    assert losing is not None
    assert losing.name == "one"
    assert set(losing.untestable) == set(groups) - {"one", "none"}
    # Where runs diverged in every group, the best of those that finished.
    survivor = best({"x": [1.0, 2.0, NAN], "y": [3.0, 4.0, NAN]}, "max")
    assert survivor is not None
    assert survivor.name == "y"
    assert best({"none": [NAN]}, "max") is None
    assert best({}, "max") is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: compare_pairs({"a": A, "b": B}, test="anova"),
            "must be welch, mann_whitney or paired, not anova",
        ),  # type: ignore[arg-type]
        (lambda: compare_pairs({"a": A, "b": B}, confidence=1), "confidence must be above 0 and below 1, not 1"),
        (lambda: compare_pairs({"a": A, "b": B[1:]}, test="paired"), "same seeds, not {'a': 5, 'b': 4}"),
        (lambda: best({"a": A}, "largest"), "mode must be max or min, not largest"),  # type: ignore[arg-type]
        (lambda: best({"a": A}, "max", level=5), "level must be above 0 and below 1, not 5"),
    ],
)
def test_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def exact_welch(x: list[float], y: list[float]) -> tuple[float, float]:
    """P-value and degrees of freedom from Welch's formulas, by integrating Student's density."""
    parts = [numpy.var(own, ddof=1) / len(own) for own in (x, y)]
    t = (numpy.mean(x) - numpy.mean(y)) / math.sqrt(sum(parts))
    freedom = sum(parts) ** 2 / sum(part**2 / (len(own) - 1) for part, own in zip(parts, (x, y), strict=True))
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    tail, _ = integrate.quad(lambda u: scale * (1 + u * u / freedom) ** (-(freedom + 1) / 2), abs(t), math.inf)
    return 2 * tail, freedom


def test_welch_on_groups_of_other_sizes_and_scatter() -> None:
    # Few runs that scatter much against many that scatter little: Student's test with one variance says 0.001.
    x, y = [1.0, 3.5, 6.0], [1.0, 1.1, 0.9, 1.05, 0.95, 1.0, 1.02, 0.98]
    (found,) = compare_pairs({"x": x, "y": y}, confidence=0.9)
    p_value, freedom = exact_welch(x, y)
    assert found.p_value == pytest.approx(p_value, rel=1e-6)
    assert stats.ttest_ind(x, y).pvalue < 0.5 * p_value
    error = math.sqrt(numpy.var(x, ddof=1) / 3 + numpy.var(y, ddof=1) / 8)
    margin = stats.t.ppf(0.95, freedom) * error
    assert (found.low, found.high) == pytest.approx((2.5 - margin, 2.5 + margin))
    # Pooled by degrees of freedom, not by numbers of runs; the correction for 9 degrees of freedom by its series.
    pooled = math.sqrt((2 * numpy.var(x, ddof=1) + 7 * numpy.var(y, ddof=1)) / 9)
    assert found.effect_size == pytest.approx(2.5 / pooled * (1 - 3 / (4 * 9 - 1)), rel=2e-3)


def test_a_difference_at_the_level_itself_is_not_significant() -> None:
    groups = {"a": A, "b": B}
    (found,) = compare_pairs(groups)
    for level, told in ((found.adjusted_p_value, ("a",)), (found.adjusted_p_value * 1.001, ())):
        winner = best(groups, "max", level=level)
        assert winner is not None
        assert (winner.name, winner.indistinguishable) == ("b", told)


def test_the_winner_is_told_apart_by_corrected_p_values() -> None:
    groups = {"a": A, "b": B, "c": C, "d": [0.90, 0.93, 0.94, 0.92, 0.945]}
    pairs = {each.first: each for each in compare_pairs(groups) if each.second == "b" or each.first == "b"}
    single, corrected = pairs["a"].p_value, pairs["a"].adjusted_p_value
    assert corrected == pytest.approx(6 * single)  # the smallest of six
    between = (single + corrected) / 2
    winner = best(groups, "max", level=between)
    assert winner is not None
    assert winner.indistinguishable == ("d", "c", "a")  # best mean first
    winner = best(groups, "max", level=corrected * 1.01)
    assert winner is not None
    assert "a" not in winner.indistinguishable
