"""Figures of range tests and envelopes, read off their axes."""

import math

import numpy
import pytest

from steepest.diagnostics.lr_range.curve import LRCurve, centered
from steepest.diagnostics.lr_range.figures import COLORS, MARKERS, envelope, range_test
from steepest.diagnostics.lr_range.range_test import LRTrial
from steepest.diagnostics.lr_range.suggestions import suggestions
from tests.diagnostics.figures import curve

RATES = [10 ** (k / 10 - 4) for k in range(41)]


def fall(name: str, lowest: float, seed: int = 0) -> LRCurve:
    """A loss that falls to 0.5 at a rate and explodes behind it."""
    losses = [0.5 + min(1.5, 0.6 * math.log10(rate / lowest) ** 2) for rate in RATES]
    losses[-1] = 50.0
    return LRCurve(name, seed, list(RATES), list(RATES), losses, list(losses), "diverged", 0.9, 5.0)


def test_a_range_test_shows_losses_averages_and_suggestions() -> None:
    curves = [fall("a", 1e-2), fall("b", 1e-1)]
    (axes,) = range_test(curves, "minimum").axes
    own = {color: [line for line in axes.lines if line.get_color() == color] for color in COLORS[:2]}
    for color, found in zip(own, curves, strict=True):
        points, average, suggestion, *marks = own[color]
        assert curve(points) == list(zip(RATES, found.losses, strict=True))
        assert curve(average) == list(zip(RATES, centered(found), strict=True))
        told = suggestions(found)
        assert list(suggestion.get_xdata()) == pytest.approx([told["minimum"]] * 2)
        shown = {mark.get_marker(): curve(mark)[0] for mark in marks}
        known = {MARKERS[name]: rate for name, rate in told.items() if rate is not None}
        assert {marker: x for marker, (x, _) in shown.items()} == pytest.approx(known)
        for rate, height in shown.values():
            place = next(k for k, each in enumerate(RATES) if each >= rate * (1 - 1e-9))
            assert height in centered(found)[place : place + 2]  # a median by logarithms may lie a rounding above
    # A loss of 50 is cut off at the limit of divergence, 5: a twentieth of 4.5 is left free.
    assert axes.get_ylim() == pytest.approx((0.5 - 0.05 * 4.5, 5.0 + 0.05 * 4.5))


def test_an_envelope_shows_final_losses_and_the_limit() -> None:
    trials = [
        LRTrial("a", 0, 1.0, 0.1, [2.0] + 20 * [1.0]),
        LRTrial("a", 0, 2.0, 0.2, [2.0] + 20 * [0.5]),
        LRTrial("a", 0, 4.0, 0.4, [2.0] + 20 * [9.0]),
        LRTrial("b", 0, 1.0, 0.1, [2.0, 1.0, math.nan]),
    ]
    (axes,) = envelope(trials).axes
    # From the first loss as far up as it fell, 1.5, and 6 % of the whole more: there stand those beyond.
    low, high = 0.5, 2.0 + 1.5
    top = high + 0.06 * (high - low)
    line, one, two, three, limit, other, cross, first = axes.lines
    assert numpy.allclose(curve(line), [(0.1, 1.0), (0.2, 0.5), (0.4, top)])
    assert [curve(mark)[0] for mark in (one, two, three)] == curve(line)
    assert [mark.get_marker() for mark in (one, two, three, cross)] == ["o", "o", "X", "X"]
    assert limit.get_xdata()[0] == 0.2
    assert curve(other) == curve(cross) == [(0.1, curve(line)[2][1])]
    assert first.get_ydata()[0] == 2.0
    assert axes.get_ylim() == pytest.approx((low - 0.06 * (high - low), top + 0.06 * (high - low)))
