import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from steepest.diagnostics.curvature.operator import Curvature
from steepest.diagnostics.landscape.directions import Plane, eigenvector_plane, random_plane
from steepest.diagnostics.landscape.landscape import (
    Ranks,
    empty_surface,
    fill,
    fingerprint,
    grid_axis,
    load_surface,
    save_surface,
)


@given(st.floats(-50.0, 0.0), st.floats(0.0, 50.0), st.integers(3, 60))
@settings(max_examples=200, deadline=None)
def test_axes_are_even_cover_their_range_and_hold_zero(low, high, resolution) -> None:
    if high - low < 1e-6:
        return
    axis = grid_axis(low, high, resolution)
    assert len(axis) == resolution
    assert (axis == 0.0).sum() == 1
    numpy.testing.assert_allclose(numpy.diff(axis), axis[1] - axis[0], rtol=1e-9)
    assert axis[1] > axis[0]
    assert axis[0] <= low + 1e-9 * (high - low)
    assert axis[-1] >= high - 1e-9 * (high - low)
    if -low == high and resolution % 2:
        numpy.testing.assert_allclose(axis, numpy.linspace(low, high, resolution), atol=1e-12 * high)


@pytest.mark.parametrize(
    ("low", "high", "resolution"), [(-1, 1, 2), (-1, 1, 0), (0.5, 1, 5), (0, 0, 5), (-1, 1e999, 5)]
)
def test_axes_that_cannot_be(low, high, resolution) -> None:
    with pytest.raises(ValueError, match="got"):
        grid_axis(low, high, resolution)


