"""The statements of docs/theory.md about learning rates, on the real optimizers of the registry."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steepest.optim import OPTIMIZERS


class Weights(nn.Module):
    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(start.double().clone())


def train(
    name: str, gradient: Callable[[Tensor], Tensor], start: Tensor, steps: int, at_step: Any = None, **options: Any
) -> Tensor:
    """Weights over the steps of a registered optimizer, shape (steps + 1, *start.shape)."""
    module = Weights(start)
    optimizer = OPTIMIZERS.create(name, module, **options)
    seen = [module.weight.detach().clone()]
    for step in range(steps):
        if at_step is not None:
            at_step(optimizer, step)
        module.weight.grad = gradient(module.weight.detach())
        optimizer.step()
        seen.append(module.weight.detach().clone())
    return torch.stack(seen)


ONE = torch.ones(1, dtype=torch.float64)


def constant(value: float) -> Callable[[Tensor], Tensor]:
    return lambda weights: torch.full_like(weights, value)


def test_gradient_descent_shrinks_by_one_minus_lr_a() -> None:
    path = train("sgd", lambda w: 4.0 * w, ONE, 20, lr=0.4)
    torch.testing.assert_close(path.flatten(), (1 - 0.4 * 4.0) ** torch.arange(21, dtype=torch.float64))


def test_a_gradient_acts_with_lr_beta_to_the_k_and_in_total_with_lr_over_one_minus_beta() -> None:
    pulse = iter([1.0] + 400 * [0.0])
    path = train("momentum", lambda w: torch.full_like(w, next(pulse)), ONE, 400, lr=0.01, momentum=0.9)
    steps = -path.diff(dim=0).flatten()
    torch.testing.assert_close(steps[:50], 0.01 * 0.9 ** torch.arange(50, dtype=torch.float64))
    assert float(steps.sum()) == pytest.approx(0.01 / 0.1)
    steady = -train("momentum", constant(3.0), ONE, 400, lr=0.01, momentum=0.9).diff(dim=0)[-1]
    assert float(steady) == pytest.approx(0.01 * 3.0 / 0.1)


def test_rmsprop_steps_by_lr_over_the_root_of_its_filled_share() -> None:
    steps = -train("rmsprop", constant(-250.0), ONE, 3000, lr=0.01, alpha=0.99).diff(dim=0).flatten()
    t = torch.arange(1, 3001, dtype=torch.float64)
    torch.testing.assert_close(steps, -0.01 / (1 - 0.99**t).sqrt(), rtol=1e-6, atol=0.0)


def test_eps_inside_the_root_acts_as_its_root() -> None:
    # A gradient of 1e-5, eps 1e-8: outside the root nothing changes, inside it the step is ten times smaller.
    step = -float(train("rmsprop", constant(1e-5), ONE, 3000, lr=0.01, alpha=0.9).diff(dim=0)[-1])
    assert step == pytest.approx(0.01, rel=2e-3)
    assert 0.01 * 1e-5 / math.sqrt(1e-10 + 1e-8) == pytest.approx(0.01 / math.sqrt(101))


@pytest.mark.parametrize("gradient", [-7.0, 1e-3])
def test_adams_first_step_is_lr_times_the_sign(gradient) -> None:
    step = float(train("adam", constant(gradient), ONE, 1, lr=0.01).diff(dim=0))
    assert step == pytest.approx(-0.01 * math.copysign(1, gradient), rel=1e-4)
    # With no correction at all it would be larger, not smaller: the second moment starts at zero as well.
    assert 0.1 / math.sqrt(0.001) == pytest.approx(math.sqrt(10))


def test_adam_may_step_further_than_lr() -> None:
    # Nothing for long, then a gradient: (1 - beta1) / sqrt(1 - beta2) learning rates.
    pulse = iter(5000 * [0.0] + [1.0])
    path = train("adam", lambda w: torch.full_like(w, next(pulse)), ONE, 5001, lr=0.01)
    assert -float(path.diff(dim=0)[-1]) == pytest.approx(0.01 * math.sqrt(10), rel=1e-2)


def test_two_over_the_sum_of_the_extreme_curvatures_is_the_best_rate() -> None:
    h = torch.tensor([1.0, 30.0, 100.0], dtype=torch.float64)

    def left(lr: float) -> float:
        return float(train("sgd", lambda w: h * w, torch.ones(3), 300, lr=lr)[-1].abs().max())

    best = 2 / 101
    assert left(best) == pytest.approx((99 / 101) ** 300)
    assert left(best) < min(left(0.98 * best), left(1.01 * best))


def test_momentum_needs_the_root_of_the_condition_number() -> None:
    # The bound of the proof, (1 + 2 t) r^t, holds at every step, and the rate is the heavy ball's.
    h = torch.logspace(0, 4, 60, dtype=torch.float64)
    root = math.sqrt(1e4)
    r = (root - 1) / (root + 1)
    path = train("momentum", lambda w: h * w, torch.ones(60), 1500, lr=4 / (100 + 1) ** 2, momentum=r**2)
    sizes, t = path.abs().amax(1), torch.arange(1501, dtype=torch.float64)
    assert bool((sizes <= (1 + 2 * t) * r**t * (1 + 1e-9)).all())
    slow = train("sgd", lambda w: h * w, torch.ones(60), 1500, lr=2 / (1e4 + 1))
    assert float(sizes[-1]) < 1e-9
    assert float(slow[-1].abs().max()) > 0.7


def test_the_heavy_ball_need_not_converge_beyond_quadratics() -> None:
    # Lessard, Recht and Packard (arXiv 1408.3595): curvature between 1 and 25, its best constants, a cycle of three.
    def gradient(w: Tensor) -> Tensor:
        return torch.where(w < 1, 25 * w, torch.where(w < 2, w + 24, 25 * w - 24))

    path = train("momentum", gradient, 3.3 * ONE, 3000, lr=1 / 9, momentum=4 / 9).flatten()
    torch.testing.assert_close(path[-3:], path[-6:-3])
    assert float(path[-3:].abs().max()) > 1
    assert float(train("nesterov", gradient, 3.3 * ONE, 3000, lr=1 / 25, momentum=4 / 6)[-1].abs()) < 1e-9


def test_one_over_t_squared_takes_a_growing_momentum() -> None:
    # The worst curvature for each number of steps, out of many between 0 and 1.
    h = torch.logspace(-9, 0, 600, dtype=torch.float64)

    def worst(**options: Any) -> Tensor:
        path = train("nesterov", lambda w: h * w, torch.ones(600), 4000, lr=1.0, **options)
        return 0.5 * (path.square() * h).amax(1)

    def grow(optimizer: Any, step: int) -> None:
        optimizer.param_groups[0]["momentum"] = step / (step + 3)

    steady, growing = worst(momentum=0.9), worst(momentum=0.5, at_step=grow)
    assert float(steady[4000] / steady[1000]) == pytest.approx(1 / 4, rel=0.1)
    assert float(growing[4000] / growing[1000]) == pytest.approx(1 / 16, rel=0.4)
    t = torch.arange(4001, dtype=torch.float64)
    assert bool((growing <= 2 / (t + 1) ** 2 + 1e-15).all())


@pytest.mark.parametrize("lr", [0.05, 0.25, 0.5])
def test_smooth_descent(lr) -> None:
    """Curvature at most 2: not convex (log(1 + w^2)), convex (log cosh) and strongly convex (with a quadratic)."""
    start, steps = torch.tensor([3.0, -0.7, 0.2, 8.0]), 300
    path = train("sgd", lambda w: 2 * w / (1 + w**2), start, steps, lr=lr)
    slopes = (2 * path / (1 + path**2)).square().sum(1)[:-1]
    assert float(slopes.min()) <= 2 * float((1 + path[0] ** 2).log().sum()) / (lr * steps)

    path = train("sgd", torch.tanh, start, steps, lr=lr)
    gaps = torch.log(torch.cosh(path)).sum(1)[1:]
    t = torch.arange(1, steps + 1, dtype=torch.float64)
    assert bool((gaps <= float(path[0].square().sum()) / (2 * lr * t)).all())

    path = train("sgd", lambda w: torch.tanh(w) + 0.5 * w, start, 100, lr=lr)  # between 0.5 and 1.5
    t = torch.arange(101, dtype=torch.float64)
    assert bool((path.norm(dim=1) <= path[0].norm() * (1 - 0.5 * lr) ** t * (1 + 1e-12)).all())


@pytest.mark.parametrize(("momentum", "lr"), [(0.0, 0.05), (0.0, 0.5), (0.8, 0.05), (0.8, 0.5)])
def test_the_noise_floor(momentum, lr) -> None:
    h, sigma, count = 2.0, 0.3, 20_000
    generator = torch.Generator().manual_seed(0)

    def gradient(w: Tensor) -> Tensor:
        return h * w + sigma * torch.randn(count, generator=generator, dtype=torch.float64)

    path = train("momentum", gradient, torch.zeros(count), 250, lr=lr, momentum=momentum)
    floor = lr * sigma**2 * (1 + momentum) / ((1 - momentum) * h * (2 + 2 * momentum - lr * h))
    assert float(path[-1].square().mean()) == pytest.approx(floor, rel=0.05)
