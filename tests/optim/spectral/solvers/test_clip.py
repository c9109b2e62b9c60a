import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.optim.spectral.solvers.clip import (
    clip_gram,
    clip_sign,
    clip_svd,
    decomposed,
    polar_factor,
    singular_values,
    spectral_norm,
)
from tests.optim.spectral.solvers.cases import KINDS, SCALES, SEEDS, SHAPES, gradients


@settings(max_examples=60, deadline=None)
@given(KINDS, SHAPES, SEEDS, SCALES, st.floats(1e-3, 2.0))
def test_three_forms_of_clipping_agree(kind, shape, seed, scale, ratio):
    matrices = gradients(kind, shape, seed) * scale
    bound = max(ratio * float(torch.linalg.matrix_norm(matrices, 2).max()), 1e-30)
    expected = clip_svd(matrices, bound)
    torch.testing.assert_close(clip_gram(matrices, bound) / bound, expected / bound, atol=1e-8, rtol=0)
    torch.testing.assert_close(clip_sign(matrices, bound) / bound, expected / bound, atol=1e-8, rtol=0)


@pytest.mark.parametrize("shape", [(96, 24), (24, 96), (40, 40)])
@pytest.mark.parametrize("ratio", [0.5, 0.05, 1e-3, 1e-6])
@pytest.mark.parametrize("kind", ["gaussian", "ill", "deficient"])
def test_float32_clip_through_the_gram_matrix_keeps_the_budget(shape, ratio, kind):
    matrices = gradients(kind, shape, 0).float()
    bound = ratio * float(torch.linalg.matrix_norm(matrices, 2).max())
    clipped = clip_gram(matrices, bound).double()
    assert torch.linalg.matrix_norm(clipped, 2).max() <= bound * (1 + 1e-5)
    # Singular values that are rounding errors of a zero have no direction to agree on.
    if kind != "deficient" or ratio > 1e-4:
        torch.testing.assert_close(clipped / bound, clip_svd(matrices.double(), bound) / bound, atol=2e-4, rtol=0)


@settings(max_examples=40, deadline=None)
@given(KINDS, SHAPES, SEEDS, SCALES)
def test_norms_and_singular_values_at_every_scale(kind, shape, seed, scale):
    matrices = gradients(kind, shape, seed) * scale
    values = torch.linalg.svdvals(matrices / scale) * scale
    torch.testing.assert_close(spectral_norm(matrices) / scale, values[:, 0] / scale, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(singular_values(matrices) / scale, values / scale, atol=1e-12, rtol=1e-9)
    single = singular_values((matrices / scale).float())
    torch.testing.assert_close(single.double(), values / scale, atol=1e-6, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["gaussian", "ill", "deficient"]), SHAPES, SEEDS, SCALES)
def test_polar_factor_spans_the_singular_values_that_are_not_zero(kind, shape, seed, scale):
    matrices = gradients(kind, shape, seed)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    kept = (values > 1e-12 * values[:, :1]).double()
    torch.testing.assert_close(polar_factor(matrices * scale), (left * kept[:, None, :]) @ right, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["gaussian", "ill", "deficient", "zero"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decomposition_gives_back_the_matrix_with_orthonormal_factors(kind, dtype):
    matrices = gradients(kind, (30, 12), 3).to(dtype)
    left, values, right = decomposed(matrices)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close((left * values[:, None, :]) @ right.mT, matrices, atol=tolerance, rtol=0)
    identity = torch.eye(12, dtype=dtype).expand(2, 12, 12)
    for factor in (left, right):
        torch.testing.assert_close(factor.mT @ factor, identity, atol=tolerance, rtol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_so_without_stopping_the_others(bad):
    matrices = gradients("gaussian", (6, 4), 0)
    spoiled = matrices.clone()
    spoiled[1, 2, 3] = bad
    for function in (spectral_norm, singular_values, polar_factor, lambda x: clip_gram(x, 0.5)):
        result = function(spoiled)
        assert result[1].isnan().all()
        torch.testing.assert_close(result[0], function(matrices)[0])
