"""Who computes what in a distributed run."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steepest.optim.core.sharing import map_over_ranks, owners, ranks


@pytest.mark.parametrize(
    ("costs", "count", "owner"),
    [
        ([1, 1, 2], 2, [1, 1, 0]),  # in the order given, one rank would have 3 of 4
        ([3, 3, 2, 2, 2], 2, [0, 1, 0, 1, 0]),
        ([5, 5, 5], 1, [0, 0, 0]),
        ([1, 9], 4, [1, 0]),
        ([], 2, []),
    ],
)
def test_the_longest_go_first_to_the_rank_with_the_least(costs, count, owner) -> None:
    assert owners(costs, count) == owner


@given(st.lists(st.floats(0.1, 10.0), max_size=20), st.integers(1, 5))
def test_no_rank_waits_for_another_longer_than_one_task_takes(costs, count) -> None:
    loads = [0.0] * count
    for cost, owner in zip(costs, owners(costs, count), strict=True):
        loads[owner] += cost
    assert max(loads) <= sum(costs) / count + (1 - 1 / count) * max(costs, default=0.0) + 1e-9
    assert sum(loads) == pytest.approx(sum(costs))


def test_one_process_does_all_itself_in_order() -> None:
    assert ranks() == 1
    seen: list[int] = []

    def double(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(len(tensor))
        return 2 * tensor

    found = map_over_ranks(double, [torch.ones(2), torch.ones(3)], [1, 5], torch.float32)
    assert ([each.tolist() for each in found], seen) == ([[2.0, 2.0], [2.0, 2.0, 2.0]], [2, 3])
