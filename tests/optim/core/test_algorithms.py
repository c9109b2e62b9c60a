"""The algorithms sgd and adamw of a composite against torch.optim, to the bit."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steepest.optim.core.composite import Composite


def tensors(dtype: torch.dtype) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in ((5, 4), (3,), (2, 3, 2, 2), ())]


def train(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: int = 20) -> list[Tensor]:
    """Follow gradients that do not depend on the weights; the optimizer leaves them as they are."""
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        gradients = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        assert all(torch.equal(p.grad, gradient) for p, gradient in zip(parameters, gradients, strict=True))
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("algorithm", "reference", "options"),
    [
        ("sgd", torch.optim.SGD, {}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("sgd", torch.optim.SGD, {"momentum": 0.8, "dampening": 0.5}),
        ("adamw", torch.optim.AdamW, {}),
        ("adamw", torch.optim.AdamW, {"fused": True, "weight_decay": 0.1}),
        ("adamw", torch.optim.AdamW, {"amsgrad": True, "betas": (0.8, 0.99), "eps": 1e-4}),
        ("adamw", torch.optim.AdamW, {"amsgrad": True, "fused": True}),
    ],
)
def test_equal_to_torch_to_the_bit(algorithm, reference, options: dict[str, Any], dtype) -> None:
    options = {"lr": 0.03, "weight_decay": 0.0, **options}
    ours, theirs = tensors(dtype), tensors(dtype)
    found = train(ours, Composite([{"params": ours, "algorithm": algorithm, **options}]))
    expected = train(theirs, reference(theirs, **options))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_dampening_resumes_after_the_first_step() -> None:
    def optimizer(parameters: list[nn.Parameter]) -> Composite:
        return Composite([{"params": parameters, "algorithm": "sgd", "lr": 0.1, "momentum": 0.9, "dampening": 0.9}])

    whole = tensors(torch.float32)
    train(whole, optimizer(whole), 20)
    first = tensors(torch.float32)
    saved = optimizer(first)
    train(first, saved, 1)
    resumed = optimizer(first)
    resumed.load_state_dict(saved.state_dict())
    assert all(int(state["step"]) == 1 for state in resumed.state.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "sgd", "momentum": 1.0}, r"momentum must be a finite number in \[0, 1\)"),
        ({"algorithm": "sgd", "nesterov": True}, "nesterov needs momentum above 0 and dampening 0"),
        ({"algorithm": "sgd", "momentum": 0.9, "dampening": 2}, "dampening must be"),
        ({"algorithm": "adamw", "betas": (0.9, 1.0)}, r"betas\[1\]"),
        ({"algorithm": "adamw", "eps": -1.0}, "eps must be"),
    ],
)
def test_bad_options_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Composite([{"params": tensors(torch.float32), "lr": 0.1, **options}])


def test_momentum_cannot_be_switched_on_later() -> None:
    parameters = tensors(torch.float32)
    optimizer = Composite([{"params": parameters, "algorithm": "sgd", "lr": 0.1}])
    optimizer.param_groups[0]["momentum"] = 0.9
    with pytest.raises(ValueError, match="cannot leave 0 during a run"):
        train(parameters, optimizer, 1)


@pytest.mark.parametrize("changed", [{"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.5}])
def test_momentum_cannot_leave_zero_during_a_run(changed) -> None:
    (parameter, *_) = tensors(torch.float32)
    optimizer = Composite([{"params": [parameter], "algorithm": "sgd", "lr": 0.1}])
    train([parameter], optimizer, 1)
    optimizer.param_groups[0].update(changed)
    with pytest.raises(ValueError, match="cannot leave 0 during a run"):
        train([parameter], optimizer, 1)
