import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from steepest.diagnostics.gradient_flow.flow import GradientFlow, first_nonfinite_layer, gradient_flow, merge, norms


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).to(dtype)


def differentiated(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    module = network(dtype)
    module(torch.randn(7, 3, 8, 8, dtype=dtype)).square().sum().backward()
    return module


def flow_of(norms_by_name: dict[str, float]) -> GradientFlow:
    parameters = []
    for name, norm in norms_by_name.items():
        parameter = nn.Parameter(torch.ones(2, 2))
        parameter.grad = torch.zeros(2, 2)
        parameter.grad[0, 0] = norm
        parameters.append((name, parameter))
    return gradient_flow(parameters)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_norms_and_shares_equal_brute_force(dtype, tolerance) -> None:
    module = differentiated(dtype)
    module[4].weight.grad[:, :36] = 0.0
    updates = [torch.randn_like(parameter) for parameter in module.parameters()]
    flow = gradient_flow(module.named_parameters(), updates=updates)
    assert flow.names == tuple(name for name, _ in module.named_parameters())
    assert flow.layers == ("0", "0", "1", "1", "4", "4")
    assert flow.roles == ("weight", "bias", "scale", "bias", "weight", "bias")
    squares = []
    for index, parameter in enumerate(module.parameters()):
        gradient, weight = parameter.grad.double().flatten().tolist(), parameter.detach().double().flatten().tolist()
        assert flow.gradient_norms[index] == pytest.approx(math.sqrt(sum(x * x for x in gradient)), rel=tolerance)
        assert flow.weight_norms[index] == pytest.approx(math.sqrt(sum(x * x for x in weight)), rel=tolerance)
        assert flow.zero_fractions[index] == pytest.approx(sum(x == 0 for x in gradient) / len(gradient), abs=1e-12)
        change = math.sqrt(sum(x * x for x in updates[index].double().flatten().tolist()))
        assert flow.update_norms is not None
        assert flow.update_norms[index] == pytest.approx(change, rel=tolerance)
        squares += [x * x for x in gradient]
    assert flow.total_gradient_norm == pytest.approx(math.sqrt(sum(squares)), rel=tolerance)
    assert flow.zero_fraction == pytest.approx(sum(x == 0 for x in squares) / len(squares), abs=1e-9)
    assert flow.max_min_ratio == pytest.approx(
        max(flow.gradient_norms[0], flow.gradient_norms[4]) / min(flow.gradient_norms[0], flow.gradient_norms[4])
    )
    assert flow.relative_update == pytest.approx(
        math.hypot(*flow.update_norms) / math.hypot(*flow.weight_norms), rel=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_norms_do_not_overflow(dtype) -> None:
    values = [torch.full((400, 400), 250.0, dtype=dtype), torch.full((3,), 2.0, dtype=torch.float64)]
    measured = norms(values).tolist()
    assert measured == pytest.approx([250.0 * 400, math.sqrt(12.0)], rel=1e-3)


@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_norms_beyond_the_range_of_squares(size) -> None:
    parameter = nn.Parameter(torch.ones(3, 4))
    parameter.grad = torch.full((3, 4), size)
    flow = gradient_flow([("layer.weight", parameter)])
    assert flow.nonfinite == 0
    assert flow.gradient_norms[0] == pytest.approx(size * math.sqrt(12.0), rel=1e-5)
    assert first_nonfinite_layer([("layer.weight", parameter)]) is None


@given(scale=st.floats(1e-3, 1e5))
def test_a_loss_scale_is_divided_out(scale) -> None:
    module = nn.Linear(3, 2)
    module(torch.ones(4, 3)).sum().backward()
    plain = gradient_flow(module.named_parameters())
    for parameter in module.parameters():
        parameter.grad = parameter.grad * scale
    scaled = gradient_flow(module.named_parameters(), gradient_scale=scale)
    assert scaled.gradient_norms == pytest.approx(plain.gradient_norms, rel=1e-5)
    assert scaled.max_min_ratio == pytest.approx(plain.max_min_ratio, rel=1e-5)


def test_nonfinite_entries_are_counted_and_located() -> None:
    module = differentiated()
    module[1].weight.grad[1] = math.nan
    module[4].weight.grad[0, :3] = math.inf
    flow = gradient_flow(module.named_parameters())
    assert flow.nonfinite_counts == (0, 0, 1, 0, 3, 0)
    assert flow.first_nonfinite_layer == "1"
    assert flow.verdict() == "non-finite gradients, first in layer '1' (2 of 6 parameter tensors)"
    assert math.isnan(flow.total_gradient_norm)
    assert first_nonfinite_layer(module.named_parameters()) == "1"


def test_frozen_parameters_are_left_out_and_missing_gradients_are_zero() -> None:
    module = differentiated()
    module[0].weight.requires_grad = False
    module[4].weight.grad = None
    flow = gradient_flow(module.named_parameters())
    assert "0.weight" not in flow.names
    assert flow.gradient_norms[flow.names.index("4.weight")] == 0.0
    assert flow.zero_fractions[flow.names.index("4.weight")] == 1.0
    assert flow.verdict() == "no gradient reaches layer '4'"


def test_sparse_gradients_equal_dense_ones() -> None:
    flows = []
    for sparse in (True, False):
        torch.manual_seed(0)
        embedding = nn.Embedding(10, 3, sparse=sparse)
        embedding(torch.tensor([1, 1, 4])).square().sum().backward()
        flows.append(gradient_flow(embedding.named_parameters()))
    assert flows[0].gradient_norms == pytest.approx(flows[1].gradient_norms, rel=1e-6)
    assert flows[0].zero_fractions == flows[1].zero_fractions == pytest.approx((0.8,))


def test_modules_without_parameters_and_missing_updates_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one parameter"):
        gradient_flow(nn.ReLU().named_parameters())
    with pytest.raises(ValueError, match="expected 1 updates"):
        gradient_flow([("w", nn.Parameter(torch.ones(2)))], updates=[])


@pytest.mark.parametrize(
    ("measured", "ratio", "verdict"),
    [
        ({"a.weight": 1.0, "b.weight": 2.0}, 2.0, "healthy"),
        ({"a.weight": 1.0, "b.weight": 100.0}, 100.0, "healthy"),
        (
            {"a.weight": 1e-3, "b.weight": 1.0},
            1000.0,
            "vanishing towards the input: the gradient of 'b' is 1e+03 times that of 'a'",
        ),
        (
            {"a.weight": 1e4, "b.weight": 1.0},
            1e4,
            "exploding towards the input: the gradient of 'a' is 1e+04 times that of 'b'",
        ),
        ({"a.weight": 0.0, "b.weight": 1.0}, math.inf, "no gradient reaches layer 'a'"),
        ({"a.weight": 0.0, "b.weight": 0.0}, math.inf, "no gradient reaches layer 'a' and 1 more"),
        ({"a.weight": 1.0, "b.weight": 1.0, "b.bias": 1e-9}, 1.0, "healthy"),
    ],
)
def test_verdicts(measured, ratio, verdict) -> None:
    flow = flow_of(measured)
    assert flow.max_min_ratio == pytest.approx(ratio, rel=1e-5)
    assert flow.verdict(ratio_warning=100.001) == verdict


def test_a_deep_sigmoid_network_vanishes_and_a_wide_linear_one_explodes() -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(16, 16), nn.Sigmoid())])
    deep(torch.randn(32, 16)).square().sum().backward()
    assert gradient_flow(deep.named_parameters()).verdict().startswith("vanishing towards the input")
    steep = nn.Sequential(*[nn.Linear(32, 32, bias=False) for _ in range(6)])
    for index, layer in enumerate(steep):
        # Forward signals shrink and gradients grow on their way back.
        nn.init.orthogonal_(layer.weight, gain=0.05 if index == 0 else 4.0)  # type: ignore[arg-type]
    steep(torch.randn(32, 32)).sum().backward()
    assert gradient_flow(steep.named_parameters()).verdict(10.0).startswith("exploding towards the input")


def test_samples_of_several_optimizers_become_one() -> None:
    module = differentiated()
    whole = gradient_flow(module.named_parameters())
    named = list(module.named_parameters())
    parts = [gradient_flow(named[3:]), gradient_flow(named[:3])]
    assert merge(parts, whole.names) == whole
