"""One battery for every registered optimizer."""

import inspect

import pytest
import torch
from torch import nn

from steepest.optim import OPTIMIZERS
from steepest.optim.contract import CHECKS, EXCEPTIONS, Case, ContractError, exception
from steepest.optim.contract.models import network, train, weights
from tests.optim.contract.cases import ENTRIES, KNOWN, Entry

battery = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


def test_every_registered_optimizer_is_under_contract() -> None:
    assert sorted(entry.name for entry in ENTRIES) == OPTIMIZERS.names()
    assert {entry.name for entry in KNOWN} < set(OPTIMIZERS.names())


@pytest.mark.parametrize("check", CHECKS)
@battery
def test_contract(entry: Entry, check: str) -> None:
    if exception(entry.case, check) is None:
        CHECKS[check](entry.case)
    else:  # an exception that holds no longer must not stay in the table
        with pytest.raises((ContractError, ValueError), match=r"\A[^\n]+\Z"):
            CHECKS[check](entry.case)


def test_every_exception_is_about_something_there_is_and_says_why() -> None:
    for (pattern, check), reason in EXCEPTIONS.items():
        assert check in CHECKS
        assert any(exception(entry.case, check) == reason for entry in ENTRIES), pattern
        assert len(reason) > 20


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.reference], ids=lambda entry: entry.name)
def test_fifty_steps_equal_the_reference(entry: Entry) -> None:
    assert entry.reference is not None
    ours, theirs = network(torch.float64), network(torch.float64)
    train(ours, entry.make(ours), 50)
    train(theirs, entry.reference(theirs, entry.case.lr), 50)
    assert not torch.equal(weights(ours), weights(network(torch.float64)))
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-9, atol=1e-10)


@battery
def test_nothing_to_train_is_refused(entry: Entry) -> None:
    with pytest.raises(ValueError, match="Linear has no trainable parameters"):
        entry.make(nn.Linear(2, 2).requires_grad_(False))


@battery
def test_the_help_text_describes_every_option(entry: Entry) -> None:
    text = inspect.getdoc(OPTIMIZERS[entry.name]) or ""
    assert len(OPTIMIZERS.summary(entry.name)) > 20
    for option in ("module", *OPTIMIZERS.options(entry.name)):
        assert f"\n    {option}: " in text


class Forgetful(torch.optim.SGD):
    """Loses its momentum when it is loaded, touches gradients, ignores None, and accepts any learning rate."""

    def __init__(self, params, lr: float) -> None:
        super().__init__(params, lr=abs(lr) if lr == lr else 0.1, momentum=0.9)

    def load_state_dict(self, state_dict) -> None:
        super().load_state_dict(state_dict)
        self.state.clear()

    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad = None
        return loss


@pytest.mark.parametrize(
    "check",
    ["resumes_to_the_bit", "leaves_gradients_alone", "refuses_bad_values", "refuses_the_state_of_another_model"],
)
def test_the_checks_find_what_is_wrong_with_a_third_party_optimizer(check: str) -> None:
    case = Case("forgetful", lambda module, lr: Forgetful(module.parameters(), lr), 0.05)
    with pytest.raises(ContractError, match=r"\Aforgetful: [^\n]+\Z"):
        CHECKS[check](case)


def test_a_plain_torch_optimizer_passes_what_torch_promises() -> None:
    case = Case("torch", lambda module, lr: torch.optim.Adam(module.parameters(), lr=lr), 0.03, 0.03)
    for name, check in CHECKS.items():
        if name not in ("refuses_the_state_of_another_model", "refuses_bad_values"):
            check(case)
