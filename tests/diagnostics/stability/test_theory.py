"""Rates and limits in closed form, against iteration matrices written down from each optimizer's own update."""

import math

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steepest.diagnostics.curvature.limits import filter_limit, momentum_limit
from steepest.diagnostics.stability.figures import BLUE, VERMILION, Panel, losses_around_the_limit, rate_curves
from steepest.diagnostics.stability.theory import (
    Rule,
    best_constants,
    check_spectrum,
    classical_rules,
    fitted_rate,
    largest_stable_lr,
    rate,
    rates,
)

RULES = classical_rules(0.8, -0.4, 0.3, 2.0)
NAMES = [rule.name for rule in RULES]
SPECTRUM = torch.tensor([0.5, 3.0, 11.0, 40.0], dtype=torch.float64)


def matrix(rule: Rule, lr: float, h: float) -> list[list[float]]:
    """One step on (w, v), or (w, previous average and gradient) for the filter with a zero, as its paper writes it."""
    b, c, p, r, d = rule.momentum, rule.zero, rule.divisor, rule.coupled, rule.decoupled
    if rule.form == "plain":
        return [[1 - lr * (h + r) / p]]
    if rule.form == "heavy_ball":  # v' = b v + h w, w' = w - lr v'
        return [[1 - lr * h, -lr * b], [h, b]]
    if rule.form == "nesterov":  # v' = b v + h w, w' = w - lr (h w + b v')
        return [[1 - lr * h - lr * b * h, -lr * b * b], [h, b]]
    if rule.form == "average":  # v' = b v + (1 - b) h w, w' = (1 - lr d) w - lr v' / p
        return [[1 - lr * d - lr * (1 - b) * h / p, -lr * b / p], [(1 - b) * h, b]]
    # y' = b y + (1 - b) / (1 - c) (g - c g_before), w' = w - lr y'
    k = (1 - b) / (1 - c)
    return [[1 - lr * k * h, -lr * b, lr * k * c], [k * h, b, -k * c], [h, 0.0, 0.0]]


def radius(rule: Rule, lr: float, h: float) -> float:
    return float(torch.linalg.eigvals(torch.tensor(matrix(rule, lr, h), dtype=torch.float64)).abs().max())


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_the_rate_is_the_spectral_radius_of_the_iteration(rule) -> None:
    limit = largest_stable_lr(rule, 40.0)
    lrs = [0.0, 0.003 * limit, 0.1 * limit, 0.5 * limit, 0.97 * limit, limit, 1.3 * limit]
    expected = [[radius(rule, lr, h) for h in SPECTRUM.tolist()] for lr in lrs]
    found = rates(rule, torch.tensor(lrs, dtype=torch.float64), SPECTRUM)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-7)
    assert rate(rule, limit, SPECTRUM) == pytest.approx(1.0, abs=1e-12)


@given(
    st.sampled_from(["plain", "heavy_ball", "average", "nesterov", "pole_zero"]),
    st.floats(0.0, 0.99),
    st.floats(-3.0, 1.0),
    st.floats(0.01, 100.0),
    st.floats(0.0, 10.0),
)
def test_no_curvature_below_the_largest_is_less_stable(form, momentum, zero, preconditioner, coupled) -> None:
    rule = Rule("any", form, momentum, min(zero, momentum), preconditioner, coupled)
    limit = largest_stable_lr(rule, 7.0)
    curvatures = torch.linspace(0.01, 7.0, 50, dtype=torch.float64)
    assert rate(rule, 0.999 * limit, curvatures) < 1
    assert rate(rule, 1.001 * limit, curvatures) > 1


def test_limits_are_those_of_the_sharpness_probe() -> None:
    def limit(form, **options) -> float:
        return largest_stable_lr(Rule("any", form, 0.9, **options), 5.0) * 5.0

    assert limit("heavy_ball") == pytest.approx(momentum_limit(0.9))
    assert limit("nesterov") == pytest.approx(momentum_limit(0.9, nesterov=True))
    assert limit("average", preconditioner=3.0) == pytest.approx(3 * momentum_limit(0.9, dampening=0.9))
    assert limit("pole_zero", zero=-0.8) == pytest.approx(filter_limit(0.9, -0.8))
    decoupled = Rule("any", "average", 0.9, decoupled=0.5)
    lr = largest_stable_lr(decoupled, 5.0)
    assert lr * 5.0 == pytest.approx(momentum_limit(0.9, dampening=0.9, decoupled=0.5 * lr))


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
@pytest.mark.parametrize("smallest", [0.05, 10.0, 39.0])
def test_best_constants_keep_their_promise_and_none_near_them_are_better(rule, smallest) -> None:
    curvatures = torch.linspace(smallest, 40.0, 400, dtype=torch.float64)
    best = best_constants(rule, smallest, 40.0)
    assert rate(best.rule, best.lr, curvatures) == pytest.approx(best.rate, abs=1e-6)
    b = best.rule.momentum
    momenta = [b] if rule.form == "plain" else [b - 0.01, b - 1e-3, b, b + 1e-3, min(b + 0.01, 0.999)]
    for momentum in [value for value in momenta if value >= 0]:
        for factor in (0.9, 0.99, 0.999, 1.0, 1.001, 1.01, 1.1):
            other = Rule("other", rule.form, momentum, 0.0, rule.preconditioner, rule.coupled, rule.decoupled)
            assert rate(other, factor * best.lr, curvatures) > best.rate - 1e-6


