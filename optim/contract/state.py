"""Checks of what is kept: groups, state dictionaries, copies, memory."""

import copy
import gc
import io
import math
import pickle

import torch
from torch import Tensor, nn

from steepest.optim.contract.case import Case, check, demand, refused
from steepest.optim.contract.models import network, train, weights


@check
def holds_every_parameter_once(case: Case) -> None:
    """Each trainable parameter is in exactly one group."""
    module = network()
    module.norm.bias.requires_grad_(False)
    held = [parameter for group in case.make(module, case.lr).param_groups for parameter in group["params"]]
    expected = [parameter for parameter in module.parameters() if parameter.requires_grad]
    demand(case, len(held) == len(set(held)) and set(held) >= set(expected), "holds other parameters than the model's")


@check
def resumes_to_the_bit(case: Case) -> None:
    """A run continued from a state dictionary saved to a file and loaded with weights_only equals the whole run."""
    whole = network()
    train(whole, case.make(whole, case.lr), 10)
    first = network()
    optimizer = case.make(first, case.lr)
    train(first, optimizer, 5)
    file = io.BytesIO()
    torch.save({"module": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = network(seed=1)
    second.load_state_dict(saved["module"])
    optimizer = case.make(second, case.lr)
    optimizer.load_state_dict(saved["optimizer"])
    train(second, optimizer, 5, first=5)
    demand(case, torch.equal(weights(second), weights(whole)), "a resumed run differs from the whole one")


@check
def refuses_the_state_of_another_model(case: Case) -> None:
    """State with other parameter names or shapes is refused, not taken up by position."""
    module = network()
    optimizer = case.make(module, case.lr)
    train(module, optimizer, 1)
    other = nn.Sequential(*module.children())
    refused(case, lambda: case.make(other, case.lr).load_state_dict(optimizer.state_dict()), "state of another model")


@check
def copies_and_pickles(case: Case) -> None:
    """Deep copies and pickled copies continue the same run."""
    module = network()
    optimizer = case.make(module, case.lr)
    train(module, optimizer, 3)
    copies = [copy.deepcopy((module, optimizer)), pickle.loads(pickle.dumps((module, optimizer)))]
    train(module, optimizer, 3, first=3)
    for kind, (twin, copied) in zip(("deep", "pickled"), copies, strict=True):
        train(twin, copied, 3, first=3)
        demand(case, torch.equal(weights(twin), weights(module)), f"a {kind} copy continues differently")


@check
def refuses_bad_values(case: Case) -> None:
    """A negative, NaN or infinite learning rate and the case's own bad values raise a ValueError of one line."""
    for lr in (-0.1, math.nan, math.inf):
        refused(case, lambda lr=lr: case.make(network(), lr), f"lr = {lr}")
    for what, call in case.refused.items():
        refused(case, lambda call=call: call(network()), what)


@check
def keeps_its_memory(case: Case) -> None:
    """The number of tensors alive does not grow from step to step."""
    gc.freeze()  # all that was there before is left out: it may be millions of objects
    try:
        module = network()
        optimizer = case.make(module, case.lr)
        counts = []
        for round_ in range(3):
            train(module, optimizer, 12, first=12 * round_)
            optimizer.zero_grad()
            gc.collect()
            counts.append(sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()))
    finally:
        gc.unfreeze()
    demand(case, counts[2] <= counts[1], f"tensors alive grow from {counts[1]} to {counts[2]} in twelve steps")
