"""Muon's work shared by real processes: the same weights and momentum, to the bit, from one, two and three ranks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from steepest.optim.core.composite import Composite
from steepest.optim.core.sharing import map_over_ranks, owners
from steepest.optim.spectral.muon import muon

SHAPES = ((16, 40), (40, 16), (16, 40), (24, 24), (8, 6, 3, 3), (5, 7))


def on_ranks(count: int, folder: Path, work: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
    """Run `work` in as many processes joined by gloo; what each of them returned, by rank."""
    folder.mkdir(parents=True, exist_ok=True)
    multiprocessing.start_processes(_process, (count, folder, work), nprocs=count, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


def _process(rank: int, count: int, folder: Path, work: Callable[[], dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count)
    torch.save(work(), folder / f"{rank}.pt")
    dist.destroy_process_group()


def steps(**options: Any) -> dict[str, Any]:
    """Ten steps along gradients that all ranks know; the weights and the state."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    optimizer = Composite([{"params": weights, "algorithm": "muon", "lr": 0.02, "weight_decay": 0.1, **options}])
    for step in range(10):
        generator = torch.Generator().manual_seed(step)
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
    return {"weights": [weight.detach() for weight in weights], "optimizer": optimizer.state_dict()}


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    for weight, expected in zip(one["weights"], other["weights"], strict=True):
        assert torch.equal(weight, expected)
    for index, state in one["optimizer"]["state"].items():
        expected = other["optimizer"]["state"][index]
        assert state.keys() == expected.keys() == {"momentum_buffer"}
        assert torch.equal(state["momentum_buffer"], expected["momentum_buffer"])


@pytest.mark.ddp
@pytest.mark.parametrize(
    "options",
    [{}, {"method": "exact"}, {"method": "gram", "batch_elements": 2000}, {"share_work": False}],
    ids=["newton_schulz", "exact", "gram in batches", "not shared"],
)
def test_every_number_of_ranks_gives_the_same(tmp_path, options) -> None:
    alone = steps(**options)
    for count in (2, 3):
        for found in on_ranks(count, tmp_path / str(count), lambda: steps(**options)):
            assert_equal(found, alone)


def count_calls() -> dict[str, Any]:
    calls: list[float] = []

    def double(tensor: torch.Tensor) -> torch.Tensor:
        calls.append(tensor.numel())
        return (2 * tensor).bfloat16()

    inputs = [torch.full((size, 3), float(size)) for size in (5, 1, 4, 2, 3, 0)]
    results = map_over_ranks(double, inputs, [tensor.numel() for tensor in inputs], torch.bfloat16)
    right = all(torch.equal(result, (2 * tensor).bfloat16()) for result, tensor in zip(results, inputs, strict=True))
    return {"calls": calls, "right": right}


@pytest.mark.ddp
def test_each_task_is_done_once_and_known_to_all(tmp_path) -> None:
    found = on_ranks(2, tmp_path, count_calls)
    assert all(one["right"] for one in found)
    assert sorted(size for one in found for size in one["calls"]) == [0, 3, 6, 9, 12, 15]
    assert {sum(one["calls"]) for one in found} <= {21, 24}


def train() -> dict[str, Any]:
    """A network under DistributedDataParallel; each rank sees its own data."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    parallel = nn.parallel.DistributedDataParallel(module)
    optimizer = muon(module, lr=0.01)
    generator = torch.Generator().manual_seed(dist.get_rank())
    for _ in range(5):
        optimizer.zero_grad()
        parallel(torch.randn(8, 10, generator=generator)).square().mean().backward()
        optimizer.step()
    return {"weights": list(module.state_dict().values()), "optimizer": optimizer.state_dict()}


@pytest.mark.ddp
def test_under_ddp_the_ranks_stay_equal_and_each_has_the_whole_state(tmp_path) -> None:
    first, second = on_ranks(2, tmp_path, train)
    for one, other in zip(first["weights"], second["weights"], strict=True):
        assert torch.equal(one, other)
    states, others = first["optimizer"]["state"], second["optimizer"]["state"]
    assert len(states) == len(others) == 6
    for index, state in states.items():
        assert all(torch.equal(value, others[index][key]) for key, value in state.items())
        assert any(value.any() for value in state.values())


@given(st.lists(st.floats(0, 1e6), max_size=30), st.integers(1, 8))
def test_no_rank_has_more_than_the_mean_and_one_task_above_another(costs, count) -> None:
    owner = owners(costs, count)
    loads = [sum(cost for cost, of in zip(costs, owner, strict=True) if of == rank) for rank in range(count)]
    assert len(owner) == len(costs)
    assert all(0 <= rank < count for rank in owner)
    # Greedy scheduling, Graham 1969: no load above the mean plus the longest task.
    assert max(loads) <= sum(costs) / count + max(costs, default=0) + 1e-6 * sum(costs)
