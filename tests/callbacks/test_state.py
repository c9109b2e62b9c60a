"""What callbacks put into a checkpoint comes back, every piece of it."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steepest.callbacks import (
    DivergenceStop,
    GradientFlowMonitor,
    GradientNoiseScale,
    LossLandscape,
    ObjectiveTrajectory,
    SharpnessProbe,
    SpectralNormTracker,
    TrainingClock,
    UpdateDynamics,
)
from steepest.callbacks.lr_range_test import LRRangeTest
from tests.callbacks.runs import Classifier, fit

# Each in a run after which every entry of its state differs from that of a fresh one.
CALLBACKS: dict[str, Callable[[], Any]] = {
    "GradientFlowMonitor": lambda: GradientFlowMonitor(every_n_steps=2, dead_units_every=1, figures=False),
    "SpectralNormTracker": lambda: SpectralNormTracker(every_n_steps=2, exact_every=2, figures=False),
    "UpdateDynamics": lambda: UpdateDynamics(every_n_steps=2, subspaces_every=1, figures=False),
    "SharpnessProbe": lambda: SharpnessProbe(every_n_steps=3, probe_batch=8, figures=False),
    "GradientNoiseScale": lambda: GradientNoiseScale(every_n_steps=2, source="probe", figures=False),
    "TrainingClock": lambda: TrainingClock(warm_up_steps=1),
}


def same(one: Any, other: Any) -> bool:
    """Equal to the bit, NaN included."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one.nan_to_num(9.5), other.nan_to_num(9.5))
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return (
            isinstance(other, (list, tuple))
            and len(one) == len(other)
            and all(same(a, b) for a, b in zip(one, other, strict=True))
        )
    return repr(one) == repr(other)


@pytest.mark.parametrize("name", CALLBACKS)
def test_every_entry_comes_back(tmp_path, name) -> None:
    callback = CALLBACKS[name]()
    fit(tmp_path, Classifier(), callback)
    saved = callback.state_dict()
    fresh = CALLBACKS[name]()
    # "skipped_steps" counts steps that such a run does not have; "last" is shown at the end, and some keep none.
    telling = {key for key, value in saved.items() if not same(fresh.state_dict()[key], value)}
    assert telling | {"skipped_steps", "last"} >= saved.keys()
    torch.save(saved, tmp_path / "state.ckpt")
    fresh.load_state_dict(torch.load(tmp_path / "state.ckpt", weights_only=True))
    found = fresh.state_dict()
    assert {key for key in saved if not same(found[key], saved[key])} == set()


@pytest.mark.parametrize(
    ("make", "state"),
    [
        (lambda: GradientFlowMonitor(every_n_steps=2), {"skipped_steps": 3}),
        (lambda: DivergenceStop(), {"diverged_at": 7, "loss": 12.5, "checked_at": 20}),
        (lambda: LRRangeTest(), {"done": True}),
    ],
)
def test_entries_that_a_short_run_does_not_have_come_back_too(make, state) -> None:
    callback = make()
    callback.load_state_dict({**callback.state_dict(), **state})
    assert {key: callback.state_dict()[key] for key in state} == state


def test_the_path_over_an_objective_comes_back() -> None:
    callback, fresh = ObjectiveTrajectory(), ObjectiveTrajectory()
    callback.trajectory.append(3, torch.tensor([1.0, 2.0]))
    callback.total_seconds = 1.5
    fresh.load_state_dict(callback.state_dict())
    assert same(fresh.state_dict(), callback.state_dict())
    assert fresh.state_dict()["total_seconds"] == 1.5


def test_the_batches_of_a_landscape_come_back() -> None:
    callback, fresh = LossLandscape(probe_batch=2, probe_batches=1), LossLandscape(probe_batch=2, probe_batches=1)
    batch = (torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 2]))
    callback.held.offer(SimpleNamespace(world_size=1, global_rank=0), batch)  # type: ignore[arg-type]
    assert callback.held.complete
    fresh.load_state_dict(callback.state_dict())
    assert same(fresh.held.state_dict(), callback.held.state_dict())
    assert fresh.held.complete
