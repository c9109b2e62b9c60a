"""Checks of what is done with gradients and parameters of every kind."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from steepest.optim.contract.case import Case, check, demand, without_closure
from steepest.optim.contract.models import Network, backward, data, network, train, weights


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


# A matrix with the same entries elsewhere in memory.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda matrix: matrix.t().contiguous().t(),
    "every second entry": lambda matrix: torch.stack([matrix, -matrix], -1)[..., 0],
    "rows of a larger matrix": lambda matrix: torch.cat([matrix, -matrix], 1)[:, : matrix.shape[1]],
}


def laid_out(layout: str) -> Network:
    """The network in float64, with all matrices in another layout."""
    module = network(torch.float64)
    for layer in (module.first, module.hidden, module.head):
        layer.weight = nn.Parameter(LAYOUTS[layout](layer.weight.detach()))
    return module


def same(module: nn.Module, other: nn.Module) -> bool:
    """Whether weights are equal but for rounding."""
    return torch.allclose(weights(module), weights(other), rtol=1e-6, atol=1e-8)


@check
def takes_parameters_of_any_layout(case: Case) -> None:
    """Transposed storage and gaps in memory change nothing but rounding."""
    plain = network(torch.float64)
    train(plain, case.make(plain, case.lr), 5)
    for layout in LAYOUTS:
        module = laid_out(layout)
        demand(case, not module.hidden.weight.is_contiguous(), "the check itself is wrong")
        train(module, case.make(module, case.lr), 5)
        demand(case, same(plain, module), f"parameters laid out as {layout} give another result")


@check
def takes_gradients_of_any_layout(case: Case) -> None:
    """Gradients that lie in memory otherwise than their weights change nothing but rounding, and are left alone."""
    plain = network(torch.float64)
    train(plain, case.make(plain, case.lr), 5)
    for layout, moved in LAYOUTS.items():
        module = network(torch.float64)
        optimizer = case.make(module, case.lr)
        parameters = list(module.parameters())
        for step in range(5):
            given = _give_gradients(optimizer, module, step, moved)
            kept = all(parameter.grad is gradient for parameter, gradient in zip(parameters, given, strict=True))
            demand(case, kept, "a step replaces gradients of another layout")
        demand(case, same(plain, module), f"gradients laid out as {layout} give another result")


def _give_gradients(
    optimizer: Optimizer, module: nn.Module, step: int, moved: Callable[[Tensor], Tensor]
) -> list[Tensor | None]:
    """A step whose closure sets gradients that PyTorch has not laid out; returns those of its last evaluation."""
    parameters = list(module.parameters())
    inputs, labels = data(step, torch.float64)
    given: list[Tensor | None] = []

    def closure() -> Tensor:
        loss = functional.cross_entropy(module(inputs), labels)
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = moved(gradient) if gradient.ndim == 2 else gradient
        given[:] = [parameter.grad for parameter in parameters]
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return given


@check
def resumes_in_another_layout(case: Case) -> None:
    """State saved from contiguous weights continues with weights in another layout, and the reverse."""
    whole = network(torch.float64)
    train(whole, case.make(whole, case.lr), 10)
    for first, second in (
        (network(torch.float64), laid_out("transposed")),
        (laid_out("transposed"), network(torch.float64)),
    ):
        before, after = case.make(first, case.lr), case.make(second, case.lr)
        train(first, before, 5)
        second.load_state_dict(first.state_dict())
        after.load_state_dict(before.state_dict())
        train(second, after, 5, first=5)
        demand(case, same(whole, second), "a run resumed in another layout gives another result")


@check
def takes_a_change_of_layout(case: Case) -> None:
    """A model whose weights are laid out anew during the run trains on as before."""
    whole, module = network(torch.float64), network(torch.float64)
    train(whole, case.make(whole, case.lr), 10)
    optimizer = case.make(module, case.lr)
    train(module, optimizer, 5)
    for layer in (module.first, module.hidden, module.head):
        layer.weight.data = LAYOUTS["transposed"](layer.weight.data)
    train(module, optimizer, 5, first=5)
    demand(case, same(whole, module), "a change of layout during the run gives another result")


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
