from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from steepest.diagnostics.spectral.singular_values import (
    golub_kahan,
    matrix_norms,
    matrix_operator,
    random_start,
    singular_values,
    spectral_norm,
)

seeds = st.integers(0, 2**31)
sides = st.integers(1, 12)


def matrix(seed: int, rows: int, columns: int, rank: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    full = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    if rank is None:
        return full
    return full[:, :rank] @ torch.randn(min(rank, columns), columns, generator=generator, dtype=torch.float64)


def spiked(rows: int, columns: int, *spikes: float) -> Tensor:
    """A random bulk with a few outliers, as trained weights look."""
    weight = torch.randn(rows, columns) / columns**0.5
    for spike in spikes:
        left, right = (torch.nn.functional.normalize(torch.randn(size), dim=0) for size in (rows, columns))
        weight += spike * torch.outer(left, right)
    return weight


@given(seeds, sides, sides, st.floats(1e-15, 1e15))
def test_singular_values_equal_those_of_the_decomposition(seed, rows, columns, scale) -> None:
    weights = scale * torch.stack([matrix(seed, rows, columns), matrix(seed + 1, rows, columns)])
    expected = torch.linalg.svdvals(weights)
    found = singular_values(weights)
    assert found.shape == expected.shape
    assert float(((found - expected).abs() / expected[:, :1]).max()) < 1e-7


def test_small_singular_values_down_to_a_condition_of_a_million() -> None:
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64))[0] for _ in range(2))
    expected = torch.logspace(0, -6, 20, dtype=torch.float64)
    found = singular_values(left @ torch.diag(expected) @ right)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0.0)
    # Below what squares can tell, zero is returned instead of noise.
    assert singular_values(matrix(0, 8, 8, rank=5))[5:].tolist() == [0.0, 0.0, 0.0]


def test_single_precision_is_enough_for_the_largest() -> None:
    torch.manual_seed(0)
    weight = torch.randn(96, 200)
    expected = torch.linalg.matrix_norm(weight.double(), ord=2)
    assert singular_values(weight, torch.float32)[0].item() == pytest.approx(expected.item(), rel=2e-6)


@given(seeds, sides, sides)
def test_all_golub_kahan_steps_are_exact(seed, rows, columns) -> None:
    weight = matrix(seed, rows, columns)
    found = golub_kahan(matrix_operator(weight[None]), matrix(seed + 1, 1, columns), min(rows, columns))
    _, values, right = torch.linalg.svd(weight)
    assert found.norms.item() == pytest.approx(values[0].item(), rel=1e-9)
    if min(rows, columns) == 1 or values[0] - values[1] > 1e-3 * values[0]:
        assert abs(float(found.vectors[0] @ right[0])) == pytest.approx(1.0, abs=1e-6)


@given(seeds, sides, sides, st.integers(0, 3), st.integers(1, 20), st.floats(1e-12, 1e12))
def test_any_number_of_steps_stays_below_the_norm_and_survives_low_rank(
    seed, rows, columns, rank, steps, scale
) -> None:
    weight = scale * matrix(seed, rows, columns, rank=rank)
    found = golub_kahan(matrix_operator(weight[None]), matrix(seed + 1, 1, columns), steps)
    largest = float(torch.linalg.matrix_norm(weight, ord=2))
    assert found.norms.item() <= largest * (1 + 1e-12)
    assert torch.isfinite(found.vectors).all()
    if steps >= rank:
        assert found.norms.item() == pytest.approx(largest, rel=1e-7)


@given(seeds, st.integers(2, 12), st.integers(2, 12), st.integers(1, 6))
def test_it_is_never_worse_than_power_iteration(seed, rows, columns, steps) -> None:
    weight, vector = matrix(seed, rows, columns), matrix(seed + 1, 1, columns)[0]
    found = golub_kahan(matrix_operator(weight[None]), vector[None], steps).norms.item()
    for _ in range(steps):
        image = weight @ (vector / vector.norm())
        vector = weight.mT @ (image / image.norm())
    assert found >= float(vector.norm()) * (1 - 1e-12)


