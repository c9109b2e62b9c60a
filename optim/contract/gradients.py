"""Checks of what is done with gradients and parameters of every kind."""

import math

import torch
from torch import nn
from torch.nn import functional

from steepest.optim.contract.case import Case, check, demand, without_closure
from steepest.optim.contract.models import backward, data, network, train, weights


@without_closure
def leaves_gradients_alone(case: Case) -> None:
    """A step neither changes nor replaces nor drops a gradient."""
    module = network()
    optimizer = case.make(module, case.lr)
    for step in range(3):
        backward(module, optimizer, step)
        gradients = [parameter.grad for parameter in module.parameters()]
        values = [gradient.clone() for gradient in gradients if gradient is not None]
        optimizer.step()
        for parameter, gradient, value in zip(module.parameters(), gradients, values, strict=True):
            demand(case, parameter.grad is gradient, "a step replaces gradients")
            demand(case, gradient is not None and torch.equal(gradient, value), "a step changes gradients")


@without_closure
def passes_over_missing_gradients(case: Case) -> None:
    """A parameter without gradient stays where it is, the others move."""
    module = network()
    optimizer = case.make(module, case.lr)
    for step in range(3):
        backward(module, optimizer, step)
        module.hidden.weight.grad = None
        module.head.bias.grad = None
        optimizer.step()
    start = network()
    still = torch.equal(module.hidden.weight, start.hidden.weight) and torch.equal(module.head.bias, start.head.bias)
    demand(case, still, "a parameter without gradient moves")
    demand(case, not torch.equal(module.head.weight, start.head.weight), "nothing moves when a gradient is missing")


@without_closure
def stays_finite_on_zero_gradients(case: Case) -> None:
    """Zero gradients, at the first step and later, leave the weights finite."""
    module = network()
    optimizer = case.make(module, case.lr)
    for step in range(4):
        backward(module, optimizer, step)
        if step != 1:
            for parameter in module.parameters():
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    demand(case, bool(weights(module).isfinite().all()), "zero gradients give weights that are not finite")


@check
def works_in_every_precision(case: Case) -> None:
    """Parameters in float64, float32 and bfloat16 move, stay finite and keep their type."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        module = network(dtype)
        optimizer = case.make(module, case.lr)
        train(module, optimizer, 5)
        moved = not torch.equal(weights(module), weights(network(dtype)))
        fine = all(parameter.dtype == dtype for parameter in module.parameters())
        demand(case, fine and moved and bool(weights(module).isfinite().all()), f"fails on {dtype} parameters")


@check
def takes_non_contiguous_parameters(case: Case) -> None:
    """Transposed storage changes nothing but rounding."""
    plain, transposed = network(torch.float64), network(torch.float64)
    transposed.hidden.weight = nn.Parameter(transposed.hidden.weight.detach().t().contiguous().t())
    demand(case, not transposed.hidden.weight.is_contiguous(), "the check itself is wrong")
    for module in (plain, transposed):
        train(module, case.make(module, case.lr), 5)
    fine = torch.allclose(weights(plain), weights(transposed), rtol=1e-6, atol=1e-8)
    demand(case, fine, "parameters that are not contiguous give another result")


@without_closure
def accumulates_gradients(case: Case) -> None:
    """Two half batches before a step equal one whole batch."""
    whole, halves = network(torch.float64), network(torch.float64)
    one, two = case.make(whole, case.lr), case.make(halves, case.lr)
    for step in range(4):
        inputs, labels = data(step, torch.float64)
        for module, optimizer, parts in ((whole, one, 1), (halves, two, 2)):
            optimizer.zero_grad()
            for x, y in zip(inputs.chunk(parts), labels.chunk(parts), strict=True):
                (functional.cross_entropy(module(x), y) / parts).backward()
            optimizer.step()
    fine = torch.allclose(weights(whole), weights(halves), rtol=1e-5, atol=1e-7)
    demand(case, fine, "two half batches give another result than one whole batch")


@without_closure
def works_under_a_gradient_scaler(case: Case) -> None:
    """A scaled loss is unscaled and clipped before the step; a step with infinite gradients is left out."""
    module = network()
    optimizer = case.make(module, case.lr)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for step in range(4):
        inputs, labels = data(step)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = functional.cross_entropy(module(inputs), labels)
        scaler.scale(loss).backward()
        before = weights(module)
        if step == 2:
            module.hidden.weight.grad[0, 0] = math.inf  # type: ignore[index]
        if not getattr(optimizer, "_step_supports_amp_scaling", False):  # a fused step unscales by itself
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        demand(case, torch.equal(before, weights(module)) is (step == 2), "a gradient scaler's steps go wrong")
    demand(case, bool(weights(module).isfinite().all()), "mixed precision gives weights that are not finite")
