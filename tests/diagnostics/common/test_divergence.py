import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steepest.diagnostics.common.batches import first_divergence

LOSSES = st.lists(st.floats(width=32), max_size=8)


@given(losses=LOSSES, bound=st.none() | st.floats(-10, 10))
def test_it_is_the_first_that_is_not_good(losses, bound) -> None:
    found = first_divergence(range(3, 3 + len(losses)), [torch.tensor([loss]) for loss in losses], bound)
    limit = math.inf if bound is None else bound
    good = [math.isfinite(loss) and loss <= limit for loss in losses]
    if found is None:
        assert all(good)
    else:
        step, loss = found
        assert step - 3 == good.index(False)
        assert loss == losses[step - 3] or math.isnan(loss)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_precision_is_read(dtype) -> None:
    losses = [torch.tensor(value, dtype=dtype) for value in (1.0, 3.0, math.nan)]
    assert first_divergence([1, 2, 3], losses, 2.0) == (2, 3.0)
