import random
from collections import deque

import numpy
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from steepest.diagnostics.common.snapshot import Snapshot, restored


class Holder:
    """Holds state in every way that people hold it."""

    def __init__(self) -> None:
        self.number = 1
        self.values = [1, {"deep": torch.ones(2)}]
        self.queue = deque([1.0], maxlen=3)
        self.names = {"a"}
        self.pair = (torch.zeros(1), [5])
        self.array = numpy.arange(3.0)
        self.generators = [torch.Generator().manual_seed(1), random.Random(1), numpy.random.default_rng(1)]
        self.legacy = numpy.random.RandomState(1)
        self.myself = self


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.holder = Holder()
        self.register_buffer("kept", torch.ones(1))
        self.register_buffer("hidden", torch.ones(1), persistent=False)
        self.data = TensorDataset(torch.zeros(4))


def test_everything_comes_back_in_its_own_object() -> None:
    net = Net()
    holder = net.holder
    objects = (net.layer.weight, holder.values, holder.values[1], holder.pair[0], net.hidden, holder.array)
    draws = [torch.rand(1, generator=torch.Generator().manual_seed(1)).item(), random.Random(1).random()]
    net.layer.weight.grad = torch.full((2, 3), 4.0)
    gradient = net.layer.weight.grad
    snapshot = Snapshot(net)
    for _ in range(2):  # it can be gone back to more than once
        with torch.no_grad():
            for tensor in (*net.parameters(), *net.buffers(), holder.values[1]["deep"], holder.pair[0]):  # type: ignore
                tensor.mul_(-3.0).sub_(1.0)
            gradient.zero_()
        net.layer.weight.grad = None
        net.hidden = torch.full((1,), 9.0)
        net.eval()
        net.extra = 3  # type: ignore[assignment]
        holder.number = 2
        holder.values.append(7)
        holder.values[1]["new"] = 1  # type: ignore[index]
        holder.queue.extend([2.0, 3.0, 4.0])
        holder.names.add("b")
        holder.pair[1].clear()
        holder.array += 1.0
        torch.rand(1, generator=holder.generators[0])  # type: ignore[arg-type]
        holder.generators[1].random()
        holder.generators[2].random()
        holder.legacy.rand()
        snapshot.restore()
        fresh = Holder()
        assert objects[0] is net.layer.weight
        assert objects[1] is holder.values
        assert objects[2] is holder.values[1]
        assert objects[4] is net.hidden
        assert net.hidden.item() == net.kept.item() == 1.0
        assert net.layer.weight.grad is gradient
        assert torch.equal(gradient, torch.full((2, 3), 4.0))
        assert net.training
        assert net.layer.training
        assert not hasattr(net, "extra")
        assert (holder.number, len(holder.values), holder.names) == (1, 2, {"a"})
        assert list(holder.values[1]) == ["deep"]  # type: ignore[call-overload]
        assert torch.equal(holder.values[1]["deep"], torch.ones(2))  # type: ignore[index]
        assert holder.queue == fresh.queue
        assert holder.queue.maxlen == 3
        assert holder.pair[1] == [5]
        assert numpy.array_equal(holder.array, fresh.array)
    assert torch.rand(1, generator=holder.generators[0]).item() == draws[0]  # type: ignore[arg-type]
    assert holder.generators[1].random() == draws[1]
    assert holder.generators[2].random() == numpy.random.default_rng(1).random()
    assert holder.legacy.rand() == numpy.random.RandomState(1).rand()


def test_data_sets_are_left_alone_and_tensors_on_request() -> None:
    net = Net()
    inner = net.data.tensors[0]
    snapshot = Snapshot(net, tensors=False)
    with torch.no_grad():
        net.layer.weight.zero_()
    inner.add_(1.0)
    net.holder.number = 5
    snapshot.restore()
    assert net.layer.weight.abs().sum() == 0.0
    assert inner.sum() == 4.0
    assert net.holder.number == 1


def test_types_to_leave_are_not_looked_into() -> None:
    holder = Holder()
    snapshot = Snapshot([holder], leave=(Holder,))
    holder.number = 2
    snapshot.restore()
    assert holder.number == 2


@pytest.mark.parametrize("algorithm", [torch.optim.AdamW, torch.optim.LBFGS, torch.optim.Adadelta])
def test_optimizers_come_back_with_shared_groups(algorithm) -> None:
    net = nn.Linear(3, 2)
    optimizer = algorithm(net.parameters())

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = net(torch.ones(1, 3)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    group, state = optimizer.param_groups[0], optimizer.state
    with restored(net, optimizer):
        first = [optimizer.step(closure).item() for _ in range(4)]
        optimizer.param_groups[0]["lr"] = 7.0
    assert optimizer.param_groups[0] is group
    assert optimizer.state is state
    assert [optimizer.step(closure).item() for _ in range(4)] == first


def test_tensors_of_inference_mode_do_no_harm() -> None:
    with torch.inference_mode():
        holder = Holder()
    Snapshot([holder]).restore()
