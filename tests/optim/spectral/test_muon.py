"""Muon against torch.optim.Muon, its routing, and what it measures."""

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steepest.optim import OPTIMIZERS
from steepest.optim.core.composite import Composite
from steepest.optim.core.grouping import explain
from steepest.optim.core.roles import ParameterRule
from steepest.optim.spectral.matrices import BLOCK_ROWS
from steepest.optim.spectral.muon import muon, scale_factor
from steepest.optim.spectral.orthogonalize import orthogonalize
from tests.optim.spectral.matrices import muon_and_adamw

SHAPES = ((8, 6), (6, 8), (9, 9), (40, 7), (12, 60))
TORCH_SCALE = {"original": "original", "match_rms_adamw": "match_rms_adamw", "spectral": "spectral_unclamped"}


def weights(shapes: Any = SHAPES, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]


def follow(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: int = 20, first: int = 0) -> None:
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        optimizer.step()


def composite(parameters: list[nn.Parameter], **options: Any) -> Composite:
    return Composite([{"params": parameters, "algorithm": "muon", "lr": 0.02, **options}])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", TORCH_SCALE)
@pytest.mark.parametrize("nesterov", [True, False])
def test_equal_to_torch_to_the_bit(scale, nesterov, dtype) -> None:
    ours, theirs = weights(dtype=dtype), weights(dtype=dtype)
    options: dict[str, Any] = {"weight_decay": 0.1, "momentum": 0.9, "nesterov": nesterov}
    follow(ours, composite(ours, scale=scale, **options))
    follow(theirs, torch.optim.Muon(theirs, lr=0.02, adjust_lr_fn=TORCH_SCALE[scale], **options))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


def test_large_matrices_whose_gram_matrix_is_made_of_blocks_are_equal_to_torch() -> None:
    shapes = [(2 * BLOCK_ROWS, 300), (300, 2 * BLOCK_ROWS + 20)]
    ours, theirs = weights(shapes), weights(shapes)
    follow(ours, composite(ours), 3)
    follow(theirs, torch.optim.Muon(theirs, lr=0.02, weight_decay=0.0), 3)
    for one, other in zip(ours, theirs, strict=True):
        # To the bit wherever the product of blocks is computed like that of the whole; in bfloat16 it need not be.
        torch.testing.assert_close(one, other, rtol=0, atol=0.02 * 0.02)


def test_a_network_takes_the_steps_of_torchs_muon_and_adamw() -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    ours, theirs = ours.double(), copy.deepcopy(ours.double())
    follow(list(ours.parameters()), muon(ours, lr=0.05), 50)
    follow(list(theirs.parameters()), muon_and_adamw(theirs, 0.05), 50)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_a_kernel_is_the_matrix_of_its_rows() -> None:
    ours, theirs = weights([(6, 4, 3, 3), (5, 7, 3)]), weights([(6, 36), (5, 21)])
    follow(ours, composite(ours))
    optimizer = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.0)
    for step in range(20):
        generator = torch.Generator().manual_seed(step)
        for kernel, parameter in zip(ours, theirs, strict=True):
            parameter.grad = torch.randn(kernel.shape, generator=generator).flatten(1)
        optimizer.step()
    assert all(torch.equal(one.flatten(1), other) for one, other in zip(ours, theirs, strict=True))


def test_split_rows_are_matrices_of_their_own() -> None:
    fused, parts = weights([(12, 5)]), weights([(12, 5)])[0].detach().chunk(3)
    parts = [nn.Parameter(part.clone()) for part in parts]
    optimizers = composite(fused, split=3), composite(parts)
    for step in range(5):
        fused[0].grad = torch.randn((12, 5), generator=torch.Generator().manual_seed(step))
        for part, gradient in zip(parts, fused[0].grad.chunk(3), strict=True):
            part.grad = gradient
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(fused[0], torch.cat(parts))


def test_channels_last_kernels_take_the_same_step() -> None:
    plain, last = weights([(6, 4, 3, 3)]), weights([(6, 4, 3, 3)])
    last[0].data = last[0].data.contiguous(memory_format=torch.channels_last)
    follow(plain, composite(plain))
    follow(last, composite(last))
    assert torch.equal(plain[0], last[0])


