import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from steepest.diagnostics.curvature.operator import Curvature
from steepest.diagnostics.landscape.directions import (
    coordinates,
    eigenvector_plane,
    inner_product,
    normalized,
    plane_through,
    principal_plane,
    random_plane,
)


def weights(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 3), (4,), (5, 2, 3, 3), (), (3, 4)]
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1).double() for tensor in tensors])


@pytest.mark.parametrize("normalization", ["filter", "layer", "global"])
def test_normalization_is_that_of_a_plain_loop(normalization) -> None:
    own, direction = weights(), weights(1)
    own[0][1] = 0.0  # a filter of zeros gives a direction of zeros
    direction[4][2] = 0.0
    for result, part, weight in zip(normalized(direction, own, normalization), direction, own, strict=True):
        expected = part.clone()
        if normalization == "global":
            expected /= sum(float(other.square().sum()) for other in direction) ** 0.5
        elif weight.ndim < 2:
            expected.zero_()
        elif normalization == "layer":
            expected *= weight.norm() / part.norm()
        else:
            for row, like in zip(expected, weight, strict=True):
                if row.norm() > 0:
                    row.mul_(like.norm() / row.norm())
        torch.testing.assert_close(result, expected)


@given(st.integers(0, 2**31), st.sampled_from(["filter", "layer", "global"]), st.floats(0.01, 100.0))
@settings(max_examples=25, deadline=None)
def test_filters_are_as_long_as_the_weights_whatever_the_scale(seed, normalization, scale) -> None:
    """Scaling the weights scales the direction with them: the picture of a rescaled ReLU network stays the same."""
    own = weights(seed)
    plane, scaled = (
        random_plane(values, 2, normalization, torch.Generator().manual_seed(seed))
        for values in (own, [scale * part for part in own])
    )
    factor = 1.0 if normalization == "global" else scale
    for direction, other in zip(plane.directions, scaled.directions, strict=True):
        for part, rescaled, weight in zip(direction, other, own, strict=True):
            torch.testing.assert_close(rescaled, factor * part, rtol=1e-4, atol=1e-5)
            if normalization == "filter" and weight.ndim >= 2:
                lengths = part.flatten(1).norm(dim=1)
                torch.testing.assert_close(lengths, weight.flatten(1).norm(dim=1), rtol=1e-4, atol=1e-6)


def test_random_directions_are_orthogonal_and_say_how_nearly() -> None:
    plane = random_plane(weights(), 2, "global", torch.Generator().manual_seed(3))
    first, second = map(flat, plane.directions)  # type: ignore[arg-type]
    assert plane.cosine == pytest.approx(float(first @ second), abs=1e-7)
    assert abs(plane.cosine or 1.0) < 1e-6
    assert float(first.norm()) == pytest.approx(1.0)
    filtered = random_plane(weights(), 2, "filter", torch.Generator().manual_seed(3))
    first, second = map(flat, filtered.directions)  # type: ignore[arg-type]
    assert filtered.cosine == pytest.approx(float(first @ second / (first.norm() * second.norm())), rel=1e-5)
    again = random_plane(weights(), 1, "filter", torch.Generator().manual_seed(3))
    assert again.cosine is None
    assert all(map(torch.equal, again.directions[0], filtered.directions[0]))


@pytest.mark.parametrize("chunk", [1_000_000, 7])
def test_principal_directions_are_those_of_a_singular_value_decomposition(monkeypatch, chunk) -> None:
    monkeypatch.setattr("steepest.diagnostics.landscape.directions.CHUNK", chunk)
    snapshots = [weights(seed, torch.float64) for seed in range(12)]
    center = weights(99, torch.float64)
    matrix = torch.stack([flat(snapshot) - flat(center) for snapshot in snapshots])
    _, values, vectors = torch.linalg.svd(matrix, full_matrices=False)
    plane = principal_plane(snapshots, center)
    for direction, vector in zip(plane.directions, vectors, strict=False):
        assert abs(float(flat(direction) @ vector)) == pytest.approx(1.0, abs=1e-12)
    share = values[:2].square() / values.square().sum()
    assert plane.explained == pytest.approx(share.tolist(), rel=1e-12)
    for snapshot, row in zip(snapshots, matrix, strict=True):
        place = coordinates(snapshot, center, plane)
        expected = [float(row @ flat(direction)) for direction in plane.directions]
        assert place == pytest.approx(expected, abs=1e-10)


def test_a_trajectory_on_a_line_spans_no_plane() -> None:
    center, end = weights(), weights(1)
    line = [[torch.lerp(a, b, t) for a, b in zip(center, end, strict=True)] for t in (1.0, 0.5, 0.0)]
    assert principal_plane(line, center, 1).explained == pytest.approx((1.0,))
    for snapshots, spread in ((line, 1), ([center, center], 0), ([], 0)):
        with pytest.raises(ValueError, match=f"spreads in {spread} directions has no 2 principal ones"):
            principal_plane(snapshots, center)
    broken = [torch.full_like(part, torch.nan) for part in center]
    with pytest.raises(ValueError, match="weights are not finite"):
        principal_plane([*line, broken], center)


def test_planes_through_checkpoints() -> None:
    center, first, second = weights(), weights(1), weights(2)
    line = plane_through(center, [first], ["a", "b"])
    assert coordinates(first, center, line) == pytest.approx([1.0])
    plane = plane_through(center, [first, second], ["a", "b", "c"])
    lengths = [math.sqrt(inner_product(direction, direction)) for direction in plane.directions]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-5)
    assert coordinates(first, center, plane) == pytest.approx([1.0, 0.0], abs=1e-6)
    place = coordinates(second, center, plane)
    rebuilt = flat(center) + sum(  # type: ignore[operator]
        share * flat(direction) for share, direction in zip(place, plane.directions, strict=True)
    )
    torch.testing.assert_close(rebuilt, flat(second), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="a and b hold the same weights"):
        plane_through(center, [center], ["a", "b"])
    with pytest.raises(ValueError, match="c lies on the line through a and b"):
        plane_through(center, [first, [2 * b - a for a, b in zip(center, first, strict=True)]], ["a", "b", "c"])


def test_eigenvectors_are_those_of_the_dense_hessian() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    inputs, targets = torch.randn(20, 3, dtype=torch.float64), torch.randint(2, (20,))
    parameters = list(net.parameters())

    def loss() -> Tensor:
        return nn.functional.cross_entropy(net(inputs), targets)

    gradients = torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss(), parameters, create_graph=True)])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True) for entry in gradients]
    hessian = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
    values, vectors = torch.linalg.eigh(hessian)
    plane = eigenvector_plane(Curvature([loss], parameters), tolerance=1e-9)
    assert plane.eigenvalues == pytest.approx(values[-2:].flip(0).tolist(), rel=1e-6)
    for direction, vector in zip(plane.directions, vectors.T.flip(0), strict=False):
        assert abs(float(flat(direction) @ vector)) == pytest.approx(1.0, abs=1e-6)


def test_unknown_normalization() -> None:
    with pytest.raises(ValueError, match="must be one of filter, layer, global, got 'row'"):
        normalized(weights(), weights(), "row")  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2])
def test_every_random_direction_has_a_label(count) -> None:
    plane = random_plane([torch.randn(3, 4)], count, "layer", torch.Generator().manual_seed(0))
    assert plane.labels == tuple(f"random direction {number} (layer-normalized)" for number in (1, 2)[:count])
    assert len(plane.directions) == count
