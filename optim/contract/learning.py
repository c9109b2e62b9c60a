"""Checks that an optimizer optimizes."""

import math
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from steepest.optim.contract.case import Case, ContractError, check, demand
from steepest.optim.contract.models import Valley, data, minimize, network, train, weights

# Of a learning rate that is tried on another problem than it was chosen for.
MULTIPLES = (1.0, 10.0, 0.1, 100.0, 0.01)


@check
def converges_on_a_quadratic(case: Case) -> None:
    """A bowl in all parameters is solved to a hundredth of its start."""
    module = network()
    goal = network(seed=1)

    def loss() -> Tensor:
        pairs = zip(module.parameters(), goal.parameters(), strict=True)
        return sum(((p - q.detach()).square().sum() / 2 for p, q in pairs), torch.zeros(()))

    first, last = minimize(case.make(module, case.lr), loss, steps=400)
    demand(case, last < 0.01 * first, f"a quadratic fell from {first:.3g} to {last:.3g} only in 400 steps")


@check
def descends_rosenbrocks_valley(case: Case) -> None:
    """Rosenbrock's function falls from 24.2 to below 1: into the valley and along it."""
    lowest = math.inf
    rates = [multiple * case.lr for multiple in MULTIPLES] if case.rosenbrock_lr is None else [case.rosenbrock_lr]
    for lr in rates:
        valley = Valley()
        with suppress(ValueError):  # some refuse rates above 1
            optimizer, value = case.make(valley, lr), math.inf
            for _ in range(15):
                minimize(optimizer, lambda valley=valley: valley.rosenbrock() + valley.bowl(), steps=100)
                before, value = value, valley.rosenbrock().item()
                if max(before, value) < 1.0:  # and stays there
                    return
                lowest = min(lowest, value)
                if not math.isfinite(value):
                    break
    raise ContractError(f"{case.name}: Rosenbrock's function is still {lowest:.3g} after 1500 steps")


@check
def learns_a_classification(case: Case) -> None:
    """A small network learns which of three numbers is largest: cross-entropy below 0.7, from 1.1."""
    module = network()
    train(module, case.make(module, case.lr), 300)
    inputs, labels = data(10_000, size=512)
    loss = functional.cross_entropy(module(inputs), labels).item()
    demand(case, loss < 0.7, f"the loss of a small classification is {loss:.3g} after 300 steps, not below 0.7")


def with_found_rate(case: Case) -> Case:
    """The case with a learning rate that suits the small problems, for an optimizer of which only a default is known.

    The first of a few multiples of `case.lr` that solves the quadratic and the classification. Where none does, the
    given rate stays, and the checks say what it falls short of.
    """
    for multiple in MULTIPLES:
        scaled = replace(case, lr=multiple * case.lr)
        with suppress(ContractError, ValueError):  # some refuse rates above 1
            converges_on_a_quadratic(scaled)
            learns_a_classification(scaled)
            return scaled
    return case


@check
def repeats_to_the_bit(case: Case) -> None:
    """Two runs from one start end in the same weights."""
    runs = []
    for _ in range(2):
        module = network()
        train(module, case.make(module, case.lr), 8)
        runs.append(weights(module))
    demand(case, torch.equal(*runs), "two runs from one start differ")
    demand(case, not torch.equal(runs[0], weights(network())), "eight steps changed nothing")


@check
def lr_zero_freezes_the_weights(case: Case) -> None:
    """With lr = 0 in all groups nothing moves, from the start and after a schedule has fallen to 0."""
    module = network()
    optimizer = case.make(module, 0.0)
    train(module, optimizer, 3)
    demand(case, torch.equal(weights(module), weights(network())), "lr = 0 moves the weights")
    optimizer = case.make(module, case.lr)
    train(module, optimizer, 3)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = weights(module)
    train(module, optimizer, 3)
    demand(case, torch.equal(weights(module), before), "lr = 0 in the groups moves the weights")
