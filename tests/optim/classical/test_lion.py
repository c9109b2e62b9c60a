"""Lion against its formula."""

import pytest
import torch
from torch import Tensor, nn

from steepest.optim import OPTIMIZERS
from steepest.optim.classical.lion import lion
from tests.optim.classical.references.problems import network, train, weights


class LiteralLion(torch.optim.Optimizer):
    """Algorithm 2 of arXiv 2302.06675, parameter by parameter."""

    def __init__(self, params, lr, betas, weight_decay) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure):  # type: ignore[override]
        with torch.enable_grad():
            closure()
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for w in group["params"]:
                m = self.state[w].get("m", torch.zeros_like(w))
                c = b1 * m + (1 - b1) * w.grad
                decay = group["weight_decay"] if w.ndim >= 2 else 0.0
                w.copy_(w - group["lr"] * (c.sign() + decay * w))
                self.state[w]["m"] = b2 * m + (1 - b2) * w.grad


def test_equals_the_literal_formula() -> None:
    ours, theirs = network(), network()
    train(ours, lion(ours, lr=3e-3, betas=(0.8, 0.95), weight_decay=0.3), 100)
    train(theirs, LiteralLion(theirs.parameters(), 3e-3, (0.8, 0.95), 0.3), 100)
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=0.0, atol=1e-12)
    assert (weights(ours) - weights(network())).abs().max() > 0.01


def test_every_coordinate_moves_by_lr() -> None:
    module = network()
    before = weights(module)
    train(module, lion(module, lr=0.25), 1)
    torch.testing.assert_close((weights(module) - before).abs(), torch.full_like(before, 0.25))


def test_zero_gradients_with_zero_momentum_move_nothing() -> None:
    module = nn.Linear(3, 2)
    before = weights(module)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    lion(module, lr=0.1).step()
    assert torch.equal(weights(module), before)


def test_kahan_rounding_keeps_small_steps_of_bfloat16() -> None:
    ends: dict[str, Tensor] = {}
    for rounding in ("nearest", "kahan"):
        module = nn.Linear(4, 4, dtype=torch.bfloat16)
        nn.init.ones_(module.weight)
        optimizer = lion(module, lr=1e-4, rounding=rounding)
        for _ in range(300):
            module.weight.grad = torch.ones_like(module.weight)
            optimizer.step()
        ends[rounding] = module.weight.detach().float()
    assert torch.equal(ends["nearest"], torch.ones(4, 4))
    torch.testing.assert_close(ends["kahan"], torch.full((4, 4), 0.97), rtol=0.0, atol=0.004)


def test_bad_options_are_refused_in_one_line() -> None:
    cases = [
        ({"lr": -1.0}, r"lr must be a finite number in \[0, inf\), not -1.0"),
        ({"weight_decay": -1.0}, r"weight_decay must be a finite number in \[0, inf\), not -1.0"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must be a finite number in \[0, 1\), not 1.0"),
        ({"rounding": "up"}, "rounding must be one of nearest, kahan, stochastic, not 'up'"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=rf"\A{message}\Z"):
            OPTIMIZERS.create("lion", nn.Linear(2, 2), **options)
