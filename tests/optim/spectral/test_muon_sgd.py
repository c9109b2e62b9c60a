"""MuonSGD: SGD without a budget, the solution of the inner problem with one."""

import copy
import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from steepest.optim.core.grouping import explain
from steepest.optim.core.roles import ParameterRule
from steepest.optim.spectral.budget import MuonSGD, muon_sgd, surely_inactive
from tests.optim.spectral.matrices import changes, clipped, follow, norm, parameters

SOLVERS = ["exact", "spectral_clip", "frank_wolfe", "dual_ascent", "quasi_newton", "admm"]
VARIANTS: list[dict[str, Any]] = [
    {"momentum": 0.0},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"momentum": 0.8, "dampening": 0.5, "weight_decay": 0.1},
    {"momentum": 0.0, "weight_decay": 0.1},
]


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("off", [{"spectral_budget": None}, {"inner_solver": "none"}])
def test_without_a_budget_it_is_sgd_to_the_bit(options, off) -> None:
    ours, theirs = parameters(), parameters()
    follow(ours, MuonSGD(ours, lr=0.05, **options, **off), 200)
    follow(theirs, torch.optim.SGD(theirs, lr=0.05, **options), 200)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("solver", "options"),
    [*(("exact", options) for options in VARIANTS), *((solver, VARIANTS[3]) for solver in SOLVERS)],
)
def test_an_inactive_budget_is_sgd_up_to_rounding(options, solver) -> None:
    ours, theirs = parameters(), parameters()
    follow(ours, MuonSGD(ours, lr=0.05, spectral_budget=100.0, inner_solver=solver, **options), 12)
    follow(theirs, torch.optim.SGD(theirs, lr=0.05, **options), 12)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_change_exceeds_the_budget_but_the_decay_beside_it(solver) -> None:
    members = parameters()
    optimizer = MuonSGD(members, lr=0.5, spectral_budget=0.1, inner_solver=solver)
    for step in range(5):
        for change in changes(members, optimizer, step)[:-1]:
            assert norm(change) <= 0.1 * (1 + 1e-6)
    members = parameters()
    optimizer = MuonSGD(members, lr=0.5, spectral_budget=0.1, inner_solver=solver, weight_decay=0.2, momentum=0.0)
    for step in range(5):
        before = [member.detach().clone() for member in members]
        for change, old in zip(changes(members, optimizer, step)[:-1], before, strict=False):
            assert norm(change + 0.5 * 0.2 * old) <= 0.1 * (1 + 1e-6)


@pytest.mark.parametrize("solver", ["exact", "dual_ascent", "quasi_newton"])
def test_the_change_solves_the_inner_problem_of_the_velocity(solver) -> None:
    members = parameters()
    optimizer = MuonSGD(members, lr=0.2, momentum=0.9, spectral_budget=0.3, inner_solver=solver)
    velocities = [torch.zeros_like(member) for member in members]
    for step in range(5):
        found = changes(members, optimizer, step)
        velocities = [0.9 * velocity + member.grad for velocity, member in zip(velocities, members, strict=True)]
        for change, velocity in zip(found[:-1], velocities, strict=False):
            torch.testing.assert_close(change, clipped(velocity, 0.2, 0.3), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[-1], -0.2 * velocities[-1])


def test_the_budget_can_be_scheduled() -> None:
    members = parameters()
    optimizer = MuonSGD(members, lr=5.0, inner_solver="exact")
    for step, budget in enumerate((0.01, 0.5, 0.0, float("inf"))):
        optimizer.param_groups[0]["spectral_budget"] = budget
        largest = [norm(change) for change in changes(members, optimizer, step)[:-1]]
        if budget == float("inf"):
            assert min(largest) > 1
        else:
            assert largest == pytest.approx([budget] * 4)


def test_split_rows_have_budgets_of_their_own() -> None:
    members = parameters(shapes=[(12, 5)])
    optimizer = MuonSGD([{"params": members, "split": 3}], lr=5.0, spectral_budget=0.2, inner_solver="exact")
    (change,) = changes(members, optimizer, 0)
    assert [norm(part) for part in change.chunk(3)] == pytest.approx([0.2] * 3)
    assert norm(change) > 0.21


