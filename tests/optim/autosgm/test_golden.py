"""Both implementations against trajectories of the author's own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from steepest.optim.autosgm import AutoSGM, ReferenceAutoSGM

GOLDEN = json.loads((Path(__file__).parent / "golden" / "autosgm_trajectories.json").read_text())
PROBLEM = GOLDEN["problem"]
# Numerators other than the constant one hold a float32 number in the author's code.
EXACT = [name for name, run in GOLDEN["runs"].items() if run["cfg"]["lr_cfg"][2] == 0]


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def trajectory(optimizer_class: type[Optimizer], run: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    weight, bias = tensor(PROBLEM["W0"]), tensor(PROBLEM["b0"])
    if run.get("b0") == "zeros":
        bias = torch.zeros_like(bias)
    weight.requires_grad_()
    bias.requires_grad_()
    optimizer = optimizer_class([weight, bias], **run["cfg"])
    losses = []
    for _ in range(PROBLEM["steps"]):
        optimizer.zero_grad()
        loss = 0.5 * (weight - tensor(PROBLEM["A"])).square().sum() + 5 * (bias - tensor(PROBLEM["c"])).square().sum()
        loss = loss + 0.1 * weight.pow(4).sum()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    return tensor(losses), weight.detach(), bias.detach()


@pytest.mark.parametrize("optimizer_class", [AutoSGM, ReferenceAutoSGM])
@pytest.mark.parametrize("name", GOLDEN["runs"])
def test_the_trajectory_is_the_authors(optimizer_class: type[Optimizer], name: str) -> None:
    run = GOLDEN["runs"][name]
    tolerance = 1e-12 if name in EXACT else 1e-6
    losses, weight, bias = trajectory(optimizer_class, run)
    for found, expected in ((losses, run["losses"]), (weight, run["W"]), (bias, run["b"])):
        torch.testing.assert_close(found, tensor(expected), rtol=tolerance, atol=0)


def test_the_minimal_example_of_the_readme_runs() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(10, 50), torch.nn.ReLU(), torch.nn.Linear(50, 1))
    num_epochs = 1
    iters_epoch = 100000
    opt = AutoSGM(
        model.parameters(),
        lr_cfg=(True, 1e-3, 3),
        beta_cfg=(0.9999, 0.999, 0.9, 0.5528, 0, True),
        rc_cfg=(1, 0, 0, 2, 1, num_epochs, iters_epoch, 1, 0),
        wd_cfg=(0.0, 0),
        eps_cfg=(1e-10, True),
    )
    before = model[0].weight.detach().clone()
    opt.step()
    opt.zero_grad()
    assert torch.equal(model[0].weight, before)  # there was no gradient yet
    model(torch.randn(4, 10)).square().mean().backward()
    opt.step()
    assert not torch.equal(model[0].weight, before)
