import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steepest.study.analysis.sensitivity import Envelope, curves, envelope, sensitivity, shift
from steepest.study.question.axes import number
from tests.steepest.study.results import ACCURACY, NAN, trial

RATES = [10.0**-power for power in (4, 3, 2, 1, 0)]


def parabola(center: float, rates=RATES) -> dict[float, list[float]]:
    return {rate: [1 + 0.1 * math.log10(rate / center) ** 2 + noise for noise in (-0.01, 0.01)] for rate in rates}


def test_a_parabola_gives_back_its_lowest_point() -> None:
    found = sensitivity(parabola(0.02), "min")
    assert found.best_value == 0.01
    assert found.optimum == pytest.approx(0.02)
    assert not found.at_edge
    # Loss at 1e-3, 1e-2, 1e-1, 1 over 0.02: 1.169, 1.009, 1.049, 1.289; 5 % of the best is up to 1.060.
    assert [found.values[place] for place in found.good] == pytest.approx([0.01, 0.1])
    assert found.good_decades == pytest.approx(1.0)
    assert not found.good_at_edge
    assert sensitivity(parabola(0.02), "min", absolute=0.2).good_decades == pytest.approx(2.0)
    wide = sensitivity(parabola(0.02), "min", relative=0.3)
    assert wide.good_decades == pytest.approx(3.0)
    assert wide.good_at_edge
    assert [each.count for each in found.summaries] == 5 * [2]


def test_one_point_of_accuracy_is_the_tolerance_without_a_gap() -> None:
    points = {1.0: [0.95], 2.0: [0.90], 4.0: [0.95], 8.0: [0.96], 16.0: [0.951]}
    found = sensitivity(points, "max")
    assert (found.best_value, found.good, found.good_at_edge) == (8.0, (2, 3, 4), True)
    assert found.good_decades == pytest.approx(math.log10(4))


def test_divergence_is_never_best_nor_good() -> None:
    points = {0.1: [0.8, 0.8], 1.0: [0.9, NAN], 10.0: [0.79, 0.8], 100.0: [NAN, NAN]}
    found = sensitivity(points, "max")
    assert (found.best_value, found.good) == (0.1, (0,))
    assert found.at_edge
    assert found.optimum == 0.1
    assert found.diverged_shares == (0, 0.5, 0, 1)
    # Where runs diverged at every value, by those that finished.
    found = sensitivity({0.1: [0.8, NAN], 1.0: [0.9, NAN]}, "max")
    assert found.best_value == 1.0
    nothing = sensitivity({0.1: [NAN], 1.0: []}, "max")
    assert (nothing.best, nothing.good) == (None, ())
    assert all(map(math.isnan, (nothing.best_value, nothing.optimum, nothing.good_decades)))


def test_values_that_are_not_positive_have_no_decades() -> None:
    found = sensitivity({0.0: [1.0], 0.31: [0.9], 0.64: [1.2]}, "min", absolute=0.2)
    assert (found.best_value, found.optimum, found.good) == (0.31, 0.31, (0, 1))
    assert math.isnan(found.good_decades)


@given(st.floats(-3.4, -0.6), st.floats(-3.4, -0.6))
def test_shift_is_that_of_the_parabolas(one, other) -> None:
    first, last = sensitivity(parabola(10**one), "min"), sensitivity(parabola(10**other), "min")
    assert shift(first, last) == pytest.approx((other - one) / math.log10(2), abs=1e-6)
    assert shift(last, first) == pytest.approx(-shift(first, last), abs=1e-9)
    assert math.isnan(shift(first, sensitivity({1.0: [NAN]}, "min")))
    assert math.isnan(shift(sensitivity({0.0: [1.0], 1.0: [2.0]}, "min"), last))  # no octave leads to zero


POINTS = st.dictionaries(
    st.floats(1e-4, 1e2), st.lists(st.floats(0.1, 10) | st.just(NAN), min_size=1, max_size=3), min_size=1, max_size=6
)