def test_the_published_best_constants() -> None:
    k = 50.0
    plain, ball, nesterov = (best_constants(Rule(f, f), 2.0, 100.0) for f in ("plain", "heavy_ball", "nesterov"))
    assert (plain.lr, plain.rate) == pytest.approx((2 / 102, (k - 1) / (k + 1)))
    root = math.sqrt(k)
    assert ball.lr == pytest.approx(4 / (10 + math.sqrt(2)) ** 2)
    assert (ball.rule.momentum, ball.rate) == pytest.approx((((root - 1) / (root + 1)) ** 2, (root - 1) / (root + 1)))
    root = math.sqrt(3 * k + 1)
    assert nesterov.lr == pytest.approx(4 / 302)
    assert (nesterov.rule.momentum, nesterov.rate) == pytest.approx(((root - 2) / (root + 2), 1 - 2 / root))


def powers(*roots: float, steps: int = 80) -> torch.Tensor:
    times = torch.arange(steps + 1, dtype=torch.float64)
    return torch.stack([root**times for root in roots]).sum(0)


def test_a_fitted_rate_is_the_largest_power() -> None:
    assert fitted_rate(powers(0.99)[:, None]) == pytest.approx(0.99, abs=1e-12)
    assert fitted_rate(powers(-0.97, 0.5)[:, None]) == pytest.approx(0.97, abs=1e-9)
    assert fitted_rate(powers(0.98, 0.97)[:, None]) == pytest.approx(0.98, abs=1e-8)
    turning = torch.polar(torch.tensor(0.95, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64))
    swing = torch.stack([(turning**step).real for step in range(80)])
    assert fitted_rate(swing[:, None]) == pytest.approx(0.95, abs=1e-9)
    assert fitted_rate(torch.stack([powers(0.3), powers(1.02), torch.zeros(81).double()], 1)) == pytest.approx(1.02)
    double = torch.tensor([0.9**step * (1 + step) for step in range(80)], dtype=torch.float64)
    assert fitted_rate(double[:, None]) == pytest.approx(0.9, abs=1e-6)
    assert fitted_rate(torch.eye(7, 1, dtype=torch.float64)) == 0.0  # arrives at once


def test_bad_input_is_refused_in_one_line() -> None:
    for call, words in (
        (lambda: check_spectrum([]), "at least one eigenvalue"),
        (lambda: check_spectrum([1.0, -2.0]), "above 0, got -2"),
        (lambda: check_spectrum([math.nan]), "above 0, got nan"),
        (lambda: Rule("any", "plain", momentum=1.0), "momentum must be in"),
        (lambda: Rule("any", "pole_zero", 0.5, 0.6), "zero must be finite and at most the momentum 0.5, got 0.6"),
        (lambda: Rule("any", "plain", preconditioner=0.0), "preconditioner must be"),
        (lambda: Rule("any", "plain", coupled=-1.0), "coupled weight decay must be"),
        (lambda: Rule("any", "plain", decoupled=0.1), "decoupled weight decay is known for"),
        (lambda: fitted_rate(torch.ones(5, 1)), "at least 5 steps, got 4"),
        (lambda: fitted_rate(torch.full((9, 1), math.inf)), "needs finite weights"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def panel(rule: Rule) -> Panel:
    limit = largest_stable_lr(rule, 40.0)
    losses = {0.9: [1.0, 0.5, 1e-13], 1.0: [1.0, 1.0, 0.9], 1.1: [1.0, 2.0, 1e9]}
    curves = {factor: torch.tensor(values, dtype=torch.float64) for factor, values in losses.items()}
    return Panel(rule, limit, [0.1 * limit, 0.5 * limit], [0.8, 0.6], best_constants(rule, 0.5, 40.0), curves)


def test_curves_show_the_slowest_direction_the_limit_and_what_was_measured() -> None:
    shown = [panel(rule) for rule in RULES[:2]]
    for own, axes in zip(shown, rate_curves(shown, SPECTRUM).axes, strict=False):
        predicted, measured, best, limit, one = axes.lines
        lrs, factors = (numpy.asarray(each) for each in (predicted.get_xdata(), predicted.get_ydata()))
        assert (lrs[0], lrs[-1]) == pytest.approx((own.limit / 1000, own.limit * 10**0.3))
        for place in (0, 150, 299, 330):
            expected = max(radius(own.rule, float(lrs[place]), float(h)) for h in SPECTRUM)
            assert factors[place] == pytest.approx(expected, rel=1e-6)
        assert (list(measured.get_xdata()), list(measured.get_ydata())) == (list(own.lrs), list(own.measured))
        assert (list(best.get_xdata()), list(best.get_ydata())) == ([own.best.lr], [own.best.rate])
        assert limit.get_xdata()[0] == own.limit
        assert one.get_ydata()[0] == 1.0
        low, high = axes.get_ylim()
        assert low < min([own.best.rate, *own.measured, *factors]) or low == 0
        assert high > 1.0


def test_losses_around_the_limit_are_drawn_as_far_as_they_can_be_seen() -> None:
    (axes, *_) = losses_around_the_limit([panel(RULES[0])]).axes
    below, at, above = (numpy.asarray(line.get_ydata()) for line in axes.lines)
    numpy.testing.assert_array_equal(below, [1.0, 0.5, math.nan])
    numpy.testing.assert_array_equal(at, [1.0, 1.0, 0.9])
    numpy.testing.assert_array_equal(above, [1.0, 2.0, math.nan])
    assert [line.get_color() for line in axes.lines] == [BLUE, "black", VERMILION]
    assert list(axes.lines[0].get_xdata()) == [0, 1, 2]
