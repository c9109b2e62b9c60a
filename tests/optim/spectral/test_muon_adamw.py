"""MuonAdamW: AdamW without a budget, the solution of the inner problem with one."""

import io
from typing import Any

import pytest
import torch
from torch import nn

from steepest.optim.core.grouping import explain
from steepest.optim.spectral.budget import MuonAdamW, muon_adamw
from tests.optim.spectral.matrices import changes, clipped, follow, norm, parameters

SOLVERS = ["exact", "spectral_clip", "frank_wolfe", "dual_ascent", "quasi_newton", "admm"]
VARIANTS: list[dict[str, Any]] = [
    {"weight_decay": 0.0},
    {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-4},
    {"amsgrad": True},
    {"fused": True},
]


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("off", [{"spectral_budget": None}, {"inner_solver": "none"}])
def test_without_a_budget_it_is_adamw_to_the_bit(options, off) -> None:
    ours, theirs = parameters(), parameters()
    follow(ours, MuonAdamW(ours, lr=0.01, **options, **off), 200)
    follow(theirs, torch.optim.AdamW(theirs, lr=0.01, **options), 200)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("solver", "options"),
    [*(("exact", options) for options in VARIANTS), *((solver, VARIANTS[1]) for solver in SOLVERS)],
)
def test_an_inactive_budget_is_adamw_up_to_rounding(options, solver) -> None:
    ours, theirs = parameters(), parameters()
    follow(ours, MuonAdamW(ours, lr=0.01, spectral_budget=100.0, inner_solver=solver, **options), 12)
    follow(theirs, torch.optim.AdamW(theirs, lr=0.01, **options), 12)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_change_exceeds_the_budget_but_the_decay_beside_it(solver) -> None:
    members = parameters()
    optimizer = MuonAdamW(members, lr=0.2, weight_decay=0.1, spectral_budget=0.1, inner_solver=solver)
    for step in range(5):
        before = [member.detach().clone() for member in members]
        for change, old in zip(changes(members, optimizer, step)[:-1], before, strict=False):
            assert norm(change + 0.2 * 0.1 * old) <= 0.1 * (1 + 1e-6)


@pytest.mark.parametrize("solver", ["exact", "dual_ascent", "quasi_newton"])
def test_the_change_solves_the_inner_problem_of_adams_direction(solver) -> None:
    members, free = parameters(), parameters()
    limited = MuonAdamW(members, lr=0.1, weight_decay=0.0, spectral_budget=0.15, inner_solver=solver)
    adamw = torch.optim.AdamW(free, lr=0.1, weight_decay=0.0)
    for step in range(5):
        for parameter, member in zip(free, members, strict=True):
            parameter.data.copy_(member.detach())
        found, steps = changes(members, limited, step), changes(free, adamw, step)
        for change, whole in zip(found[:-1], steps, strict=False):
            torch.testing.assert_close(change, clipped(-whole, 1.0, 0.15), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[-1], steps[-1])


def test_a_saved_state_continues_the_same_run() -> None:
    options: dict[str, Any] = {"lr": 0.1, "amsgrad": True, "inner_solver": "dual_ascent", "spectral_budget": 0.2}
    whole = parameters()
    follow(whole, MuonAdamW(whole, **options), 6)
    first = parameters()
    optimizer = MuonAdamW(first, **options)
    follow(first, optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = MuonAdamW(first, **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    follow(first, resumed, 3, first=3)
    assert all(torch.equal(one, other) for one, other in zip(whole, first, strict=True))


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_lowers_the_loss_of_a_network(solver) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 5))
    images, labels = torch.randn(32, 1, 8, 8), torch.randint(0, 5, (32,))
    optimizer = muon_adamw(module, lr=0.02, inner_solver=solver)
    assert {row.algorithm for row in explain(module, optimizer)} == {"muon_adamw", "adamw"}
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(images), labels)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_a_parameter_whose_gradient_came_late_has_its_own_bias_correction() -> None:
    members = parameters(shapes=[(4, 4), (4, 4)])
    optimizer = MuonAdamW(members, lr=0.01, weight_decay=0.0, spectral_budget=100.0)
    follow(members[:1], optimizer, 3)
    members[0].grad = torch.ones_like(members[0])
    members[1].grad = torch.ones_like(members[1])
    before = members[1].detach().clone()
    optimizer.step()
    # The first step of Adam is lr in each coordinate.
    torch.testing.assert_close(members[1].detach(), before - 0.01, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": (0.9, 1.0)}, r"betas\[1\]"),
        ({"eps": -1.0}, "eps must be"),
        ({"spectral_budget": float("nan")}, "spectral_budget must be"),
        ({"inner_solver": "frank_wolfe", "tangent": True}, "'frank_wolfe' has no tangency"),
    ],
)
def test_bad_options_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        MuonAdamW(parameters(), **options)
