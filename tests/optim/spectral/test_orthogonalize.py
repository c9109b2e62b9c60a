"""Orthogonalization against the singular value decomposition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steepest.optim.spectral.matrices import BLOCK_ROWS, gram
from steepest.optim.spectral.orthogonalize import COEFFICIENTS, orthogonalize

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))


def matrix(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def polar(x: Tensor) -> Tensor:
    """By SVD, over the singular values that are not 0."""
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    return (u * (s > 1e-7 * s.amax(-1, keepdim=True)).to(x.dtype).unsqueeze(-2)) @ v


def with_singular_values(shape: tuple[int, int], values: Tensor, seed: int = 0) -> Tensor:
    u, _, v = torch.linalg.svd(matrix(shape, seed), full_matrices=False)
    return (u * values) @ v


@pytest.mark.parametrize("coefficients", COEFFICIENTS)
@pytest.mark.parametrize("method", ["newton_schulz", "gram"])
@pytest.mark.parametrize("shape", [(7, 30), (30, 7), (9, 9)])
def test_each_singular_value_is_mapped_by_the_polynomials(coefficients, method, shape) -> None:
    x = matrix(shape)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    s = s / s.square().sum().sqrt()
    for a, b, c in COEFFICIENTS[coefficients].schedule(None):
        s = a * s + b * s**3 + c * s**5
    found = orthogonalize(x, method, coefficients, dtype=torch.float64)
    torch.testing.assert_close(found, (u * s) @ v, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("coefficients", "steps", "smallest", "low", "high"),
    [
        ("original", 5, 1e-2, 0.68, 1.14),
        ("quintic", 5, 1e-2, 0.97, 1.04),
        ("polar_express", 5, 1e-3, 0.84, 1.13),
        ("polar_express", 8, 1e-3, 0.999, 1.001),
        ("deepseek", 10, 1e-3, 0.998, 1.002),
        ("cubic", 5, 1e-2, 0.77, 1.31),
    ],
)
def test_the_published_quality_of_each_table(coefficients, steps, smallest, low, high) -> None:
    values = torch.linspace(smallest, 1, 20_000, dtype=torch.float64)
    for a, b, c in COEFFICIENTS[coefficients].schedule(steps):
        values = a * values + b * values**3 + c * values**5
    assert low < values.min()
    assert values.max() < high


@settings(deadline=None, max_examples=60)
@given(shapes, st.sampled_from([1e-20, 1e-3, 1.0, 1e20]), st.integers(0, 100))
def test_exact_is_the_polar_factor_at_every_scale(shape, scale, seed) -> None:
    x = with_singular_values(shape, torch.logspace(0, -3, min(shape), dtype=torch.float64), seed)
    torch.testing.assert_close(orthogonalize(x * scale, "exact"), polar(x), rtol=1e-7, atol=1e-7)


@settings(deadline=None, max_examples=30)
@given(shapes, st.sampled_from(["newton_schulz", "gram", "exact"]), st.integers(0, 100))
def test_transposed_and_batched_inputs_give_the_same(shape, method, seed) -> None:
    x = torch.stack([matrix(shape, seed), 1e3 * matrix(shape, seed + 1), torch.zeros(shape, dtype=torch.float64)])
    kept = x.clone()
    batched = orthogonalize(x, method)
    for one, expected in zip(x, batched, strict=True):
        torch.testing.assert_close(orthogonalize(one, method), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(orthogonalize(one.mT, method), expected.mT, rtol=1e-9, atol=1e-9)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    "shape", [(2 * BLOCK_ROWS, 40), (3 * BLOCK_ROWS + 77, 500), (2, 2 * BLOCK_ROWS + 1, 30), (5, 7)]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_gram_matrix_in_blocks_is_the_whole_one(shape, dtype, transposed) -> None:
    x = matrix(shape).to(dtype)
    x = x.mT.contiguous().mT if transposed else x
    product = gram(x)
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 5e-3}[dtype]
    expected = x.double() @ x.double().mT
    assert (product.double() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("method", ["newton_schulz", "gram", "exact"])
def test_rotations_go_through(method) -> None:
    x, left, right = matrix((8, 20)), torch.linalg.qr(matrix((8, 8), 1))[0], torch.linalg.qr(matrix((20, 20), 2))[0]
    turned = orthogonalize(left @ x @ right, method)
    torch.testing.assert_close(turned, left @ orthogonalize(x, method) @ right, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", ["newton_schulz", "gram", "exact"])
def test_the_null_space_stays_null(method) -> None:
    x = matrix((12, 3)) @ matrix((3, 20), 1)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    found = orthogonalize(x, method, "polar_express", steps=12)
    torch.testing.assert_close(found, u[:, :3] @ v[:3], rtol=1e-6, atol=1e-6)
    assert not orthogonalize(torch.zeros(4, 6), method).any()


def test_exact_keeps_float32_and_the_type_asked_for() -> None:
    x = matrix((6, 9)).float()
    assert orthogonalize(x, "exact").dtype == torch.float32
    assert orthogonalize(x, dtype=torch.bfloat16).dtype == torch.bfloat16
    torch.testing.assert_close(orthogonalize(x, "exact"), polar(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("coefficients", ["polar_express", "deepseek"])
def test_the_gram_form_survives_16_bits_on_an_ill_conditioned_matrix(coefficients) -> None:
    x = with_singular_values((64, 256), torch.logspace(0, -4, 64, dtype=torch.float64)).float()
    steps = 8 if coefficients == "polar_express" else None
    found = orthogonalize(x, "gram", coefficients, steps, dtype=torch.float16).double()
    expected = orthogonalize(x.double(), "newton_schulz", coefficients, steps)
    assert torch.linalg.matrix_norm(found, 2) < 1.02
    # What is near 0 beside float16's own spacing cannot agree; the upper half must.
    u, _, v = torch.linalg.svd(x.double(), full_matrices=False)
    difference = (u[:, :32].mT @ (found - expected) @ v[:32].mT).abs().max()
    assert difference < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "newton"}, "unknown method of orthogonalization 'newton'. Did you mean 'newton_schulz'"),
        ({"coefficients": "polar"}, "unknown table of coefficients 'polar'"),
        ({"steps": 0}, "steps must be a whole number from 1 to 99"),
        ({"coefficients": "quintic", "steps": 4}, "steps must be 5 with coefficients 'quintic'"),
        ({"eps": 0.0}, "eps must be a finite number above 0"),
        ({"method": "gram", "dtype": torch.bfloat16}, "can overflow in bfloat16"),
    ],
)
def test_bad_options_are_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        orthogonalize(matrix((3, 4)), **arguments)


def test_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(m, n\) or \(k, m, n\), not \(5,\)"):
        orthogonalize(torch.ones(5))


@pytest.mark.parametrize("coefficients", COEFFICIENTS)
def test_which_tables_make_sense_with_another_number_of_steps(coefficients) -> None:
    own = {"deepseek": 10}.get(coefficients, 5)
    assert COEFFICIENTS[coefficients].steps == own
    if coefficients in ("original", "polar_express"):
        values = torch.linalg.svdvals(orthogonalize(matrix((8, 20)), "newton_schulz", coefficients, own + 1))
        assert 0.6 < values.min() < values.max() < 1.25
    else:
        with pytest.raises(ValueError, match=f"steps must be {own} with coefficients '{coefficients}'"):
            orthogonalize(matrix((8, 20)), "newton_schulz", coefficients, own + 1)
