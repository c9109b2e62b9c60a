"""Every registered optimizer on two ranks: other data on each, the same weights to the bit."""

import pytest
import torch
from torch import Tensor, distributed, multiprocessing
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from steepest.optim.contract.models import data, network, weights
from tests.optim.contract.cases import ENTRIES, Entry

RANKS = 2


def train(entry: Entry, rank: int) -> Tensor:
    """Weights after three steps; as in the Trainer, the optimizer is made for the bare model and stepped by closure."""
    module = network()
    parallel = DistributedDataParallel(module)
    optimizer = entry.make(module)
    for step in range(3):
        inputs, labels = data(RANKS * step + rank)

        def closure(inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
            optimizer.zero_grad()
            loss = functional.cross_entropy(parallel(inputs), labels)
            loss.backward()
            return loss

        optimizer.step(closure)  # pyright: ignore
    return weights(module)


def run(rank: int, store: str, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    torch.save({entry.name: train(entry, rank) for entry in ENTRIES}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.start_processes(run, (str(folder / "store"), str(folder)), nprocs=RANKS, start_method="fork")
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.ddp
@pytest.mark.parametrize("name", [entry.name for entry in ENTRIES])
def test_two_ranks_hold_the_same_weights(trained: list[dict[str, Tensor]], name: str) -> None:
    first, second = (weights_of[name] for weights_of in trained)
    assert torch.equal(first, second)
    assert not torch.equal(first, weights(network()))
