"""(T): solvers against each other, against their certificates, closed forms and a general-purpose optimizer."""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.optim.spectral.solvers import SOLVERS, tangent_projection
from tests.optim.spectral.solvers import cases
from tests.optim.spectral.solvers.cases import (
    KINDS,
    SCALES,
    SEEDS,
    SHAPES,
    TANGENTIAL,
    general,
    gradients,
    norms,
    objective,
    orthonormal,
    tangency,
)

EXACT = [name for name in cases.EXACT if name in TANGENTIAL]
FEASIBLE = [name for name in cases.FEASIBLE if name in TANGENTIAL]
MANIFOLDS = st.sampled_from([orthonormal, general])


@settings(max_examples=20, deadline=None)
@given(KINDS, MANIFOLDS, SHAPES, SEEDS, SCALES, st.sampled_from([0.2, 0.6, 1.5]))
def test_exact_solvers_agree_or_prove_their_gap(kind, manifold, shape, seed, scale, ratio):
    gradient, weight, budget = gradients(kind, shape, seed), manifold(shape, seed), 0.1
    lr = budget / ratio / max(float(norms(gradient).max()), 1e-3)
    results = [
        SOLVERS[name].solve(
            gradient * scale, weight, lr / scale, budget, tangent=True, tolerance=1e-13, max_iterations=1000
        )
        for name in EXACT
    ]
    # ADMM needs many iterations on ill-conditioned matrices; one that is stopped says so and proves how far it is.
    converged = torch.stack([result.duality_gap <= 1e-8 for result in results])
    stopped = torch.stack([result.iterations >= 1000 for result in results])
    assert (converged | stopped).all()
    assert all(own.all() for name, own in zip(EXACT, converged, strict=True) if name != "admm")
    for first, second in itertools.combinations(results, 2):
        distance = (first.update - second.update).flatten(1).norm(dim=1)
        # What both gaps prove together, |D - D*| <= sqrt(2 lr gap), on top of 1e-6 of the budget.
        proved = sum(
            (2 * lr * (r.duality_gap.clamp(min=0) + 1e-15) * (r.primal_objective / scale).abs()).sqrt()
            for r in (first, second)
        )
        assert (distance <= 1e-6 * budget + proved).all()
        assert ((proved < 1e-3 * budget) | ~converged.all(0)).all()


@pytest.mark.parametrize("name", FEASIBLE)
@settings(max_examples=15, deadline=None)
@given(KINDS, MANIFOLDS, SHAPES, SEEDS, SCALES, st.booleans(), st.integers(0, 12))
def test_updates_are_feasible_and_descend_wherever_stopped(
    name, kind, manifold, shape, seed, scale, linear, iterations
):
    gradient, weight, budget = gradients(kind, shape, seed), manifold(shape, seed), 0.3
    lr = math.inf if linear else 1 / scale
    result = SOLVERS[name].solve(gradient * scale, weight, lr, budget, tangent=True, max_iterations=iterations)
    assert result.update.isfinite().all()
    assert (norms(result.update) <= budget * (1 + 1e-6)).all()
    assert tangency(weight, result.update).max() < 1e-8
    assert (result.residual < 1e-6).all() or result.update.abs().max() < 1e-9
    assert ((gradient * result.update).sum((1, 2)) <= 1e-12).all()
    assert (result.iterations <= iterations).all()
    assert result.duality_gap.min() > -1e-9


@pytest.mark.parametrize("name", EXACT)
def test_certificate_holds_against_random_feasible_updates(name):
    gradient, weight, lr, budget = gradients("gaussian", (8, 4), 0), orthonormal((8, 4), 0), 0.3, 0.2
    result = SOLVERS[name].solve(gradient, weight, lr, budget, tangent=True, max_iterations=2)
    lower = result.primal_objective * (1 + result.duality_gap / (1 - result.duality_gap))
    best = SOLVERS[name].solve(gradient, weight, lr, budget, tangent=True).update
    for seed in range(200):
        other = best + 0.1 * tangent_projection(gradients("gaussian", (8, 4), seed), weight)
        other = other * (budget / norms(other)).clamp(max=1)[:, None, None]
        value = objective(gradient, other, lr)
        assert (value >= lower - 1e-12).all()
        assert (value >= objective(gradient, best, lr) - 1e-7).all()


