import pytest
import torch
from hypothesis import given, settings

from steepest.optim.spectral.solvers.tangent import TangentSpace, retract, tangency_violation, tangent_projection
from tests.optim.spectral.solvers.cases import SEEDS, SHAPES, general, gradients, orthonormal, tangency


@settings(max_examples=40, deadline=None)
@given(SHAPES, SEEDS)
def test_projection_is_the_nearest_tangent_matrix_also_for_general_weights(shape, seed):
    x, y = gradients("gaussian", shape, seed), gradients("gaussian", shape, seed + 7)
    for weight in (orthonormal(shape, seed), general(shape, seed)):
        projected = tangent_projection(x, weight)
        assert tangency(weight, projected).max() < 1e-9
        assert tangency_violation(projected, weight).max() < 1e-9 or projected.abs().max() < 1e-9
        torch.testing.assert_close(tangent_projection(projected, weight), projected, atol=1e-9, rtol=0)
        # What is taken away is at right angles to every tangent matrix.
        assert ((x - projected) * tangent_projection(y, weight)).sum((1, 2)).abs().max() < 1e-8


def test_projection_at_orthonormal_weights_is_the_textbook_formula():
    x, weight = gradients("gaussian", (9, 4), 1), orthonormal((9, 4), 1)
    product = weight.mT @ x
    torch.testing.assert_close(tangent_projection(x, weight), x - weight @ (product + product.mT) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_stays_accurate_where_weights_are_nearly_singular(dtype):
    weight = gradients("ill", (20, 8), 5).to(dtype) * 1e3
    x = gradients("gaussian", (20, 8), 6).to(dtype)
    projected = tangent_projection(x, weight)
    assert tangency_violation(projected, weight).max() < (1e-6 if dtype == torch.float32 else 1e-14)
    torch.testing.assert_close(projected.double(), tangent_projection(x.double(), weight.double()), atol=1e-3, rtol=0)


def test_weights_that_are_zero_constrain_nothing():
    x = gradients("gaussian", (5, 3), 0)
    torch.testing.assert_close(tangent_projection(x, torch.zeros_like(x)), x)


@pytest.mark.parametrize("make", [orthonormal, general])
def test_multiplier_and_coordinates_of_a_normal_matrix(make):
    weight = make((8, 5), 3)
    space = TangentSpace.at(weight)
    coordinates = space.coordinates(gradients("gaussian", (8, 5), 4))
    multiplier = space.multiplier(coordinates)
    torch.testing.assert_close(multiplier, multiplier.mT)
    torch.testing.assert_close(space.from_multiplier(multiplier), coordinates)
    scaled = weight / weight.abs().amax((1, 2), keepdim=True)
    torch.testing.assert_close(2 * scaled @ multiplier, space.normal(coordinates))
    torch.testing.assert_close(torch.linalg.matrix_norm(coordinates), torch.linalg.matrix_norm(2 * scaled @ multiplier))


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (4, 4)])
def test_retraction_gives_the_nearest_orthonormal_matrix(shape):
    weight = orthonormal(shape, 0)
    torch.testing.assert_close(retract(weight * 3), weight)
    retracted = retract(general(shape, 0))
    tall = retracted if shape[0] >= shape[1] else retracted.mT
    torch.testing.assert_close(tall.mT @ tall, torch.eye(min(shape), dtype=torch.float64).expand(2, -1, -1))
