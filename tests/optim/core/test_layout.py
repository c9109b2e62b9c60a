"""Where entries lie in memory, and steps of real networks laid out anew."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm import create_model
from torch import Tensor, nn
from torchvision.models import shufflenet_v2_x0_5
from torchvision.models.vision_transformer import VisionTransformer

from steepest.optim import OPTIMIZERS
from steepest.optim.core.composite import Composite
from steepest.optim.core.layout import in_layout_of, is_dense, lay_out_state, shares_entries

AXES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=4)


@given(axes=AXES)
def test_dense_and_shared_by_counting_places(axes: list[tuple[int, int]]) -> None:
    sizes, strides = [size for size, _ in axes], [stride for _, stride in axes]
    tensor = torch.as_strided(torch.arange(200.0), sizes, strides)
    places = tensor.flatten().tolist()
    assert shares_entries(tensor) is (len(set(places)) < len(places))
    assert is_dense(tensor) is (sorted(places) == list(range(len(places))))


def test_sparse_tensors_have_no_layout() -> None:
    assert not is_dense(torch.eye(3).to_sparse())
    assert not shares_entries(torch.eye(3).to_sparse())


@given(order=st.permutations(range(4)), other=st.permutations(range(4)), single=st.integers(0, 3))
def test_copies_are_in_the_layout_of_the_weight(order: list[int], other: list[int], single: int) -> None:
    sizes = [2, 3, 4, 5]
    sizes[single] = 1
    values = torch.randn(sizes)

    def laid_out(axes: list[int]) -> Tensor:
        back = sorted(range(4), key=axes.__getitem__)
        return values.permute(axes).contiguous().permute(back)

    weight, tensor = laid_out(order), laid_out(other).double()
    (found,) = in_layout_of([weight], [tensor])
    assert torch.equal(found, tensor)
    assert found.dtype == torch.float64
    long = [axis for axis in range(4) if sizes[axis] > 1]
    assert [found.stride(axis) for axis in long] == [weight.stride(axis) for axis in long]
    alike = all(tensor.stride(axis) == weight.stride(axis) for axis in long)
    assert (found is tensor) is alike  # nothing is copied without need
    state: dict[str, Any] = {"step": torch.zeros(()), "exp_avg": tensor, "kind": "a"}
    lay_out_state(state, weight)
    assert torch.equal(state["exp_avg"], found)
    assert state["exp_avg"].stride() == found.stride()


def test_a_weight_that_has_got_gaps_is_refused() -> None:
    module = nn.Linear(4, 4)
    optimizer = OPTIMIZERS.create("adamw", module)
    module(torch.ones(1, 4)).sum().backward()
    module.weight.data = torch.zeros(4, 8)[:, :4]
    with pytest.raises(ValueError, match=r"\Aa parameter of shape \(4, 4\) has gaps in memory since .*contiguous\Z"):
        optimizer.step()


@pytest.mark.parametrize("name", ["adamw", "muon", "lion", "reference_adam"])
def test_entries_that_share_memory_are_refused(name: str) -> None:
    module = nn.Linear(4, 4)
    module.weight = nn.Parameter(torch.randn(4, 1).expand(4, 4))
    with pytest.raises(ValueError, match=r"\Aentries of weight share memory, as after expand: .* \.clone\(\)\Z"):
        OPTIMIZERS.create(name, module)


def test_fused_by_demand_is_refused_for_gaps() -> None:
    module = nn.Linear(8, 2)
    module.weight = nn.Parameter(torch.randn(2, 16)[:, ::2])
    with pytest.raises(ValueError, match="gaps in memory"):
        OPTIMIZERS.create("adamw", module, fused=True)
    with pytest.raises(ValueError, match="gaps in memory"):
        Composite([{"params": [module.weight], "algorithm": "adamw", "lr": 0.1, "fused": True}])


NETWORKS = {
    "torchvision's ShuffleNet": lambda: shufflenet_v2_x0_5(num_classes=4),
    "torchvision's ViT": lambda: VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=4),
    "timm's ConvNeXt": lambda: create_model("test_convnext", num_classes=4),
}


def steps(module: nn.Module, optimizer: torch.optim.Optimizer, first: int, count: int) -> None:
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(4, 3, 32, 32, generator=generator, dtype=torch.float64)

        def closure(images: Tensor = images) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(module(images), torch.arange(4))
            loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["momentum", "adamw", "muon_adamw", "sam"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_channels_last_network_takes_up_the_state_of_a_contiguous_one(network: str, name: str) -> None:
    torch.manual_seed(0)
    whole = NETWORKS[network]().double().eval()  # without dropout, and with batch normalization that stays as it is
    first = copy.deepcopy(whole)
    optimizer = OPTIMIZERS.create(name, whole, lr=1e-2)
    steps(whole, optimizer, 0, 4)
    before = OPTIMIZERS.create(name, first, lr=1e-2)
    steps(first, before, 0, 2)
    second = copy.deepcopy(first).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    after = OPTIMIZERS.create(name, second, lr=1e-2)
    after.load_state_dict(before.state_dict())
    steps(second, after, 2, 2)
    assert any(not parameter.is_contiguous() for parameter in second.parameters())
    for own, other in zip(second.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-9)
