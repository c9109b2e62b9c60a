"""The range test and the envelope on problems whose answer is known."""

import copy
import math

import numpy
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, SequentialLR

from steepest.diagnostics.common.snapshot import restored
from steepest.diagnostics.lr_range.curve import Divergence, GroupRates, LRCurve, grid
from steepest.diagnostics.lr_range.range_test import largest_stable, lr_range_test, range_curve, trial
from steepest.diagnostics.lr_range.suggestions import _noise, suggest

CURVATURE = 4.0
LIMITS = [  # of a quadratic with this curvature
    (torch.optim.SGD, {}, 2.0 / CURVATURE),
    (torch.optim.SGD, {"momentum": 0.9}, 3.8 / CURVATURE),
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, 3.8 / (2.8 * CURVATURE)),
    (torch.optim.SGD, {"weight_decay": 1.0}, 2.0 / (CURVATURE + 1.0)),
]


class Quadratic(nn.Module):
    """0.5 * sum of h w^2 in two directions, the flatter one with a tenth of the curvature."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))
        self.curvature = torch.tensor([CURVATURE, CURVATURE / 10.0], dtype=torch.float64)

    def step(self, optimizer: torch.optim.Optimizer):
        def step() -> float:
            optimizer.zero_grad()
            loss = 0.5 * (self.curvature * self.weight**2).sum()
            loss.backward()
            optimizer.step()
            return loss.item()

        return step


@pytest.mark.parametrize(("algorithm", "options", "limit"), LIMITS)
def test_the_envelope_ends_at_the_analytic_limit(algorithm, options, limit) -> None:
    net = Quadratic()
    optimizer = algorithm(net.parameters(), lr=limit, **options)
    rates = GroupRates([optimizer])
    factors = grid(0.55, 1.45, 10, "linear")  # the limit itself lies between two values
    trials = []
    for factor in factors:
        with restored(net, optimizer):
            trials.append(trial(net.step(optimizer), rates, factor, 120, optimizer="test"))
    assert largest_stable(trials) == pytest.approx(limit * max(factor for factor in factors if factor < 1.0))


def test_the_curve_of_gradient_descent_is_its_recursion() -> None:
    """w <- (1 - lr h) w in closed form; max-stable is the last rate after which the loss was at most the first."""
    net = Quadratic()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    rates = grid(1e-3, 10.0, 200, "exponential")
    found = range_curve(
        net.step(optimizer), GroupRates([optimizer]), rates, optimizer="sgd", smoothing=0.0, divergence=Divergence()
    )
    weights, expected = numpy.ones(2), []
    for rate in rates:
        expected.append(0.5 * (net.curvature.numpy() * weights**2).sum())
        weights = (1.0 - rate * net.curvature.numpy()) * weights
    assert found.ending == "diverged"
    assert found.losses == pytest.approx(expected[: len(found.losses)], rel=1e-9)
    last = max(index for index, loss in enumerate(found.losses) if loss <= expected[0])
    assert suggest(found, "max_stable") == pytest.approx(rates[last - 1])
    # The loss has to climb back from where it fell, next to nothing without noise: a bound from above.
    assert rates[last - 1] > 2.0 / CURVATURE


def test_max_stable_is_near_the_limit_where_noise_keeps_the_loss_up() -> None:
    found = []
    for seed in range(7):
        generator = numpy.random.default_rng(seed)
        weight = nn.Parameter(torch.full((50,), 3.0, dtype=torch.float64))
        optimizer = torch.optim.SGD([weight], lr=1.0)

        def step(weight=weight, optimizer=optimizer, generator=generator) -> float:
            target = torch.from_numpy(generator.normal(size=50))
            optimizer.zero_grad()
            loss = 0.5 * CURVATURE * ((weight - target) ** 2).sum()
            loss.backward()
            optimizer.step()
            return loss.item()

        rates = grid(1e-4, 10.0, 300, "exponential")
        curve = range_curve(
            step, GroupRates([optimizer]), rates, optimizer="sgd", smoothing=0.8, divergence=Divergence()
        )
        found.append(suggest(curve, "max_stable") or math.nan)
    assert float(numpy.median(found)) == pytest.approx(2.0 / CURVATURE, rel=0.2)


def test_a_plain_loop_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(3)
    seen: list[int] = []

    def closure() -> torch.Tensor:
        inputs = torch.randn(16, 6, generator=generator)
        seen.append(len(seen))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(inputs), inputs[:, :3].argmax(1))
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict())), torch.get_rng_state()
    curve = lr_range_test(net, optimizer, closure, steps=60)
    assert len(seen) == 1 + len(curve.losses)
    assert curve.learning_rates[0] == pytest.approx(1e-6)
    assert min(curve.losses) < curve.losses[0]
    weights, state = net.state_dict(), optimizer.state_dict()
    for name, value in before[0][0].items():
        assert torch.equal(value, weights[name]), name
    assert state["param_groups"] == before[0][1]["param_groups"]
    for index, own in before[0][1]["state"].items():
        for key, value in own.items():
            assert torch.equal(value, state["state"][index][key]), key
    assert torch.equal(before[1], torch.get_rng_state())


def test_lbfgs_takes_steps_too() -> None:
    net = Quadratic()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = 0.5 * (net.curvature * net.weight**2).sum()
        loss.backward()
        return loss

    curve = lr_range_test(net, optimizer, closure, factors=(0.01, 1.0), steps=12)
    assert curve.losses[0] == pytest.approx(0.5 * CURVATURE * 1.1)  # at the weights before the first step
    assert curve.losses[-1] < 1e-3 * curve.losses[0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_test_ends_at_a_loss_that_is_not_finite(value) -> None:
    losses = iter([2.0, 1.0, value, 1.0])
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    curve = range_curve(
        lambda: next(losses), GroupRates([optimizer]), [1.0, 2.0, 3.0, 4.0], optimizer="x", divergence=Divergence()
    )
    assert (curve.losses, curve.ending) == ([2.0, 1.0], "not finite")


def test_divergence_is_not_judged_before_ten_steps() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    losses = iter([1.0] + 50 * [100.0])
    curve = range_curve(
        lambda: next(losses), GroupRates([optimizer]), list(range(1, 40)), optimizer="x", divergence=Divergence()
    )
    assert (len(curve.losses), curve.ending) == (11, "diverged")


def test_groups_keep_their_ratio_and_schedules_their_shape() -> None:
    one, other, frozen = (nn.Parameter(torch.ones(1)) for _ in range(3))
    groups = [{"params": [frozen], "lr": 0.0}, {"params": [one], "lr": 0.1}, {"params": [other], "lr": 0.02}]
    optimizer = torch.optim.SGD(groups)
    schedule = LambdaLR(optimizer, lambda step: 0.5 / (1 + step))
    rates = GroupRates([optimizer])
    assert rates.reference == 0.1  # the base of the schedule, not its value now
    rates.set(3.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0, 0.3, 0.06])
    optimizer.param_groups[1]["lr"] = 7.0
    rates.hold()
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.3)
    rates.set(1.0)
    for group in optimizer.param_groups:
        group["lr"] *= 0.5
    rates.apply(4.0, [schedule])
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0, 0.1, 0.02])


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: CosineAnnealingLR(optimizer, 20),
        lambda optimizer: OneCycleLR(optimizer, max_lr=[0.5, 0.25], total_steps=20),
        lambda optimizer: SequentialLR(
            optimizer, [LambdaLR(optimizer, lambda step: 0.1), CosineAnnealingLR(optimizer, 15)], milestones=[5]
        ),
    ],
)
def test_an_applied_factor_goes_through_the_whole_schedule(make) -> None:
    def rates_of(factor: float | None) -> list[list[float]]:
        one, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([{"params": [one], "lr": 0.5}, {"params": [other], "lr": 0.25}], momentum=0.9)
        schedule = make(optimizer)
        if factor is not None:
            GroupRates([optimizer]).apply(factor, [schedule])
        seen = []
        for _ in range(15):
            seen.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            schedule.step()
        return seen

    assert numpy.allclose(numpy.asarray(rates_of(0.1)), 0.1 * numpy.asarray(rates_of(None)), rtol=1e-6)


def test_a_learning_rate_in_a_tensor_stays_that_tensor() -> None:
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(1))], lr=rate, capturable=False, foreach=False)
    rates = GroupRates([optimizer])
    rates.set(2.0)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.2)


def test_optimizers_without_a_learning_rate_are_refused() -> None:
    with pytest.raises(ValueError, match="learning rate is 0 in all parameter groups"):
        GroupRates([torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.0)])
    with pytest.raises(ValueError, match="no optimizer with parameters"):
        GroupRates([])
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    del optimizer.param_groups[0]["lr"]
    with pytest.raises(ValueError, match="has no learning rate `lr`"):
        GroupRates([optimizer])


def test_the_limit_is_counted_from_the_lowest_average_not_from_an_outlier() -> None:
    losses = [4.0] * 8 + [0.0] + [4.0] * 3 + [7.0] * 40
    rates = GroupRates([torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)])
    calls = iter(losses)
    factors = [1.1**k for k in range(len(losses))]
    curve = range_curve(
        lambda: next(calls), rates, factors, optimizer="x", smoothing=0.9, divergence=Divergence(rise=1.0)
    )
    average, weight, smoothed = 0.0, 0.0, []
    for loss in losses:
        average, weight = 0.9 * average + 0.1 * loss, 0.9 * weight + 0.1
        smoothed.append(average / weight)
    # One outlier moves the average from 4 to 3.35, and the limit is the first loss, or half of it above the lowest.
    lowest = min(smoothed[:12])
    assert curve.limit == pytest.approx(lowest + 2.0)
    assert curve.ending == "diverged"
    assert len(curve.losses) == next(k for k, value in enumerate(smoothed) if value > lowest + 2.0) + 1


def test_the_noise_of_a_loss_is_its_standard_deviation() -> None:
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(0)).double()
    falling = torch.linspace(3.0, 1.0, 4000)
    assert _noise((falling + 0.2 * noise).tolist()) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize(("losses", "tells"), [([3.0, 2.0], False), ([3.0, 2.0, 0.5], True), ([3.0, 3.1, 2.9], False)])
def test_three_losses_that_fall_by_more_than_their_noise_suggest_a_rate(losses, tells) -> None:
    rates = [0.1, 0.2, 0.4][: len(losses)]
    curve = LRCurve("x", 0, rates, rates, losses, losses, "end", 0.0, math.inf)
    assert suggest(curve, "minimum") == (pytest.approx(0.04) if tells else None)