class Problem:
    """A network with batch normalization and its loss as a closure."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
        self.inputs, self.targets = torch.randn(16, 6), torch.randint(3, (16,))
        self.parameters = [parameter.detach() for parameter in self.net.parameters()]
        self.plane = random_plane(self.parameters, 2, "filter", torch.Generator().manual_seed(1))
        self.calls = 0

    def loss(self) -> Tensor:
        self.calls += 1
        return nn.functional.cross_entropy(self.net(self.inputs), self.targets)

    def surface(self, resolution: int = 7):
        return empty_surface([grid_axis(-1, 1, resolution), grid_axis(-2, 1, resolution + 2)], "mark")


def test_values_are_those_of_a_direct_evaluation() -> None:
    problem = Problem()
    before = [parameter.clone() for parameter in problem.parameters]
    surface = problem.surface()
    fill(surface, problem.loss, problem.parameters, problem.plane)
    assert problem.calls == surface.losses.size == surface.done.sum()
    assert all(map(torch.equal, problem.parameters, before))
    assert surface.center == float(problem.loss().detach())  # to the bit
    places = random.Random(0).sample([*numpy.ndindex(surface.losses.shape)], 12)
    for place in places:
        shifts = [float(axis[index]) for axis, index in zip(surface.axes, place, strict=True)]
        moved = {
            name: own + shifts[0] * one + shifts[1] * other
            for (name, own), one, other in zip(problem.net.named_parameters(), *problem.plane.directions, strict=True)
        }
        output = torch.func.functional_call(problem.net, moved, (problem.inputs,))
        expected = float(nn.functional.cross_entropy(output, problem.targets).detach())
        assert surface.losses[place] == pytest.approx(expected, rel=1e-5)


def test_the_surface_of_a_quadratic_is_the_quadratic_and_bends_by_its_eigenvalues() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    eigenvalues = torch.tensor([9.0, 4.0, 1.0, 0.5, 0.0, -2.0], dtype=torch.float64)
    hessian = basis * eigenvalues @ basis.T
    slope = torch.randn(6, generator=generator, dtype=torch.float64)
    weights = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        return 0.5 * weights @ hessian @ weights + slope @ weights

    def expected(point: Tensor) -> float:
        return float(0.5 * point @ hessian @ point + slope @ point)

    for plane in (
        Plane((*([torch.randn(6, generator=generator, dtype=torch.float64)] for _ in range(2)),), ("", "")),
        eigenvector_plane(Curvature([loss], [weights]), tolerance=1e-12),
    ):
        surface = empty_surface([grid_axis(-1, 1, 5), grid_axis(-1, 1, 5)], "")
        fill(surface, loss, [weights.detach()], plane)
        first, second = (direction[0] for direction in plane.directions)
        for (row, column), value in numpy.ndenumerate(surface.losses):
            point = weights.detach() + surface.axes[0][row] * first + surface.axes[1][column] * second
            assert value == pytest.approx(expected(point), rel=1e-12, abs=1e-12)
    assert plane.eigenvalues == pytest.approx((9.0, 4.0))
    step = surface.axes[0][1] - surface.axes[0][0]
    for axis, eigenvalue in ((0, 9.0), (1, 4.0)):
        numpy.testing.assert_allclose(numpy.diff(surface.losses, 2, axis=axis) / step**2, eigenvalue, rtol=1e-5)


def test_an_error_leaves_the_weights_as_they_were_and_what_is_done_is_kept() -> None:
    problem = Problem()
    before = [parameter.clone() for parameter in problem.parameters]
    surface = problem.surface()

    class Stop(RuntimeError):
        pass

    def failing() -> Tensor:
        if problem.calls == 20:
            raise Stop
        return problem.loss()

    saved = []
    with pytest.raises(Stop):
        fill(surface, failing, problem.parameters, problem.plane, save=lambda part: saved.append(int(part.done.sum())))
    assert all(map(torch.equal, problem.parameters, before))
    assert saved
    assert 0 < surface.done.sum() <= 20
    assert saved[-1] == surface.done.sum()

    done = int(surface.done.sum())
    problem.calls = 0
    fill(surface, problem.loss, problem.parameters, problem.plane)
    assert problem.calls == surface.losses.size - done  # nothing twice
    whole = problem.surface()
    fill(whole, problem.loss, problem.parameters, problem.plane)
    numpy.testing.assert_array_equal(surface.losses, whole.losses)


def test_losses_that_are_not_finite_are_kept_apart_from_those_not_done() -> None:
    weight = torch.tensor([1.0])
    plane = Plane(([torch.tensor([1.0])],), ("",))
    surface = empty_surface([grid_axis(-2, 2, 9)], "")
    fill(surface, lambda: weight.log().sum(), [weight], plane)
    assert surface.done.all()
    numpy.testing.assert_array_equal(numpy.isfinite(surface.losses), surface.axes[0] > -1.0)
    with pytest.raises(FloatingPointError, match="at the weights themselves is nan"):
        fill(empty_surface([grid_axis(-2, 2, 9)], ""), lambda: (weight - 2).log().sum(), [weight], plane)


class Team:
    """Three ranks as threads, which meet in every sum."""

    def __init__(self, size: int = 3) -> None:
        self.size = size
        self.meeting = threading.Barrier(size, timeout=20)
        self.values: list[Any] = [None] * size

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.values[rank] = value
        self.meeting.wait()
        found = list(self.values)
        self.meeting.wait()
        return found

    def ranks(self, rank: int) -> Ranks:
        return Ranks(
            rank,
            self.size,
            lambda values: torch.stack(self.exchange(rank, values)).sum(0),
            lambda value: self.exchange(rank, value)[0],
        )

    def run(self, work: Callable[[Ranks], Any]) -> list[Any]:
        with ThreadPoolExecutor(self.size) as pool:
            return [pool.submit(work, self.ranks(rank)) for rank in range(self.size)]


def test_ranks_share_the_points_and_all_know_the_whole() -> None:
    problem = Problem()
    whole = problem.surface(5)
    fill(whole, problem.loss, problem.parameters, problem.plane)

    problems = [Problem() for _ in range(3)]

    def work(ranks: Ranks) -> tuple[Problem, Any]:
        own = problems[ranks.rank]
        surface = own.surface(5)
        fill(surface, own.loss, own.parameters, own.plane, ranks=ranks)
        return own, surface

    results = [future.result() for future in Team().run(work)]
    for _, surface in results:
        numpy.testing.assert_array_equal(surface.losses, whole.losses)
    assert sum(own.calls for own, _ in results) == whole.losses.size
    assert max(own.calls for own, _ in results) <= whole.losses.size // 3 + 8


def test_a_rank_that_fails_ends_all() -> None:
    problems = [Problem() for _ in range(3)]

    def work(ranks: Ranks) -> None:
        own = problems[ranks.rank]

        def failing() -> Tensor:
            if ranks.rank == 1 and own.calls == 2:
                raise ArithmeticError("only here")
            return own.loss()

        fill(own.surface(5), failing, own.parameters, own.plane, ranks=ranks)

    errors = [future.exception() for future in Team().run(work)]
    assert [type(error) for error in errors] == [RuntimeError, ArithmeticError, RuntimeError]
    assert str(errors[0]) == "the loss could not be evaluated on another rank"


def test_files(tmp_path) -> None:
    problem = Problem()
    surface = problem.surface(5)
    path = tmp_path / "folder" / "surface.npz"
    save_surface(surface, path)
    assert not load_surface(path).done.any()
    fill(surface, problem.loss, problem.parameters, problem.plane, save=lambda part: save_surface(part, path))
    loaded = load_surface(path)
    numpy.testing.assert_array_equal(loaded.losses, surface.losses)
    assert loaded.fingerprint == "mark"
    assert loaded.center == surface.center
    with numpy.load(path) as content:
        assert set(content) == {"axis_1", "axis_2", "losses", "done", "fingerprint"}
    for damage in (lambda content: content[:-40], lambda content: b"", lambda content: b"x" * len(content)):
        damaged = tmp_path / "damaged.npz"
        damaged.write_bytes(damage(path.read_bytes()))
        with pytest.raises(ValueError, match=r"damaged\.npz is not a loss landscape or is damaged .*delete it"):
            load_surface(damaged)
    numpy.savez(tmp_path / "damaged.npz", losses=numpy.zeros(3))
    with pytest.raises(ValueError, match="delete it to start anew"):
        load_surface(tmp_path / "damaged.npz")
    with pytest.raises(FileNotFoundError, match="no loss landscape at"):
        load_surface(tmp_path / "nothing.npz")


def test_fingerprints_tell_everything_apart() -> None:
    tensor = torch.arange(6.0)
    parts = [
        [tensor],
        [tensor.reshape(2, 3)],
        [tensor.double()],
        [tensor + 1],
        [tensor, tensor],
        [[tensor]],
        [{"a": tensor}],
        [{"b": tensor}],
        [tensor.numpy()],
        [tensor, "batch"],
        [tensor, "running"],
        [tensor.bool()],
    ]
    assert len({fingerprint(part) for part in parts}) == len(parts)
    assert fingerprint([tensor.reshape(2, 3).T]) == fingerprint([tensor.reshape(2, 3).T.contiguous()])


def test_no_graph_is_built_on_the_way() -> None:
    problem = Problem()
    seen = []

    def loss() -> Tensor:
        seen.append(torch.is_grad_enabled())
        return problem.loss()

    fill(problem.surface(3), loss, problem.parameters, problem.plane)
    assert set(seen) == {False}