@pytest.mark.parametrize("solver", SOLVERS)
def test_equal_matrices_solved_together_give_the_same(solver) -> None:
    shapes = [(4, 6), (5, 3), (4, 6), (2, 2, 3), (4, 6)]
    single, together = parameters(shapes=shapes), parameters(shapes=shapes)
    options: dict[str, Any] = {"lr": 0.5, "inner_solver": solver, "spectral_budget": 0.2}
    follow(single, MuonSGD(single, batch_elements=0, **options), 5)
    follow(together, MuonSGD(together, batch_elements=48, **options), 5)
    for one, other in zip(single, together, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", ["dual_ascent", "admm"])
def test_with_retraction_the_weights_stay_on_the_manifold(solver) -> None:
    members = parameters(shapes=[(6, 3), (3, 6)])
    for member in members:
        nn.init.orthogonal_(member)
    optimizer = MuonSGD(
        members, lr=0.5, spectral_budget=0.1, inner_solver=solver, tangent=True, retraction="polar", max_iterations=20
    )
    optimizer.record_statistics = True
    for step in range(12):
        change = changes(members, optimizer, step)
        for member in members:
            wide = member.detach() if member.shape[0] < member.shape[1] else member.detach().mT
            torch.testing.assert_close(wide @ wide.mT, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-10)
        assert max(norm(part) for part in change) < 0.11  # second order beside the tangent step
        assert all(found["residual"] < 1e-3 for found in optimizer.last_stats.values())


def test_statistics_of_the_solver() -> None:
    members = parameters()
    optimizer = MuonSGD(members, lr=5.0, spectral_budget=0.1, inner_solver="dual_ascent")
    follow(members, optimizer, 1)
    assert optimizer.last_stats == {}
    optimizer.record_statistics = True
    follow(members, optimizer, 1)
    assert list(optimizer.last_stats) == ["0.0", "0.1", "0.2", "0.3"]
    for found in optimizer.last_stats.values():
        assert found.keys() == {"iterations", "relative_gap", "residual", "budget_used", "budget_active"}
        assert found["budget_used"].item() == pytest.approx(1, abs=1e-3)
        assert found["budget_active"] == 1
        assert found["relative_gap"] < 1e-6
        assert found["residual"] < 1e-6
    optimizer.param_groups[0]["lr"] = 1e-3
    follow(members, optimizer, 1)
    assert all(found["budget_active"] == 0 for found in optimizer.last_stats.values())


@pytest.mark.parametrize("solver", [*SOLVERS, "spectral_clip_fast"])
@pytest.mark.parametrize("budget", [1e-3, 0.3, 100.0])
def test_statistics_change_no_bit(solver, budget) -> None:
    """With the budget always, sometimes and never reached; a solver asked for statistics only keeps its state."""
    shapes = [(80, 70), (6, 4)]
    watched, alone = parameters(shapes=shapes), parameters(shapes=shapes)
    options: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "inner_solver": solver, "spectral_budget": budget}
    optimizer = MuonSGD(watched, **options)
    optimizer.record_statistics = True
    follow(watched, optimizer, 4)
    follow(alone, MuonSGD(alone, **options), 4)
    assert all(torch.equal(one, other) for one, other in zip(watched, alone, strict=True))


def test_a_budget_surely_out_of_reach_is_sgd_to_the_bit() -> None:
    ours, theirs = parameters(), parameters()
    follow(ours, MuonSGD(ours, lr=0.05, momentum=0.9, spectral_budget=100.0), 12)
    follow(theirs, torch.optim.SGD(theirs, lr=0.05, momentum=0.9), 12)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@given(
    st.integers(0, 1000),
    st.sampled_from([1e-42, 1e-38, 1e-30, 1e-19, 1e-3, 1.0, 1e15, 1e25]),
    st.floats(0.5, 2.0),
    st.booleans(),
)
@settings(deadline=None, max_examples=100)
def test_what_is_calledsurely_inactive_is_within_the_budget(seed, scale, ratio, rank_one) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(1, 9, 7, generator=generator, dtype=torch.float64)
    if rank_one:  # where the Frobenius norm is the spectral one
        gradient = gradient[:, :, :1] * gradient[:, :1]
    single = (gradient * scale).float()
    norm = float(torch.linalg.matrix_norm(single.double(), 2))
    if surely_inactive(single, {"lr": 1.0, "spectral_budget": ratio * norm, "tangent": False}):
        assert ratio >= 1
    assert (
        surely_inactive(single, {"lr": 1.0, "spectral_budget": 4 * norm, "tangent": False}) or not 1e-15 < scale < 1e18
    )