@given(POINTS)
def test_laws(points) -> None:
    found = sensitivity(points, "min", relative=0.1)
    assert list(found.values) == sorted(points)
    if found.best is not None:
        assert found.best in found.good
        assert list(found.good) == list(range(found.good[0], found.good[-1] + 1))
        inner = found.values[max(0, found.best - 1)], found.values[min(len(points) - 1, found.best + 1)]
        assert inner[0] * (1 - 1e-9) <= found.optimum <= inner[1] * (1 + 1e-9)
    # Larger is better, mirrored.
    mirrored = sensitivity({value: [-each for each in runs] for value, runs in points.items()}, "max", relative=0.1)
    assert (mirrored.best, mirrored.good) == (found.best, found.good)
    limit = envelope(points)
    for value, runs in points.items():
        if limit.largest is not None and value <= limit.largest:
            assert all(map(math.isfinite, runs))
        if value == limit.first_failing:
            assert not all(map(math.isfinite, runs))


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ({0.4: [NAN, 1], 0.1: [1, 1], 0.2: [1, 1]}, Envelope(0.2, 0.4, ())),
        ({0.1: [1, 1], 0.2: [1, NAN], 0.4: [1, 1], 0.8: [NAN, NAN]}, Envelope(0.1, 0.2, (0.4,))),
        ({0.1: [1], 0.2: [1]}, Envelope(0.2, None, ())),
        ({0.1: [NAN], 0.2: [math.inf]}, Envelope(None, 0.1, ())),
        ({0.1: [1], 0.2: []}, Envelope(0.1, None, ())),
        ({}, Envelope(None, None, ())),
    ],
)
def test_envelope(points, expected) -> None:
    assert envelope(points) == expected


def test_curves_from_labels_and_from_tuned_values() -> None:
    results = [
        trial({"optimizer": name, "rate": rate, "width": width}, seed, (value,), status)
        for name, rate, width, seed, value, status in [
            ("SGD", "0.1", "8", 0, 0.5, "finished"),
            ("SGD", "0.1", "16", 0, 0.6, "finished"),
            ("SGD", "1", "8", 0, 0.9, "diverged"),
            ("Adam", "0.1", "8", 0, 0.7, "finished"),
            ("Adam", "1", "8", 0, 0.7, "failed"),
        ]
    ]
    found = curves(results, ACCURACY, "rate", by="optimizer")
    assert found["SGD"][0.1] == [0.5, 0.6]
    assert math.isnan(found["SGD"][1.0][0])
    assert found["Adam"] == {0.1: [0.7]}
    assert list(curves(results, ACCURACY, "rate")) == ["SGD, 8", "SGD, 16", "Adam, 8"]
    tuned = [
        trial({"optimizer": "SGD"}, 1000, (0.5,), stage="tuning", point={"optimizer.lr": 1}),
        trial({"optimizer": "Lion"}, 1000, (0.5,), stage="tuning"),
    ]
    assert curves(tuned, ACCURACY, "optimizer.lr", by="optimizer") == {"SGD": {1.0: [0.5]}}
    assert curves([], ACCURACY, "rate") == {}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sensitivity({1: [1]}, "best"), "mode must be max or min, not best"),  # type: ignore[arg-type]
        (lambda: sensitivity({1: [1]}, "min", absolute=1, relative=1), "absolute or relative, not both"),
        (lambda: sensitivity({1: [1]}, "min", relative=-1), "a tolerance must be a number from 0 on, not -1"),
        (lambda: curves([trial({"a": "x"})], ACCURACY, "rate"), "no axis or tuned option rate, only a"),
        (lambda: curves([trial({"a": "x"})], ACCURACY, "a"), "the values of a must be numbers, not x"),
    ],
)
def test_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_number() -> None:
    assert [number(label) for label in ("1e-3", 2, "inf", "nan", True, None, "SGD")] == [1e-3, 2.0, *5 * [None]]
