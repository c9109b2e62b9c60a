"""Optimizers from elsewhere."""

from functools import partial
from typing import Any, cast

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

from steepest.optim import OptimizerFactory
from steepest.optim.contract.models import network, train, weights
from steepest.optim.libraries.wrapping import external


def test_leaves_weight_decay_to_the_algorithm() -> None:
    ours, theirs = network(), network()
    algorithm = partial(torch.optim.RAdam, lr=0.02, weight_decay=0.3)
    train(ours, external(ours, algorithm), 10)
    train(theirs, algorithm(theirs.parameters()), 10)
    assert torch.equal(weights(ours), weights(theirs))


def test_decays_only_matrices_when_asked() -> None:
    optimizer = external(network(), partial(torch.optim.NAdam, lr=0.02), matrix_weight_decay=0.3)
    decays = {
        parameter.ndim: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]
    }
    assert decays == {2: 0.3, 1: 0.0}


def test_matrix_weight_decay_of_zero_overrides_the_algorithm() -> None:
    optimizer = external(network(), torch.optim.AdamW, matrix_weight_decay=0.0)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0]


def test_the_command_line_takes_any_optimizer_by_import_path() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--optimizer", type=OptimizerFactory)
    arguments = parser.parse_args(
        ["--optimizer=external", "--optimizer.algorithm=torch.optim.NAdam", "--optimizer.algorithm.lr=0.002"]
    )
    factory = parser.instantiate(arguments).optimizer
    optimizer = factory(nn.Linear(2, 2))
    assert type(optimizer) is torch.optim.NAdam
    assert optimizer.param_groups[0]["lr"] == 0.002


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\Aalgorithm must return a torch.optim.Optimizer, not a list\Z"):
        external(network(), cast(Any, list))
    with pytest.raises(ValueError, match=r"\ALBFGS has no weight_decay: leave matrix_weight_decay out\Z"):
        external(nn.Linear(2, 2, bias=False), torch.optim.LBFGS, matrix_weight_decay=0.1)
    with pytest.raises(ValueError, match=r"\Amatrix_weight_decay must be a finite number in \[0, inf\), not -1\Z"):
        external(network(), torch.optim.NAdam, matrix_weight_decay=-1)


class Greedy(torch.optim.SGD):
    """Drops the gradients it has used."""

    def step(self, closure=None):
        loss = super().step(closure)
        self.zero_grad()
        return loss


def test_gradients_survive_the_steps_of_somebody_elses_class() -> None:
    module = network()
    optimizer = external(module, partial(Greedy, lr=0.1))
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in module.parameters())
