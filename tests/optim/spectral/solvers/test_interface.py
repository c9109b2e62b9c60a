"""What every solver promises: laws of its problem, batches, warm starts, odd input and clear refusals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.optim.spectral.solvers import SOLVERS
from tests.optim.spectral.solvers.cases import NAMES, SEEDS, TANGENTIAL, gradients, norms, orthonormal

CASES = [(name, False) for name in NAMES] + [(name, True) for name in TANGENTIAL]
# Solvers that go on from their last answer and stop at the same accuracy.
WARM = [
    (name, tangent)
    for name, tangent in CASES
    if SOLVERS[name].exact and SOLVERS[name].initial_state(torch.ones(1, 3, 2), tangent=tangent)
]


@pytest.mark.parametrize(("name", "tangent"), CASES)
@settings(max_examples=8, deadline=None)
@given(st.sampled_from([(7, 3), (3, 7), (5, 5), (30, 20), (1, 6), (6, 1)]), SEEDS, st.floats(-20, 20))
def test_scale_rotation_and_transpose_carry_over(name, tangent, shape, seed, exponent):
    gradient, weight = gradients("gaussian", shape, seed), orthonormal(shape, seed)

    def solve(gradient, weight, lr, budget):
        return SOLVERS[name].solve(gradient, weight, lr, budget, tangent=tangent, tolerance=1e-12).update

    update = solve(gradient, weight, 0.3, 0.2)
    tolerance = 1e-2 if name == "spectral_clip_fast" else 1e-5
    factor = 10.0**exponent
    torch.testing.assert_close(solve(gradient * factor, weight, 0.3 / factor, 0.2), update, atol=1e-6, rtol=0)
    torch.testing.assert_close(solve(gradient, weight, 0.3 * 2, 0.2 * 2), update * 2, atol=1e-6, rtol=0)
    torch.testing.assert_close(solve(gradient.mT, weight.mT, 0.3, 0.2), update.mT, atol=1e-6, rtol=0)
    left, right = orthonormal((shape[0],) * 2, seed + 3), orthonormal((shape[1],) * 2, seed + 5)
    rotated = solve(left @ gradient @ right, left @ weight @ right, 0.3, 0.2)
    torch.testing.assert_close(rotated, left @ update @ right, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("name", "tangent"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_is_solved_as_its_members_alone(name, tangent, dtype):
    kinds = ("gaussian", "ill", "deficient", "zero")
    gradient = torch.cat([gradients(kind, (20, 17), 0, 1) for kind in kinds]).to(dtype)
    gradient[0] *= 100
    weight = orthonormal((20, 17), 0, 4).to(dtype)
    together = SOLVERS[name].solve(gradient, weight, 0.3, 0.2, tangent=tangent)
    for index in range(4):
        one = slice(index, index + 1)
        alone = SOLVERS[name].solve(gradient[one], weight[one], 0.3, 0.2, tangent=tangent)
        tolerance = 1e-9 if dtype == torch.float64 else 1e-4
        if name == "spectral_clip_fast":
            tolerance = 1e-2  # it makes as many passes over all as the hardest member needs
        torch.testing.assert_close(together.update[one], alone.update, atol=tolerance * 0.2, rtol=tolerance)
        if dtype == torch.float64 and name != "spectral_clip_fast":
            assert torch.equal(together.iterations[one], alone.iterations)
        for key, value in alone.state.items():
            assert together.state[key][one].shape == value.shape


@pytest.mark.parametrize(("name", "tangent"), WARM)
@pytest.mark.parametrize("shape", [(24, 10), (10, 24)])
def test_a_warm_start_saves_iterations_and_keeps_the_answer(name, tangent, shape):
    solver, weight = SOLVERS[name], orthonormal(shape, 0)
    gradient = gradients("gaussian", shape, 0)
    options = {"tangent": tangent, "tolerance": 1e-6}
    state = solver.initial_state(weight, tangent=tangent)
    shapes = {key: value.shape for key, value in state.items()}
    first = solver.solve(gradient, weight, 0.1, 0.3, state=state, **options)
    assert {key: value.shape for key, value in first.state.items()} == shapes
    assert all((value == 0).all() for value in state.values())
    again = solver.solve(gradient, weight, 0.1, 0.3, state=first.state, **options)
    assert (again.iterations < first.iterations).all()
    nearby = gradient + 1e-3 * gradients("gaussian", shape, 9)
    warm = solver.solve(nearby, weight, 0.1, 0.3, state=first.state, **options)
    cold = solver.solve(nearby, weight, 0.1, 0.3, **options)
    assert warm.iterations.sum() < cold.iterations.sum()
    torch.testing.assert_close(warm.update, cold.update, atol=2e-3, rtol=0)
    assert warm.duality_gap.max() <= 1e-6


@pytest.mark.parametrize(("name", "tangent"), CASES)
@pytest.mark.parametrize(("scale", "shape"), [(1e-20, (30, 20)), (1e20, (4, 4)), (1e20, (1, 5)), (1e-20, (5, 1))])
def test_float32_at_every_scale(name, tangent, scale, shape):
    unit = gradients("gaussian", shape, 0)
    gradient, weight = (unit * scale).float(), orthonormal(shape, 0).float()
    result = SOLVERS[name].solve(gradient, weight, 0.3 / scale, 0.2, tangent=tangent)
    expected = SOLVERS[name].solve(unit.float(), weight, 0.3, 0.2, tangent=tangent)
    torch.testing.assert_close(result.update, expected.update, atol=2e-3, rtol=0)
    assert result.duality_gap.isfinite().all()


@pytest.mark.parametrize(("name", "tangent"), CASES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_gives_nan_and_spares_its_neighbors(name, tangent, bad):
    gradient, weight = gradients("gaussian", (20, 17), 0, 3), orthonormal((20, 17), 0, 3)
    gradient[1, 2, 3] = bad
    for lr, budget in ((0.3, 0.2), (0.3, math.inf), (math.inf, 0.2), (0.3, 1e6)):
        if name == "none" and math.isinf(lr):
            continue
        result = SOLVERS[name].solve(gradient, weight, lr, budget, tangent=tangent)
        # Plain descent is elementwise: an infinite entry stays one.
        assert not result.update[1].isfinite().all()
        assert budget != 0.2 or name == "none" or result.update[1].isnan().all()
        assert result.update[[0, 2]].isfinite().all()
        alone = SOLVERS[name].solve(gradient[:1], weight[:1], lr, budget, tangent=tangent)
        torch.testing.assert_close(result.update[:1], alone.update, atol=1e-2 * 0.2, rtol=1e-2)


@pytest.mark.parametrize("name", TANGENTIAL)
def test_weights_that_are_not_finite_give_nan(name):
    gradient, weight = gradients("gaussian", (6, 4), 0), orthonormal((6, 4), 0)
    weight[1, 0, 0] = math.nan
    result = SOLVERS[name].solve(gradient, weight, 0.3, 0.2, tangent=True)
    assert result.update[1].isnan().all()
    assert result.update[0].isfinite().all()


@pytest.mark.parametrize(("name", "tangent"), CASES)
def test_zero_learning_rate_budget_or_gradient_give_no_change(name, tangent):
    gradient, weight = gradients("gaussian", (20, 17), 0), orthonormal((20, 17), 0)
    solver = SOLVERS[name]
    for lr, budget in ((0.0, 0.2), (0.3, 0.0), (0.0, math.inf)):
        result = solver.solve(gradient, weight, lr, budget, tangent=tangent)
        assert (result.update == 0).all()
        assert (result.duality_gap == 0).all()
        assert (result.residual == 0).all()
    for lr in (0.3, math.inf):
        if name != "none" or lr == 0.3:
            result = solver.solve(torch.zeros_like(gradient), weight, lr, 0.2, tangent=tangent)
            assert (result.update == 0).all()
            assert (result.duality_gap == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_inactive_budget_leaves_plain_descent_to_the_last_bit(name):
    gradient, weight = gradients("gaussian", (20, 17), 0), orthonormal((20, 17), 0)
    for budget in (1e3, math.inf):
        assert torch.equal(SOLVERS[name].solve(gradient, weight, 0.3, budget).update, -0.3 * gradient)


@pytest.mark.parametrize(("name", "tangent"), CASES)
def test_certificates_do_not_change_the_update(name, tangent):
    gradient, weight = gradients("gaussian", (20, 17), 0), orthonormal((20, 17), 0)
    certified = SOLVERS[name].solve(gradient, weight, 0.3, 0.2, tangent=tangent)
    plain = SOLVERS[name].solve(gradient, weight, 0.3, 0.2, tangent=tangent, certify=False)
    assert torch.equal(certified.update, plain.update)
    assert plain.residual is None
    for value in (certified.primal_objective, certified.duality_gap, certified.residual, certified.iterations):
        assert value.shape == (2,)
    if name != "none":
        assert norms(certified.update).max() <= 0.2 * (1.01 if name == "spectral_clip_fast" else 1 + 1e-9)


def test_the_table_names_what_there_is():
    assert {"admm", "dual_ascent", "exact", "frank_wolfe", "none", "quasi_newton", "spectral_clip"} < set(NAMES)
    for name, solver in SOLVERS.items():
        assert solver.name == name
        assert 20 < len(solver.summary) < 120
    with pytest.raises(ValueError, match=r"unknown inner solver 'frankwolfe'. Did you mean 'frank_wolfe'\?"):
        SOLVERS["frankwolfe"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": -1.0}, "lr must be a number of at least 0, not -1.0"),
        ({"lr": math.nan}, "lr must be a number of at least 0, not nan"),
        ({"budget": -0.1}, "spectral budget must be a number of at least 0, not -0.1"),
        ({"lr": math.inf, "budget": math.inf}, "infinite lr needs a finite spectral budget"),
        ({"tolerance": 0.0}, "tolerance must be a number above 0, not 0.0"),
        ({"max_iterations": -1}, "max_iterations must be a whole number of at least 0, not -1"),
        ({"max_iterations": 2.5}, "max_iterations must be a whole number of at least 0, not 2.5"),
        ({"tangent": True}, "'exact' cannot keep updates tangent; those that can: admm, dual_ascent"),
        ({"gradient": torch.zeros(3, 2)}, r"one shape \(batch, m, n\), not \(3, 2\)"),
        ({"gradient": torch.zeros(1, 3, 2, dtype=torch.bfloat16)}, "float32 or float64, not torch.bfloat16"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = {"gradient": torch.zeros(1, 3, 2), "weight": torch.zeros(1, 3, 2), "lr": 0.1, "budget": 0.1} | change
    with pytest.raises(ValueError, match=message):
        SOLVERS["exact"].solve(**arguments)


def test_no_solver_without_a_limit_in_the_linear_limit():
    with pytest.raises(ValueError, match="an inner solver that enforces it"):
        SOLVERS["none"].solve(torch.ones(1, 3, 2), torch.ones(1, 3, 2), math.inf, 0.1)
