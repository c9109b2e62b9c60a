"""Sets of options, and the flat factories that the registry makes of functions that take them."""

import dataclasses
import functools
import importlib
import inspect
import pickle
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from steepest.optim import OPTIMIZERS
from steepest.optim.core.algorithm import ALGORITHMS
from steepest.optim.core.options import GroupOptions, Options, SharedOptions, flat
from steepest.optim.core.roles import ParameterRule


class Base(Options):
    """A base.

    Attributes:
        first: In two
            lines.
        second: Short.
    """

    first: float = 1.0
    second: tuple[int, ...] = (1, 2)


class Derived(Base):
    """Says one of them anew.

    Attributes:
        second: Long.
    """

    second: tuple[int, ...] = (3,)
    third: str | None = None


def factory(module: nn.Module, lr: float = 0.1, *, own: Base, momentum: float = 0.9, shared: GroupOptions) -> object:
    """Return what it is given.

    More of it.

    Args:
        momentum: Its own text.
        first: A text that goes before that of the set.

    Returns:
        A tuple.
    """
    return module, lr, own, momentum, shared


def test_a_set_is_immutable_and_its_texts_come_from_all_its_classes() -> None:
    options = Base(second=[4, 5])  # type: ignore[arg-type]
    assert vars(options) == {"first": 1.0, "second": (4, 5)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.first = 2.0  # type: ignore[misc]
    assert Derived.texts() == {"first": "In two\n        lines.", "second": "Long."}
    assert vars(Derived()) == {"first": 1.0, "second": (3,), "third": None}


def test_a_factory_becomes_flat() -> None:
    made = flat(factory)
    parameters = inspect.signature(made).parameters
    assert list(parameters) == ["module", "lr", "first", "second", "momentum", "rules", "layer_decay"]
    assert parameters["second"].default == (1, 2)
    assert parameters["layer_decay"].annotation == float | None
    assert inspect.signature(made).return_annotation is object
    assert (made.__name__, made.__module__) == ("factory", __name__)
    module, rule = nn.Linear(2, 2), ParameterRule(role="head", lr_scale=0.1)
    found = made(module, 0.3, second=[7], rules=[rule], momentum=0.5)
    assert found == (module, 0.3, Base(second=(7,)), 0.5, GroupOptions((rule,)))
    assert made(module) == (module, 0.1, Base(), 0.9, GroupOptions())
    assert flat(made) is made


def test_the_help_of_a_flat_factory() -> None:
    assert flat(factory).__doc__ == (
        "Return what it is given.\n\nMore of it.\n\nArgs:\n"
        "    module: The model; its trainable parameters are optimized.\n"
        "    lr: Learning rate, at least 0.\n"
        "    first: A text that goes before that of the set.\n"
        "    second: Short.\n"
        "    momentum: Its own text.\n"
        f"    rules: {GroupOptions.texts()['rules']}\n"
        f"    layer_decay: {GroupOptions.texts()['layer_decay']}\n\n"
        "Returns:\n    A tuple.\n\n"
        "Raises:\n    ValueError: if an option is out of range or nothing is trainable."
    )


@pytest.mark.parametrize("options", [{"frist": 2.0}, {"own": Base()}, {"shared": None}])
def test_options_that_there_are_not_are_refused(options) -> None:
    with pytest.raises(TypeError, match=rf"factory\(\) got .* keyword argument '{next(iter(options))}'"):
        flat(factory)(nn.Linear(2, 2), **options)


def test_an_instance_as_default_changes_the_defaults_of_a_set() -> None:
    other = Base(first=5.0)

    def own(module: nn.Module, *, own: Base = other) -> Base:
        """One."""
        return own

    made = flat(own)
    assert inspect.signature(made).parameters["first"].default == 5.0
    assert made(nn.Linear(2, 2), second=(9,)) == Base(5.0, (9,))
    assert OPTIMIZERS.options("muon")["scale"].default == "match_rms_adamw"
    assert ALGORITHMS["muon"].defaults["scale"] == "original"


def test_one_name_twice_and_an_option_without_help_are_refused() -> None:
    def twice(module: nn.Module, first: float = 0.0, *, own: Base) -> None:
        """One."""

    def silent(module: nn.Module, *, own: Derived) -> None:
        """One."""

    with pytest.raises(ValueError, match="duplicate parameter name: 'first'"):
        flat(twice)
    with pytest.raises(ValueError, match=r"\Aoption 'third' of silent needs a description under Args or Attributes\Z"):
        flat(silent)


def test_a_function_without_sets_stays_what_it_is() -> None:
    assert flat(len) is len
    assert flat(test_a_function_without_sets_stays_what_it_is) is test_a_function_without_sets_stays_what_it_is


def test_every_option_of_an_algorithm_has_a_text() -> None:
    for name, algorithm in ALGORITHMS.items():
        assert algorithm.options.texts().keys() >= algorithm.defaults.keys(), name


def test_registered_factories_travel_to_other_processes() -> None:
    chosen = functools.partial(OPTIMIZERS["muon"], lr=0.5, momentum=0.8)
    optimizer = pickle.loads(pickle.dumps(chosen))(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)))
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def test_a_composite_checks_options_that_no_group_takes() -> None:
    bias = nn.Module()
    bias.bias = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"weight_decay must be .* not -1.0"):
        OPTIMIZERS.create("lion", bias, weight_decay=-1.0)
    assert vars(SharedOptions())["rounding"] == "nearest"


def test_the_example_of_the_guide_trains() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "optimizers.md").read_text()
    (code,) = re.findall(r"```python\n(class SignumOptions.*?)```", guide, re.DOTALL)
    names = {**vars(importlib.import_module("steepest.optim.classical.lion")), "__name__": "guide"}
    registered = dict(OPTIMIZERS._entries), dict(OPTIMIZERS._names)
    try:
        exec(code, names)
        weight = nn.Linear(1, 1, bias=False)
        before = weight.weight.item()
        optimizer = OPTIMIZERS.create("signum", weight, lr=0.5, weight_decay=0.1, momentum=0.8)
        weight.weight.grad = torch.tensor([[-3.0]])
        optimizer.step()
    finally:
        OPTIMIZERS._entries, OPTIMIZERS._names = registered
        ALGORITHMS.pop("signum", None)
    assert weight.weight.item() == pytest.approx(0.95 * before + 0.5)
    assert "momentum: How much of the velocity stays" in names["signum"].__doc__
