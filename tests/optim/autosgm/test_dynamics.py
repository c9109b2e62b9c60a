"""The statistics: the equation of the learning dynamics holds, and measuring changes nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor

from steepest.optim import AutoSGM
from steepest.optim.autosgm.batches import CACHE_SIZE
from tests.optim.autosgm.problem import SHAPES, gradients, tensors, train

WINDOW = (1, 0, 0.1, 2, 1, 2, 20, 1, 0)
NO_WINDOW = (0, 0, 0, 2, 1, 1, 1, 1, 0)
BETA, GAMMA = 0.9, 0.4


def optimizer_of(weights: list[Tensor], numerator: int = 3, **changes: Any) -> AutoSGM:
    options = {
        "lr_cfg": (True, 0.02, numerator),
        "beta_cfg": (0.95, 0.99, BETA, GAMMA, 0, True),
        "rc_cfg": WINDOW,
        "track_dynamics": True,
        **changes,
    }
    return AutoSGM(weights, **options)


@pytest.mark.parametrize("numerator", range(5))
@pytest.mark.parametrize("decay", [(0.0, 0), (0.1, 0), (0.1, 1)])
@pytest.mark.parametrize(("gain", "maximize"), [((0, True), False), ((0.5, False), True)])
def test_the_change_of_a_scalar_obeys_the_filter_equation(
    numerator: int, decay: tuple[float, int], gain: tuple[float, bool], maximize: bool
) -> None:
    # For a scalar, the mean of a statistic is the statistic itself.
    weights = tensors([()])
    eta, debias = gain
    optimizer = optimizer_of(
        weights, numerator, wd_cfg=decay, beta_cfg=(0.95, 0.99, BETA, GAMMA, eta, debias), maximize=maximize
    )
    optimizer.record_statistics = True
    change = 0.0
    for step in range(10):
        before = weights[0].item()
        train(optimizer, weights, 1, first=step)
        (statistics,) = optimizer.last_stats.values()
        found = {name: value.item() for name, value in statistics.items()}
        ratio = found.get("r_mean", 0.0)
        drive = found["alpha_mean"] * (eta or 1 - BETA) / (1 - GAMMA) * found["e_mean"]
        new = weights[0].item() - before
        assert found["dw_mean"] == pytest.approx(new, rel=1e-6, abs=1e-15)
        if step > 0:
            assert new == pytest.approx(BETA * ratio * change + drive, rel=1e-6, abs=1e-14)
        change = new


def test_without_decay_the_drive_is_the_filters_difference_of_gradients() -> None:
    weights = tensors([(4, 3)])
    optimizer = optimizer_of(weights)
    optimizer.record_statistics = True
    old = torch.zeros_like(weights[0])
    for step in range(5):
        (gradient,) = gradients(weights, step)
        train(optimizer, weights, 1, first=step)
        (statistics,) = optimizer.last_stats.values()
        drive = GAMMA * old - gradient
        expected = (drive.mean(), drive.std(correction=0), drive.abs().max())
        torch.testing.assert_close(tuple(statistics[f"e_{name}"] for name in ("mean", "std", "max")), expected)
        old = gradient


def test_the_share_that_does_not_contract() -> None:
    # Averages of squares with pole 0.5, from gradients 1: first 1/2, then 3/4, so r = sqrt(2/3); where the second
    # gradient is 0: 1/4, so r = sqrt(2), which outweighs the pole 0.9.
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
    optimizer = optimizer_of(
        [weight], 0, beta_cfg=(0.9, 0.5, BETA, 0.0, 0, False), rc_cfg=NO_WINDOW, eps_cfg=(1e-14, False)
    )
    optimizer.record_statistics = True
    shares = []
    for gradient in ([1.0, 1, 1, 1], [0.0, 1, 1, 1]):
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        (statistics,) = optimizer.last_stats.values()
        shares.append(statistics.get("not_contracting"))
    assert shares == [None, 0.25]  # there is no ratio at the first step
    assert statistics["r_max"].item() == pytest.approx(2**0.5, rel=1e-9)
    assert statistics["r_mean"].item() == pytest.approx((2**0.5 + 3 * (2 / 3) ** 0.5) / 4, rel=1e-9)


@pytest.mark.parametrize("numerator", [0, 3])
def test_measuring_and_tracking_change_no_bit(numerator: int) -> None:
    shapes = [*SHAPES, (3, CACHE_SIZE)]
    runs = []
    for track, record in ((False, False), (True, False), (False, True), (True, True)):
        weights = tensors(shapes, torch.float32)
        optimizer = optimizer_of(weights, numerator, track_dynamics=track)
        optimizer.record_statistics = record
        train(optimizer, weights, 3)
        runs.append(weights)
        assert bool(optimizer.last_stats) == record
    for run in runs[1:]:
        assert all(torch.equal(weight, other) for weight, other in zip(run, runs[0], strict=True))


def test_without_tracking_only_what_needs_no_memory_is_measured() -> None:
    weights = tensors()
    optimizer = optimizer_of(weights, track_dynamics=False)
    optimizer.record_statistics = True
    train(optimizer, weights, 2)
    assert len(optimizer.last_stats) == len(weights)
    for statistics in optimizer.last_stats.values():
        assert set(statistics) == {f"{name}_{kind}" for name in ("alpha", "dw") for kind in ("mean", "std", "max")}


def test_statistics_of_slices_are_those_of_the_whole_tensor() -> None:
    weights = tensors([(3, CACHE_SIZE)])
    optimizer = optimizer_of(weights)
    optimizer.record_statistics = True
    before = weights[0].detach().clone()
    train(optimizer, weights, 1)
    (statistics,) = optimizer.last_stats.values()
    change = weights[0].detach() - before
    torch.testing.assert_close(statistics["dw_mean"], change.mean())
    torch.testing.assert_close(statistics["dw_max"], change.abs().max())
