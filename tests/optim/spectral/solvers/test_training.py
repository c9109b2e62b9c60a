import pytest
import torch

from steepest.optim.spectral.solvers import SOLVERS, retract
from tests.optim.spectral.solvers.cases import FEASIBLE, TANGENTIAL, gradients, orthonormal


@pytest.mark.parametrize("name", sorted(SOLVERS))
@pytest.mark.parametrize("lr", [0.05, 0.5])
def test_sixty_steps_come_close_to_a_target(name, lr):
    target, weight = gradients("gaussian", (12, 8), 0), gradients("gaussian", (12, 8), 1)
    state, losses = None, []
    for _ in range(60):
        losses.append(float((weight - target).square().sum() / 2))
        result = SOLVERS[name].solve(weight - target, weight, lr, 0.1, state=state, tolerance=1e-3)
        weight, state = weight + result.update, result.state
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("name", [name for name in FEASIBLE if name in TANGENTIAL])
def test_sixty_tangent_steps_with_retraction_come_close_to_a_target_on_the_manifold(name):
    target, weight = orthonormal((12, 4), 0), orthonormal((12, 4), 1)
    state, losses = None, []
    for _ in range(60):
        losses.append(float((weight - target).square().sum() / 2))
        result = SOLVERS[name].solve(weight - target, weight, 0.3, 0.1, tangent=True, state=state, tolerance=1e-3)
        weight, state = retract(weight + result.update), result.state
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize(
    ("shape", "dtype", "tolerance"), [((10, 4), torch.float32, 1e-5), ((4, 10), torch.float64, 1e-13)]
)
def test_weights_stay_on_the_manifold_for_a_thousand_steps(shape, dtype, tolerance):
    weight = orthonormal(shape, 0).to(dtype)
    generator = torch.Generator().manual_seed(0)
    state = None
    for _ in range(1000):
        gradient = torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(dtype)
        options = {"tangent": True, "tolerance": 1e-2, "max_iterations": 8, "certify": False}
        result = SOLVERS["admm"].solve(gradient, weight, 0.1, 0.1, state=state, **options)
        weight, state = retract(weight + result.update), result.state
    tall = weight if shape[0] > shape[1] else weight.mT
    assert (tall.mT @ tall - torch.eye(4, dtype=dtype)).abs().max() < tolerance
