"""Members of the family that are known by other names, stability limits, and the documented numerator 1."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from steepest.optim.autosgm import AutoSGM, ReferenceAutoSGM
from tests.optim.autosgm.problem import gradients, tensors, train

both = pytest.mark.parametrize("optimizer_class", [AutoSGM, ReferenceAutoSGM])


@both
def test_constant_numerator_and_no_zero_is_adam(optimizer_class: type[Optimizer]) -> None:
    ours, theirs = tensors(), tensors()
    options = {"lr_cfg": (True, 0.01, 0), "beta_cfg": (0.9, 0.999, 0.9, 0.0, 0, True), "eps_cfg": (1e-8, False)}
    train(optimizer_class(ours, **options), ours, 100)  # type: ignore[call-arg]
    train(torch.optim.Adam(theirs, lr=0.01, eps=1e-8, foreach=False), theirs, 100)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


@both
def test_coupled_decay_is_adams(optimizer_class: type[Optimizer]) -> None:
    ours, theirs = tensors(), tensors()
    options = {"lr_cfg": (True, 0.01, 0), "beta_cfg": (0.9, 0.999, 0.9, 0.0, 0, True), "eps_cfg": (1e-8, False)}
    train(optimizer_class(ours, **options, wd_cfg=(0.3, 0)), ours, 100)  # type: ignore[call-arg]
    train(torch.optim.Adam(theirs, lr=0.01, eps=1e-8, weight_decay=0.3, foreach=False), theirs, 100)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


@both
def test_the_zero_of_nesterov_gives_adams_nesterov_form(optimizer_class: type[Optimizer]) -> None:
    beta1, beta2, lr, eps = 0.9, 0.99, 0.01, 1e-8
    ours, weights = tensors(), tensors()
    zero = beta1 / (1 + beta1)
    options = {"lr_cfg": (True, lr, 0), "beta_cfg": (0.9, beta2, beta1, zero, 0, True), "eps_cfg": (eps, False)}
    train(optimizer_class(ours, **options), ours, 80)  # type: ignore[call-arg]
    first, second = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    for step in range(80):
        for w, g, m, s in zip(weights, gradients(weights, step), first, second, strict=True):
            m.copy_(beta1 * m + (1 - beta1) * g)
            s.copy_(beta2 * s + (1 - beta2) * g * g)
            smoothed = (beta1 * m + (1 - beta1) * g) / (1 - beta1 ** (step + 1))
            w.data -= lr * smoothed / ((s / (1 - beta2 ** (step + 1))).sqrt() + eps)
    torch.testing.assert_close(ours, weights, rtol=1e-11, atol=1e-13)


@both
def test_without_estimators_at_gain_one_it_is_heavy_ball(optimizer_class: type[Optimizer]) -> None:
    ours, theirs = tensors(), tensors()
    options = {"lr_cfg": (False, 0.01, 0), "beta_cfg": (0.9, 0.99, 0.9, 0.0, 1, False)}
    train(optimizer_class(ours, **options), ours, 100)  # type: ignore[call-arg]
    train(torch.optim.SGD(theirs, lr=0.01, momentum=0.9, foreach=False), theirs, 100)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("pole", [0.5, 0.9])
@pytest.mark.parametrize("zero", [0.0, 0.3, "nesterov", "pole", -0.02, -0.5])
def test_largest_stable_learning_rate(pole: float, zero: float | str) -> None:
    named = {"nesterov": pole / (1 + pole), "pole": pole}
    b, c = pole, named[zero] if isinstance(zero, str) else zero
    limit = (2 + 2 * b) * (1 - c) / ((1 - b) * (1 + c))
    if c < 0:
        limit = min(limit, (1 - c) / -c)
    near = limit * torch.tensor([0.01, 0.4, 0.9, 0.999, 1.001, 1.1, 2.0], dtype=torch.float64)
    assert stable(lambda params, lr: filtered_gradient(params, lr, b, c), near) == [True] * 4 + [False] * 3


def filtered_gradient(params: list[Tensor], lr: float, pole: float, zero: float) -> Optimizer:
    beta_cfg = (0.9, 0.99, pole, zero, 0, False)
    return AutoSGM(params, lr_cfg=(False, lr, 0), beta_cfg=beta_cfg)


def stable(make: Callable[[list[Tensor], float], Optimizer], curvatures: Tensor) -> list[bool]:
    """Whether steps on parabolas of these curvatures, which are one tensor, fall at the learning rate 1."""
    weight = torch.ones_like(curvatures).requires_grad_()
    optimizer = make([weight], 1.0)
    heights = []
    for _ in range(2):
        largest = torch.zeros_like(curvatures)
        for _ in range(3000):
            weight.grad = curvatures * weight.detach()
            optimizer.step()
            largest = torch.maximum(largest, weight.detach().abs())
        heights.append(largest)
    return (heights[1] < heights[0]).tolist()


@both
def test_the_chebyshev_numerator_is_as_documented(optimizer_class: type[Optimizer]) -> None:
    # a = lr min(q, 4 b) / q from the lengths of the updates, in plain numbers; one tensor, no smoothing of gradients.
    lr, beta, eps, decay_rate = 0.01, 0.995, 1e-10, 0.999
    (ours,), (weight,) = tensors([(4, 3)]), tensors([(4, 3)])
    options = {"lr_cfg": (True, lr, 1), "beta_cfg": (beta, decay_rate, 0.0, 0.0, 0, True)}
    optimizer = optimizer_class([ours], **options)  # type: ignore[call-arg]
    expected = weight.detach().clone()
    average = variance = 0.0
    square = torch.zeros_like(expected)
    factors = []
    for step in range(1, 41):
        # Every eighth gradient is a thousand times larger: its update is an outlier.
        scale = 1000.0 if step % 8 == 0 else 1.0
        ours.grad = scale * gradients([ours], step)[0]
        optimizer.step()
        weight.data = expected
        gradient = scale * gradients([weight], step)[0]
        square = decay_rate * square + (1 - decay_rate) * gradient**2
        update = gradient / ((square / (1 - decay_rate**step) + eps).sqrt() + eps)
        average = beta * average + (1 - beta) * math.sqrt(sum(v * v for v in update.flatten().tolist()))
        distance = math.sqrt(sum((v - average) ** 2 for v in update.flatten().tolist())) + eps
        variance = beta * variance + (1 - beta) * distance**2
        factors.append(min(distance, 4 * (math.sqrt(variance) + eps)) / distance)
        expected = expected - lr * factors[-1] * update
    assert min(factors) < 0.9 < max(factors)
    torch.testing.assert_close(ours.detach(), expected, rtol=1e-11, atol=1e-13)


def test_zero_weights_are_shifted_once_and_then_move() -> None:
    weight = torch.tensor([0.0, 1e-11, -1e-11, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = AutoSGM([weight], lr_cfg=(True, 0.0, 3), eps_cfg=(1e-10, True))
    for _ in range(2):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert weight.tolist() == pytest.approx([1e-10, 1.1e-10, 0.9e-10, 1.0], rel=1e-12)
