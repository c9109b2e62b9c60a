import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from steepest.common.history import History
from steepest.diagnostics.gradient_flow.flow import FIELDS, GradientFlow, gradient_flow


def sample(norms: dict[str, float], update: float | None = None) -> GradientFlow:
    named = []
    for name, norm in norms.items():
        parameter = nn.Parameter(torch.ones(4))
        parameter.grad = torch.tensor([norm, 0.0, 0.0, 0.0])
        named.append((name, parameter))
    updates = None if update is None else [torch.tensor([update, 0.0, 0.0, 0.0])] * len(named)
    return gradient_flow(named, updates=updates)


def test_samples_are_kept_by_step() -> None:
    history = History(FIELDS, by_layer=True)
    history.append(5, sample({"a": 1.0, "b": 2.0}, update=0.5))
    history.append(9, sample({"a": 3.0, "b": 4.0}))
    assert history.steps == [5, 9]
    assert history["gradient_norms"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert history["update_ratios"][0].tolist() == [0.25, 0.25]
    assert history["update_ratios"][1].isnan().all()


def test_parameters_may_come_and_go() -> None:
    history = History(FIELDS, by_layer=True)
    history.append(1, sample({"b": 2.0}))
    history.append(2, sample({"a": 1.0, "b": 3.0}))
    history.append(3, sample({"a": 4.0}))
    assert history.names == ["a", "b"]
    assert torch.equal(history["gradient_norms"].nan_to_num(-1.0), torch.tensor([[-1.0, 2.0], [1.0, 3.0], [4.0, -1.0]]))


@given(samples=st.integers(1, 60), limit=st.integers(2, 12))
def test_memory_is_bounded_and_the_newest_sample_stays(samples, limit) -> None:
    history = History(FIELDS, by_layer=True, max_rows=limit)
    flow = sample({"a": 1.0})
    for step in range(1, samples + 1):
        history.append(step, flow)
    assert len(history) <= limit
    assert len(history["gradient_norms"]) == len(history)
    assert history.steps[-1] == samples
    assert history.steps == sorted(set(history.steps))


def test_state_round_trip() -> None:
    history, other = History(FIELDS, by_layer=True), History(FIELDS, by_layer=True)
    other.load_state_dict(history.state_dict())
    assert len(other) == 0
    history.append(5, sample({"a": 1.0, "b": 2.0}, update=0.5))
    other.load_state_dict(history.state_dict())
    assert (other.names, other.steps) == (["a", "b"], [5])
    assert torch.equal(other["gradient_norms"], history["gradient_norms"])
    other.append(6, sample({"a": 1.0, "b": 2.0}))
    assert len(history) == 1


def test_too_small_a_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2, got 1"):
        History(FIELDS, by_layer=True, max_rows=1)


def test_fields_may_come_and_go_too() -> None:
    history = History(["size"], by_layer=True)
    history.add(1, {"size": [1.0]}, ["a"])
    history.add(2, {"size": [2.0, 3.0], "gap": [4.0, math.nan]}, ["a", "b"])
    history.add(3, {"gap": [5.0]}, ["b"])
    assert history.fields == ["size", "gap"]
    assert history.names == ["b", "a"]
    assert history["size"].nan_to_num(-1.0).tolist() == [[-1.0, 1.0], [3.0, 2.0], [-1.0, -1.0]]
    assert history["gap"].nan_to_num(-1.0).tolist() == [[-1.0, -1.0], [-1.0, 4.0], [5.0, -1.0]]
    assert bool(history["unknown"].isnan().all())
    other = History(by_layer=True)
    other.load_state_dict(history.state_dict())
    assert repr(other.table()) == repr(history.table())