@pytest.mark.parametrize("options", [{"method": "gram"}, {"method": "exact"}, {"precision": "float32"}])
def test_handling_equal_matrices_together_changes_rounding_only(options) -> None:
    shapes = [(6, 8), (8, 6), (6, 8), (6, 8), (3, 2, 2, 2)]
    single, together = weights(shapes), weights(shapes)
    follow(single, composite(single, batch_elements=0, **options))
    follow(together, composite(together, batch_elements=96, **options))
    for one, other in zip(single, together, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_exact_method_moves_along_the_polar_factor() -> None:
    (weight,) = weights([(6, 9)], torch.float64)
    before = weight.detach().clone()
    optimizer = composite([weight], method="exact", momentum=0.0)
    follow([weight], optimizer, 1)
    u, _, v = torch.linalg.svd(weight.grad, full_matrices=False)
    torch.testing.assert_close(weight.detach(), before - 0.02 * u @ v)


@pytest.mark.parametrize(
    ("rule", "expected"), [("original", math.sqrt(4)), ("match_rms_adamw", 0.2 * math.sqrt(8)), ("spectral", 2.0)]
)
def test_scale_rules(rule, expected) -> None:
    assert scale_factor(rule, 8, 2) == pytest.approx(expected)
    assert scale_factor("original", 2, 8) == 1
    assert scale_factor("spectral", 2, 8) == 0.5


def test_a_step_has_the_root_mean_square_of_adamw() -> None:
    (weight,) = weights([(30, 50)])
    before = weight.detach().clone()
    follow([weight], composite([weight], scale="match_rms_adamw", method="exact"), 1)
    assert (weight.detach() - before).square().mean().sqrt() == pytest.approx(0.2 * 0.02, rel=1e-4)


def test_decay_bounds_the_spectral_norm() -> None:
    """|W| <= (1 - lr wd) |W| + lr s, so that it ends below s / wd; the gradient pulls outwards all the time."""
    (weight,) = weights([(12, 12)])
    optimizer = composite([weight], lr=0.1, weight_decay=0.5, momentum=0.0, method="exact")
    for _ in range(200):
        weight.grad = -weight.detach().clone()
        optimizer.step()
    assert torch.linalg.matrix_norm(weight.detach(), 2) == pytest.approx(2.0, rel=1e-3)


def test_statistics_know_orthogonality_and_the_optimum_under_decay() -> None:
    gradient = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    radius = 1 / 0.5
    optimum = -radius * orthogonalize(gradient, "exact")
    for start, expected in ((optimum, 0.0), (torch.zeros(6, 9), 1.0), (-optimum, 2.0)):
        weight = nn.Parameter(start.clone())
        optimizer = composite([weight], weight_decay=0.5, momentum=0.0, method="exact")
        weight.grad = gradient.clone()
        optimizer.step()
        assert optimizer.last_stats == {}
        optimizer.record_statistics = True
        weight.data = start.clone()
        optimizer.step()
        found = optimizer.last_stats["0.0"]
        assert found["frank_wolfe_residual"].item() == pytest.approx(expected, abs=1e-4)
        assert found["orthogonality_error"].item() < 1e-5


def test_statistics_of_newton_schulz_and_of_a_zero_gradient() -> None:
    (weight,) = weights([(6, 9)])
    optimizer = composite([weight], weight_decay=0.1)
    optimizer.record_statistics = True
    follow([weight], optimizer, 1)
    assert 0.01 < optimizer.last_stats["0.0"]["orthogonality_error"].item() < 0.5
    (weight,) = weights([(6, 9)])
    optimizer = composite([weight], weight_decay=0.1)
    optimizer.record_statistics = True
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert optimizer.last_stats["0.0"] == {"orthogonality_error": 1.0, "frank_wolfe_residual": 1.0}


class Vision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.body = nn.Conv2d(8, 16, 3)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.norm = nn.BatchNorm2d(16)
        self.attention = nn.MultiheadAttention(16, 2)
        self.narrow = nn.Linear(16, 3)
        self.hidden = nn.Linear(16, 16)
        self.head = nn.Linear(16, 10)


def routes(module: nn.Module, **options: Any) -> dict[str, str]:
    return {row.name: row.algorithm for row in explain(module, muon(module, **options))}


def test_routing_by_role() -> None:
    found = routes(Vision())
    matrices = {"body.weight", "attention.in_proj_weight", "attention.out_proj.weight", "hidden.weight"}
    assert {name for name, algorithm in found.items() if algorithm == "muon"} == matrices
    assert set(found.values()) == {"muon", "adamw"}


def test_attention_is_split_into_its_projections() -> None:
    module = Vision()
    splits = {name: group.get("split", 1) for group in muon(module).param_groups for name in group["param_names"]}
    assert splits["attention.in_proj_weight"] == 3
    assert splits["attention.out_proj.weight"] == 1


def test_a_first_linear_layer_is_a_matrix_and_rules_overrule() -> None:
    module = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5))
    assert routes(module)["0.weight"] == "muon"
    assert routes(module)["4.weight"] == "adamw"
    changed = routes(
        module, rules=[ParameterRule(role="input", algorithm="sgd"), ParameterRule("4.weight", algorithm="muon")]
    )
    assert (changed["0.weight"], changed["4.weight"]) == ("sgd", "muon")


