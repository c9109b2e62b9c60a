"""L-BFGS through PyTorch: equality, resume, what it needs and refuses."""

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn

from steepest.optim import OPTIMIZERS
from steepest.optim.classical.lbfgs import lbfgs
from steepest.optim.core.closure import needs_closure, searches_line
from tests.optim.classical.references.problems import Landscape, network, rosenbrock, train, weights


@pytest.mark.parametrize("line_search", ["strong_wolfe", None])
def test_equals_pytorch_to_the_bit(line_search) -> None:
    ours, theirs = network(), network()
    train(ours, lbfgs(ours, lr=0.5, max_iter=5, history_size=4, line_search=line_search), 6)
    reference = torch.optim.LBFGS(theirs.parameters(), lr=0.5, max_iter=5, history_size=4, line_search_fn=line_search)
    train(theirs, reference, 6)
    assert torch.equal(weights(ours), weights(theirs))
    assert not torch.equal(weights(ours), weights(network()))


def test_solves_rosenbrock_with_its_defaults() -> None:
    landscape = Landscape(rosenbrock, [-1.2, 1.0])
    found = landscape.minimize(lbfgs(landscape), 4)
    torch.testing.assert_close(found, torch.ones(2, dtype=torch.float64), rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("search", ["strong_wolfe", None])
def test_lr_zero_freezes_and_a_warm_up_from_zero_goes_on(search) -> None:
    module = network()
    optimizer = lbfgs(module, lr=0.0, line_search=search)
    train(module, optimizer, 2)
    assert torch.equal(weights(module), weights(network()))
    optimizer.param_groups[0]["lr"] = 1e-2
    train(module, optimizer, 1)
    other = network()
    train(other, lbfgs(other, lr=1e-2, line_search=search), 1)
    assert torch.equal(weights(module), weights(other))


def test_resumes_to_the_bit() -> None:
    whole, first, second = network(), network(), network()
    options = {"history_size": 3, "max_iter": 4}
    train(whole, lbfgs(whole, **options), 8)
    optimizer = lbfgs(first, **options)
    train(first, optimizer, 5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    second.load_state_dict(first.state_dict())
    resumed = lbfgs(second, **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(second, resumed, 3, first=5)
    assert torch.equal(weights(second), weights(whole))


def test_every_evaluation_of_a_step_has_the_same_dropout() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    optimizer = lbfgs(module)
    masks: list[Tensor] = []
    module[1].register_forward_hook(lambda _, inputs, output: masks.append((output == 0) & (inputs[0] != 0)))
    train(module, optimizer, 1)
    first = len(masks)
    assert first > 2
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    train(module, optimizer, 1)
    assert not torch.equal(masks[first], masks[0])


def test_copies_go_the_same_way() -> None:
    module = network()
    optimizer = lbfgs(module, max_iter=3)
    train(module, optimizer, 3)
    pairs = [copy.deepcopy((module, optimizer)), pickle.loads(pickle.dumps((module, optimizer)))]
    for other in [(module, optimizer), *pairs]:
        train(*other, 3, first=3)
    assert torch.equal(weights(pairs[0][0]), weights(module))
    assert torch.equal(weights(pairs[1][0]), weights(module))


def test_takes_gradients_that_are_not_contiguous() -> None:
    ends = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        module = nn.Conv2d(3, 4, 3, dtype=torch.float64).to(memory_format=memory_format)  # type: ignore[call-overload]
        optimizer = lbfgs(module, max_iter=3)
        images = torch.randn(2, 3, 5, 5, dtype=torch.float64).to(memory_format=memory_format)

        def closure(module=module, optimizer=optimizer, images=images) -> Tensor:
            optimizer.zero_grad()
            loss = (module(images) - 1).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        ends.append(module.weight.detach())
    assert not ends[1].is_contiguous()
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-9)


def test_sparse_gradients_and_complex_parameters_are_refused() -> None:
    table = nn.Embedding(4, 2, sparse=True)

    def closure() -> Tensor:
        table.zero_grad()
        loss = table(torch.tensor([1])).sum()
        loss.backward()
        return loss

    with pytest.raises(ValueError, match=r"\Albfgs does not support sparse gradients: use sparse=False[^\n]*\Z"):
        lbfgs(table).step(closure)
    with pytest.raises(ValueError, match=r"\Albfgs does not support complex parameters\Z"):
        lbfgs(nn.Linear(2, 2, dtype=torch.complex64))


def test_a_state_in_another_order_or_size_is_refused() -> None:
    class Model(nn.Module):
        def __init__(self, order: str, size: int = 2) -> None:
            super().__init__()
            for name in order:
                self.register_parameter(name, nn.Parameter(torch.ones(size)))

    def stepped(model: nn.Module) -> dict:
        optimizer = lbfgs(model)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = sum((p.square().sum() for p in model.parameters()), torch.zeros(()))
            loss.backward()
            return loss

        optimizer.step(closure)
        return optimizer.state_dict()

    with pytest.raises(ValueError, match=r"\Athe saved L-BFGS state holds the parameters in another order[^\n]*\Z"):
        lbfgs(Model("ba")).load_state_dict(stepped(Model("ab")))
    with pytest.raises(ValueError, match=r"\Athe saved L-BFGS state is of 4 weights, the model has 6\Z"):
        lbfgs(Model("ab", 3)).load_state_dict(stepped(Model("ab")))
    with pytest.raises(ValueError, match=r"\Athe saved optimizer state has no parameter 'c'[^\n]*\Z"):
        lbfgs(Model("abc")).load_state_dict(stepped(Model("ab")))


def test_it_says_that_it_needs_a_closure() -> None:
    optimizer = lbfgs(network())
    assert needs_closure(optimizer)
    assert searches_line(optimizer)
    assert needs_closure(torch.optim.LBFGS(network().parameters()))
    assert not needs_closure(torch.optim.SGD(network().parameters()))
    with pytest.raises(ValueError, match=r"\Albfgs evaluates the model several times in a step: [^\n]*\Z"):
        optimizer.step()


def test_bad_options_are_refused_in_one_line() -> None:
    cases = [
        ({"lr": -1.0}, r"lr must be a finite number in \[0, inf\), not -1.0"),
        ({"max_iter": 0}, "max_iter must be a whole number, at least 1, not 0"),
        ({"max_eval": 1.5}, "max_eval must be a whole number, at least 1, not 1.5"),
        ({"history_size": True}, "history_size must be a whole number, at least 1, not True"),
        ({"tolerance_grad": -1e-9}, r"tolerance_grad must be a finite number in \[0, inf\), not -1e-09"),
        ({"line_search": "armijo"}, "line_search must be 'strong_wolfe' or None, not 'armijo'"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=rf"\A{message}\Z"):
            OPTIMIZERS.create("lbfgs", nn.Linear(2, 2), **options)
