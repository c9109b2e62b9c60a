"""Objectives have the values, minima and curvatures that are known of them."""

import math

import pytest
import torch
from torch import Tensor

from steepest.lightning_modules import objectives
from steepest.lightning_modules.objectives import (
    Ackley,
    Beale,
    Booth,
    ElongatedBowl,
    GoldsteinPrice,
    Himmelblau,
    Matyas,
    Objective,
    PowellSingular,
    Quadratic,
    Rastrigin,
    Rosenbrock,
    Saddle,
    StyblinskiTang,
    ThreeHumpCamel,
)

ALL = [getattr(objectives, name)().double() for name in objectives.__all__]
ALL += [Rosenbrock(5).double(), StyblinskiTang(3).double(), Rastrigin(4).double(), Ackley(1).double()]
ALL += [Quadratic([0.5, 2.0, 7.0, 7.0], rotation_seed=3, rows=2).double(), Quadratic([3.0, 1.0], 1).double()]


def name(objective: object) -> str:
    return f"{type(objective).__name__}{objective.dimensions}" if isinstance(objective, Objective) else ""


def slope(objective: Objective, point: Tensor) -> Tensor:
    point = point.clone().requires_grad_()
    return torch.autograd.grad(objective.value(point), point)[0]


def curvatures(objective: Objective, point: Tensor) -> list[float]:
    hessian = torch.autograd.functional.hessian(objective.value, point)
    assert isinstance(hessian, Tensor)
    return torch.linalg.eigvalsh(hessian).tolist()


@pytest.mark.parametrize("objective", ALL, ids=name)
def test_minima_are_what_they_are_said_to_be(objective) -> None:
    for minimum in objective.minima:
        assert float(objective.value(minimum)) == pytest.approx(objective.minimum_value, abs=1e-12)
        assert float(slope(objective, minimum).norm()) < 1e-10
        if not isinstance(objective, Ackley):  # not smooth at its tip
            assert min(curvatures(objective, minimum)) > -1e-9
        assert float(objective.gap(minimum)) == pytest.approx(0.0, abs=1e-12)
        assert float(objective.distance(minimum)) == 0.0
    generator = torch.Generator().manual_seed(0)
    around = objective.minima[torch.randint(len(objective.minima), (20_000,), generator=generator)]
    scales = torch.logspace(-3, 1, 20_000, dtype=torch.float64)[:, None]
    points = around + scales * torch.randn(around.shape, generator=generator, dtype=torch.float64)
    assert float(objective.gap(points).min()) > 0


@pytest.mark.parametrize("objective", ALL, ids=name)
def test_a_start_is_elsewhere_and_in_the_picture(objective) -> None:
    start = objective.weight.detach().flatten()
    assert float(objective.distance(start)) > 0.1
    assert float(slope(objective, start).norm()) > 1e-3
    assert float(objective().detach()) == pytest.approx(float(objective.value(start)))
    if objective.limits is not None:
        for place in (start, *objective.minima):
            assert all(low <= value <= high for value, (low, high) in zip(place, objective.limits, strict=True))
    points = start + torch.arange(6, dtype=torch.float64).reshape(2, 3, 1)
    one_by_one = [[float(objective.value(point)) for point in row] for row in points]
    torch.testing.assert_close(objective.value(points), torch.tensor(one_by_one, dtype=torch.float64))
    gradients = torch.autograd.gradcheck(objective.value, (start.clone().requires_grad_(),))
    assert gradients


@pytest.mark.parametrize(
    ("objective", "point", "value"),
    [
        (Rosenbrock(), [-1.2, 1.0], 24.2),
        (Rosenbrock(4), [-1.2, 1.0, -1.2, 1.0], 2 * 24.2 + 100 * (-1.2 - 1) ** 2),
        (Beale(), [1.0, 1.0], 14.203125),
        (Himmelblau(), [0.0, 0.0], 170.0),
        (Booth(), [0.0, 0.0], 74.0),
        (Matyas(), [1.0, 1.0], 0.04),
        (GoldsteinPrice(), [1.0, 1.0], 1876.0),
        (ThreeHumpCamel(), [1.0, 1.0], 2 - 1.05 + 1 / 6 + 2),
        (StyblinskiTang(), [1.0, -1.0], -15.0),
        (Rastrigin(), [0.5, 1.0], 20.25 + 1.0),
        (Ackley(), [1.0, 1.0], 3.6253849384403627),
        (PowellSingular(), [3.0, -1.0, 0.0, 1.0], 215.0),
        (ElongatedBowl(), [5.0, 4.0], 185.0),
        (Saddle(), [1.0, 1.0], 0.25),
        (Quadratic([2.0, 8.0]), [3.0, 0.5], 10.0),
    ],
    ids=name,
)
def test_published_values(objective, point, value) -> None:
    assert float(objective.value(torch.tensor(point, dtype=torch.float64))) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (ElongatedBowl(), [2.0, 20.0]),
        (Booth(), [2.0, 18.0]),
        (Matyas(), [0.04, 1.0]),
        (Saddle(), [1.0, 2.0]),
        (Quadratic([5.0, 0.1, 3.0], rotation_seed=7), [0.1, 3.0, 5.0]),
        (PowellSingular(), [0.0, 0.0, 20.0, 202.0]),
        (Rastrigin(3), [2 + 40 * math.pi**2] * 3),
    ],
    ids=name,
)
def test_known_curvatures(objective, expected) -> None:
    assert curvatures(objective, objective.minima[0]) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_saddle_has_a_direction_down() -> None:
    origin = torch.zeros(2, dtype=torch.float64)
    assert curvatures(Saddle(), origin) == [-1.0, 1.0]
    assert float(slope(Saddle(), origin).norm()) == 0.0


def test_a_rotation_turns_the_axes_and_the_start_with_them() -> None:
    plain, turned = Quadratic([1.0, 9.0]).double(), Quadratic([1.0, 9.0], rotation_seed=0).double()
    assert float(turned().detach()) == pytest.approx(float(plain().detach()))
    assert abs(float(turned.hessian[0, 1])) > 0.1
    assert torch.equal(Quadratic([1.0, 9.0], 0).hessian, Quadratic([1.0, 9.0], 0).hessian)
    assert Quadratic([1.0] * 6, rows=2).weight.shape == (2, 3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Quadratic([]), "at least one number, got none"),
        (lambda: Quadratic([1.0, -2.0]), "finite numbers above 0, got -2"),
        (lambda: Quadratic([1.0, math.nan]), "finite numbers above 0, got nan"),
        (lambda: Quadratic([1.0, 2.0, 3.0], rows=2), "rows must divide the number of eigenvalues 3, got 2"),
        (lambda: Rosenbrock(1), "dimensions must be a whole number, at least 2, got 1"),
        (lambda: Ackley(0), "at least 1, got 0"),
        (lambda: Beale([1.0]), r"start of Beale must be 2 finite numbers, got \[1.0\]"),
        (lambda: Booth([1.0, math.inf]), "start of Booth must be 2 finite numbers"),
    ],
)
def test_bad_arguments_are_refused(make, words) -> None:
    with pytest.raises(ValueError, match=words):
        make()