@pytest.mark.parametrize(("lr", "saturated"), [(2.0, 2), (0.3, 1)])
def test_a_general_purpose_optimizer_finds_the_same(lr, saturated):
    gradient, weight, budget = gradients("gaussian", (4, 2), 3, 1), orthonormal((4, 2), 3, 1), 0.2
    g = gradient[0].numpy()
    full, _, _ = torch.linalg.svd(weight[0])
    w, rest = weight[0].numpy(), full[:, 2:].numpy()
    skew = np.array([[0.0, 1.0], [-1.0, 0.0]])
    angles = np.linspace(0, np.pi, 200, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)])

    def update(free):  # all tangent matrices
        return free[0] * w @ skew + rest @ free[1:].reshape(2, 2)

    found = scipy.optimize.minimize(
        lambda free: (g * update(free)).sum() + (update(free) ** 2).sum() / (2 * lr),
        np.zeros(5),
        method="SLSQP",
        # The norm is the largest |D v| over unit vectors v: 200 of them.
        constraints=[{"type": "ineq", "fun": lambda free: 1 - ((update(free) @ directions) ** 2).sum(0) / budget**2}],
        options={"ftol": 1e-13, "maxiter": 300},
    )
    for name in EXACT:
        result = SOLVERS[name].solve(gradient, weight, lr, budget, tangent=True, tolerance=1e-12)
        assert int((torch.linalg.svdvals(result.update) > budget * (1 - 1e-6)).sum()) == saturated
        assert float(result.primal_objective[0]) == pytest.approx(found.fun, rel=1e-4)
        np.testing.assert_allclose(result.update[0].numpy(), update(found.x), atol=5e-3 * budget)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("size", [4, 7])
def test_square_weights_in_the_linear_limit_have_a_closed_form(name, size):
    gradient, weight = gradients("gaussian", (size, size), 1), orthonormal((size, size), 1)
    result = SOLVERS[name].solve(gradient, weight, math.inf, 0.1, tangent=True)
    skew = weight.mT @ gradient
    skew = (skew - skew.mT) / 2
    left, values, right = torch.linalg.svd(skew)
    kept = (values > 1e-12 * values[:, :1]).double()
    torch.testing.assert_close(result.update, -0.1 * weight @ (left * kept[:, None, :]) @ right, atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", [*EXACT, "spectral_clip", "none"])
@pytest.mark.parametrize("budget", [1e3, math.inf])
def test_without_an_active_budget_the_update_is_the_projected_step(name, budget):
    gradient, weight = gradients("gaussian", (9, 5), 1), orthonormal((9, 5), 1)
    result = SOLVERS[name].solve(gradient, weight, 0.1, budget, tangent=True)
    product = weight.mT @ gradient
    projected = gradient - weight @ (product + product.mT) / 2
    torch.testing.assert_close(result.update, -0.1 * projected)
    assert (result.iterations == 0).all()
    assert result.duality_gap.abs().max() < 1e-12


def test_linear_limit_reaches_the_published_gaps():
    # A hard, tall problem. ADMM without over-relaxation is known to leave 4e-3 after 20 and 8e-4 after 60 iterations.
    gradient, weight = gradients("gaussian", (48, 24), 0, 1), orthonormal((48, 24), 0, 1)
    for name, few, many in (("admm", 4e-3, 8e-4), ("quasi_newton", 2e-2, 8e-4), ("dual_ascent", 3e-2, 5e-3)):
        options = {"tangent": True, "tolerance": 1e-12}
        for iterations, gap in ((20, few), (60, many)):
            result = SOLVERS[name].solve(gradient, weight, math.inf, 1.0, max_iterations=iterations, **options)
            assert 0 < result.duality_gap[0] < gap


def test_a_normal_gradient_asks_for_no_step():
    weight = orthonormal((8, 4), 0)
    symmetric = gradients("gaussian", (4, 4), 0)
    gradient = weight @ (symmetric + symmetric.mT)
    for name in FEASIBLE:
        update = SOLVERS[name].solve(gradient, weight, 1.0, 0.1, tangent=True).update
        assert update.abs().max() < 1e-12
    for name in EXACT:
        assert (SOLVERS[name].solve(gradient, weight, math.inf, 0.1, tangent=True).update == 0).all()


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("shape", [(64, 24), (24, 64)])
@pytest.mark.parametrize("kind", ["gaussian", "ill", "deficient"])
def test_float32_reaches_its_threshold(name, shape, kind):
    gradient, weight = gradients(kind, shape, 0).float(), orthonormal(shape, 0).float()
    budget = 0.1
    result = SOLVERS[name].solve(gradient, weight, budget / 0.3 / float(norms(gradient).max()), budget, tangent=True)
    assert result.duality_gap.max() <= 1e-4
    assert (norms(result.update.double()) <= budget * (1 + 1e-6)).all()
    assert result.residual.max() < 1e-5