def test_reasons_are_in_words() -> None:
    module = Vision()
    reasons = {row.name: row.reason for row in explain(module, muon(module))}
    assert "first convolution" in reasons["stem.weight"]
    assert "depth-wise" in reasons["depthwise.weight"]
    assert "a side below 4" in reasons["narrow.weight"]
    assert "3 times 16 x 16" in reasons["attention.in_proj_weight"]


def test_a_model_without_a_matrix_is_told_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"Linear has no hidden matrix for muon: use optimizer adamw, or route"):
        muon(nn.Linear(5, 4))


def test_the_fallback_has_its_own_options() -> None:
    optimizer = muon(Vision(), lr=0.01, fallback_lr_scale=0.5, weight_decay=0.1, fallback_weight_decay=0.2)
    rates = {group["algorithm"]: group["lr"] for group in optimizer.param_groups}
    decays = {group["algorithm"]: group["weight_decay"] for group in optimizer.param_groups if group["weight_decay"]}
    assert rates == {"muon": 0.01, "adamw": 0.005}
    assert decays == {"muon": 0.1, "adamw": 0.2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "spectrum"}, "unknown scale 'spectrum'. Did you mean 'spectral'"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"precision": "bf16"}, "unknown precision 'bf16'"),
        ({"method": "gram", "precision": "bfloat16"}, "can overflow in bfloat16"),
        ({"batch_elements": -1}, "batch_elements must be"),
        ({"coefficients": "best"}, "unknown table of coefficients"),
    ],
)
def test_bad_options_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        OPTIMIZERS.create("muon", Vision(), **options)


@pytest.mark.parametrize(
    ("shape", "split", "message"),
    [((3,), 1, r"does not support a parameter of shape \(3,\)"), ((4, 4), 3, "split 3 does not divide the 4 rows")],
)
def test_parameters_that_are_no_matrices_are_refused(shape, split, message) -> None:
    with pytest.raises(ValueError, match=message):
        composite(weights([shape]), split=split)


def test_a_saved_state_continues_the_same_run() -> None:
    whole = weights()
    follow(whole, composite(whole), 6)
    first = weights()
    optimizer = composite(first)
    follow(first, optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = composite(first)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    follow(first, resumed, 3, first=3)
    assert all(torch.equal(one, other) for one, other in zip(whole, first, strict=True))


def test_the_loss_of_a_network_falls() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(128, 5))
    images, labels = torch.randn(64, 1, 8, 8), torch.randint(0, 5, (64,))
    optimizer = muon(module, lr=0.01)
    losses: list[Tensor] = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(nn.functional.cross_entropy(module(images), labels))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
