import weakref

import pytest
import torch
from torch import nn

from steepest.diagnostics.updates.recorders import ChangeRecorder, UpdateRecorder


def recorder_for(optimizer, module, wanted=lambda: True, **options) -> UpdateRecorder:
    return UpdateRecorder([optimizer], lambda _: list(module.named_parameters()), wanted, **options)


def test_the_change_of_the_weights_is_recorded_once() -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.3)
    recorder = recorder_for(optimizer, module, with_gradients=True)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    module(torch.randn(8, 4)).square().sum().backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None])
    optimizer.step()
    expected = [(new - old).norm().item() for new, old in zip(module.parameters(), before, strict=True)]
    optimizer.step()  # further steps until `clear` do not count
    changes, gradient_norm = recorder.updates[optimizer].to_host()
    assert changes == pytest.approx(dict(zip(["weight", "bias"], expected, strict=True)), rel=1e-6)
    assert gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-6)
    recorder.clear()
    assert not recorder.updates


def test_closures_called_several_times_are_one_step() -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 1)
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=5)
    recorder = recorder_for(optimizer, module)
    inputs = torch.randn(16, 4)
    before = module.weight.detach().clone()
    calls = []

    def closure() -> torch.Tensor:
        calls.append(1)
        optimizer.zero_grad()
        loss = module(inputs).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    assert len(calls) > 1
    changes, gradient_norm = recorder.updates[optimizer].to_host()
    assert changes["weight"] == pytest.approx((module.weight - before).norm().item(), rel=1e-5)
    assert gradient_norm is None


def test_unwanted_steps_cost_no_copy_and_hooks_go_away() -> None:
    module = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    wanted = []
    recorder = recorder_for(optimizer, module, wanted=lambda: bool(wanted))
    optimizer.step()
    assert not recorder.updates
    recorder.remove()
    wanted.append(True)
    optimizer.step()
    assert not recorder.updates
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_recorders_of_a_step_share_one_copy_of_the_weights() -> None:
    module = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    norms = recorder_for(optimizer, module)
    all_of_it = ChangeRecorder([optimizer], lambda _: list(module.named_parameters()), lambda: True)
    matrices = ChangeRecorder([optimizer], lambda _: [("weight", module.weight)], lambda: True)
    for _ in range(2):
        before = module.weight.detach().clone()
        module(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        (found,) = matrices.changes.values()
        (others,) = all_of_it.changes.values()
        assert list(found) == ["weight"]
        assert found["weight"] is others["weight"]
        assert torch.equal(found["weight"], module.weight.detach() - before)
        changes, _ = norms.updates[optimizer].to_host()
        assert changes["weight"] == pytest.approx(float(found["weight"].norm()))
        kept = weakref.ref(found["weight"])
        del found, others
        for recorder in (norms, all_of_it, matrices):
            recorder.clear()
        assert kept() is None


def test_a_step_that_broke_off_is_forgotten() -> None:
    module = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    one, other = (ChangeRecorder([optimizer], lambda _: [("weight", module.weight)], lambda: True) for _ in range(2))

    def broken() -> float:
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        optimizer.step(broken)
    with torch.no_grad():
        module.weight.fill_(5.0)
    module.weight.grad = torch.ones(1, 2)
    optimizer.step()
    for recorder in (one, other):
        assert recorder.changes[optimizer]["weight"].tolist() == [[-1.0, -1.0]]


def test_a_hook_that_fails_leaves_the_step_alone() -> None:
    module = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)

    def parameters_of(_: object) -> list:
        raise MemoryError("no room for a copy")

    recorder = UpdateRecorder([optimizer], parameters_of, lambda: True)
    module.weight.grad = torch.ones(1, 2)
    before = module.weight.detach().clone()
    optimizer.step()
    assert torch.equal(module.weight, before - 1.0)
    assert not recorder.updates
    with pytest.raises(MemoryError, match="no room for a copy"):
        recorder.check()
    recorder.check()  # said once