def test_a_batch_is_the_same_as_one_by_one() -> None:
    weights, starts = torch.randn(3, 9, 7, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    together = golub_kahan(matrix_operator(weights), starts, 3)
    for index in range(3):
        alone = golub_kahan(matrix_operator(weights[index, None]), starts[index, None], 3)
        torch.testing.assert_close(together.norms[index], alone.norms[0])
        torch.testing.assert_close(together.vectors[index], alone.vectors[0])


def test_warm_starts_follow_moving_weights() -> None:
    """Ten random steps of relative size 1e-3 between measurements: two products are right within 1e-2, usually 1e-3."""
    torch.manual_seed(0)
    shapes = [(96, 96), (80, 720), (200, 150), (128, 384)]
    weights = [torch.randn(shape) / shape[1] ** 0.5 for shape in shapes] + [spiked(*s, 4.0, 3.0, 2.0) for s in shapes]
    named = {str(index): weight for index, weight in enumerate(weights)}
    vectors: dict[str, Tensor] = {}
    errors = []
    for measurement in range(8):
        for weight in weights:
            step = torch.randn_like(weight)
            weight += 1e-3 * 10**0.5 * weight.norm() / step.norm() * step
        found = matrix_norms(named, vectors, exact=measurement == 0, warm_steps=2)
        vectors = found.vectors
        exact = torch.stack([torch.linalg.matrix_norm(weight.double(), ord=2) for weight in weights])
        if measurement > 0:
            errors += (found.values[1] / exact - 1.0).abs().tolist()
    assert max(errors) < 1e-2
    assert sorted(errors)[len(errors) // 2] < 1e-3


def test_spectral_norm_takes_kernels_and_goes_on_from_its_vector() -> None:
    torch.manual_seed(0)
    kernel = torch.randn(40, 6, 3, 3)
    exact = float(torch.linalg.matrix_norm(kernel.flatten(1), ord=2))
    found, errors = None, []
    for _ in range(12):
        found = spectral_norm(kernel, None if found is None else found.vectors[0])
        errors.append(1.0 - found.norms.item() / exact)
    assert errors[0] < 0.05
    assert all(after <= before + 1e-6 for before, after in pairwise(errors))
    assert errors[-1] < 1e-3
    assert spectral_norm(kernel, steps=40).norms.item() == pytest.approx(exact, rel=1e-5)


def test_starts_depend_on_the_name_and_leave_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (random_start(name, 50, torch.empty(0)) for name in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_step_is_an_error() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        golub_kahan(matrix_operator(torch.eye(2)[None]), torch.ones(1, 2), 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_norms_of_many_matrices(dtype) -> None:
    torch.manual_seed(0)
    named = {
        "small": torch.randn(5, 3),
        "kernel": torch.randn(70, 4, 5, 5),
        "large": spiked(90, 80, 6.0),
        "zero": torch.zeros(80, 90),
        "nan": torch.full((3, 3), torch.nan),
    }
    named = {name: tensor.to(dtype) for name, tensor in named.items()}
    exact = matrix_norms(named, {}, exact=True, warm_steps=2)
    fast = matrix_norms(named, {}, exact=False, warm_steps=2)
    for column, (name, tensor) in enumerate(named.items()):
        flat = tensor.double().flatten(1)
        if name == "nan":
            assert torch.isnan(exact.values[:, column]).all()
            continue
        values = torch.linalg.svdvals(flat)
        expected = [flat.norm().item(), values[0].item(), values[-1].item()]
        assert exact.values[:3, column].tolist() == pytest.approx(expected, rel=1e-6)
        torch.testing.assert_close(exact.spectra[name], values, rtol=1e-6, atol=1e-7)
        assert fast.values[1, column].item() == pytest.approx(expected[1], rel=2e-2)
        assert torch.isnan(fast.values[3, column])
    assert exact.vectors.keys() == {"kernel", "large", "zero"}
    assert fast.spectra.keys() == {"small"}
    drift = exact.values[3] / exact.values[1] - 1.0
    assert torch.isnan(drift[[0, 4]]).all()
    assert abs(float(drift[2])) < 1e-4


def test_vectors_found_before_do_not_come_back() -> None:
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(60, 60))[0] for _ in range(2))
    values = torch.cat([torch.tensor([1.0, 1e-5]), torch.full((58,), 1e-9)])
    weight = left @ torch.diag(values) @ right
    products: list[Tensor] = []

    def operator(vectors: Tensor):
        products.append(vectors)
        return matrix_operator(weight[None])(vectors)

    start = right[:1] + 1e-6 * torch.randn(1, 60)
    found = golub_kahan(operator, start, 4)
    basis = torch.cat([vector for vector in products if float(vector.norm()) > 0])
    overlap = (basis @ basis.T - torch.eye(len(basis))).abs().max()
    assert float(overlap) < 1e-5
    assert float(found.norms) == pytest.approx(1.0, rel=1e-5)