@pytest.mark.parametrize("solver", [*SOLVERS, "spectral_clip_fast"])
@pytest.mark.parametrize(("lr", "active"), [(0.1, 1), (0.001, 0)])
def test_the_budget_is_active_where_sgd_would_exceed_it(solver, lr, active) -> None:
    members = parameters(shapes=[(40, 32)])
    optimizer = MuonSGD(members, lr=lr, spectral_budget=0.1, inner_solver=solver)
    optimizer.record_statistics = True
    follow(members, optimizer, 1)
    found = optimizer.last_stats["0.0"]
    assert found["budget_active"] == active
    assert 0.98 * active < found["budget_used"].item() <= 1.01


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_saved_state_continues_the_same_run(solver) -> None:
    options: dict[str, Any] = {
        "lr": 0.5,
        "momentum": 0.8,
        "dampening": 0.5,
        "weight_decay": 0.1,
        "inner_solver": solver,
        "spectral_budget": 0.2,
    }
    whole = parameters()
    follow(whole, MuonSGD(whole, **options), 6)
    first = parameters()
    optimizer = MuonSGD(first, **options)
    follow(first, optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = MuonSGD(first, **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    follow(first, resumed, 3, first=3)
    assert all(torch.equal(one, other) for one, other in zip(whole, first, strict=True))


def test_a_copy_is_independent() -> None:
    members = parameters()
    optimizer = MuonSGD(members, lr=0.5, inner_solver="dual_ascent")
    follow(members, optimizer, 2)
    copied = copy.deepcopy(optimizer)
    kept = [value.clone() for state in copied.state.values() for value in state.values()]
    follow(members, optimizer, 2, first=2)
    values = [value for state in copied.state.values() for value in state.values()]
    assert all(torch.equal(one, other) for one, other in zip(kept, values, strict=True))


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_lowers_a_quadratic(solver) -> None:
    members = parameters(shapes=[(8, 5), (5, 8)])
    goals = [torch.randn(8, 5, dtype=torch.float64), torch.randn(5, 8, dtype=torch.float64)]
    optimizer = MuonSGD(members, lr=0.5, momentum=0.5, spectral_budget=0.1, inner_solver=solver)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = sum((m - g).square().sum() / 2 for m, g in zip(members, goals, strict=True))
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < 0.05 * losses[0]


def test_routing_by_role() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(),
                           nn.Linear(16, 3), nn.ReLU(), nn.Linear(3, 5))  # fmt: skip
    found = {row.name: row.algorithm for row in explain(module, muon_sgd(module))}
    assert {name for name, algorithm in found.items() if algorithm == "muon_sgd"} == {"0.weight", "4.weight"}
    assert set(found.values()) == {"muon_sgd", "sgd"}
    rules = [ParameterRule("6.weight", algorithm="muon_sgd", options={"spectral_budget": 0.5})]
    groups = muon_sgd(module, rules=rules).param_groups
    assert {g["spectral_budget"] for g in groups if g["algorithm"] == "muon_sgd"} == {0.1, 0.5}


def test_options_of_the_budget_in_a_group_are_for_its_matrices() -> None:
    members = parameters()
    optimizer = MuonSGD([{"params": members, "spectral_budget": 0.7, "lr": 0.3}])
    assert [(g["algorithm"], g.get("spectral_budget"), g["lr"]) for g in optimizer.param_groups] == [
        ("muon_sgd", 0.7, 0.3),
        ("sgd", None, 0.3),
    ]


def test_decay_cannot_be_switched_on_later() -> None:
    members = parameters()
    optimizer = MuonSGD(members)
    optimizer.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(ValueError, match="weight_decay cannot leave 0 during a run"):
        follow(members, optimizer, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spectral_budget": -0.1}, "spectral_budget must be"),
        ({"inner_solver": "spectral"}, "unknown inner solver 'spectral'. Did you mean 'spectral_clip'"),
        ({"inner_solver": "exact", "tangent": True}, "inner solver 'exact' has no tangency; these have: admm"),
        ({"spectral_budget": None, "tangent": True}, "tangent=True needs an inner solver and a spectral_budget"),
        ({"inner_solver": "none", "retraction": "polar"}, "retraction='polar' needs an inner solver"),
        ({"retraction": "qr"}, "unknown retraction 'qr'"),
        ({"tolerance": 0.0}, "tolerance must be"),
        ({"max_iterations": -1}, "max_iterations must be"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"nesterov": True, "dampening": 0.5}, "nesterov needs momentum"),
    ],
)
def test_bad_options_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        MuonSGD(parameters(), **options)
