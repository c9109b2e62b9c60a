"""When `best` and `last` are written, and what is read back."""

import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steepest.callbacks.checkpoints import Checkpoints, read_checkpoint
from tests.callbacks.runs import warnings_of


class Run:
    """As much of a Trainer as `Checkpoints` uses; keeps the names of what was saved at which step."""

    def __init__(self, folder: Path) -> None:
        self.log_dir = str(folder)
        self.loggers: list[Any] = []
        self.is_global_zero = True
        self.sanity_checking = False
        self.state = SimpleNamespace(fn="fit")
        self.global_step = 0
        self.callback_metrics: dict[str, torch.Tensor] = {}
        self.strategy = SimpleNamespace(reduce=lambda score, reduce_op: score)
        self.saved: list[str] = []
        self.accumulate_grad_batches = 1
        progress = SimpleNamespace(is_last_batch=False, current=SimpleNamespace(ready=1))
        self.loop = SimpleNamespace(batch_progress=progress, total_batch_idx=0)
        self.fit_loop = SimpleNamespace(epoch_loop=self.loop)
        self.val_check_batch, self.enable_validation, self.check_val_every_n_epoch = 10, True, 1

    def save_checkpoint(self, path: Path) -> None:
        self.saved.append(f"{path.stem} {self.global_step}")

    def validate(self, checkpoints: Checkpoints, *scores: float, metric: str = "val/loss") -> list[bool]:
        """Whether `best` was written after each of these validations."""
        written = []
        for score in scores:
            before = len(self.saved)
            self.callback_metrics = {metric: torch.tensor(score)}
            checkpoints.on_validation_end(self, None)  # type: ignore[arg-type]
            written.append(len(self.saved) > before)
        return written


def started(folder: Path, state: dict[str, Any] | None = None, **options: Any) -> tuple[Run, Checkpoints]:
    run, checkpoints = Run(folder), Checkpoints(**options)
    if state is not None:
        checkpoints.load_state_dict(state)
    checkpoints.setup(run, None, "fit")  # type: ignore[arg-type]
    checkpoints.on_train_start(run, None)  # type: ignore[arg-type]
    return run, checkpoints


@pytest.mark.parametrize(
    ("mode", "scores", "written", "best"),
    [
        ("min", (2.0, 1.0, 1.5, 0.5), [True, True, False, True], 0.5),
        ("max", (2.0, 1.0, 2.5, 0.5), [True, False, True, False], 2.5),
        ("min", (1.0, 1.0), [True, False], 1.0),  # of equal ones the first
        ("max", (1.0, 1.0), [True, False], 1.0),
        ("min", (math.nan, 3.0, math.nan, -math.inf), [False, True, False, True], -math.inf),
        ("max", (math.nan, 3.0, math.nan, math.inf), [False, True, False, True], math.inf),
    ],
)
def test_best_is_written_after_a_better_validation_only(tmp_path, mode, scores, written, best) -> None:
    run, checkpoints = started(tmp_path, mode=mode)
    assert run.validate(checkpoints, *scores) == written
    assert checkpoints.best_score == best
    assert checkpoints.best_model_path == str(tmp_path / "checkpoints" / "best.ckpt")


@pytest.mark.parametrize(
    ("mode", "of", "score", "written"),
    [
        ("min", "val/loss", 0.9, True),
        ("min", "val/loss", 1.1, False),
        ("max", "val/loss", 1.1, True),
        ("max", "val/loss", 0.9, False),
        # The best of another metric is no measure of this one.
        ("min", "val/accuracy", 1.1, True),
        ("max", "val/accuracy", 0.9, True),
    ],
)
def test_a_resumed_run_goes_on_comparing_if_the_metric_is_the_same(tmp_path, mode, of, score, written) -> None:
    earlier = tmp_path / "earlier" / "best.ckpt"
    earlier.parent.mkdir()
    earlier.write_text("the best so far")
    state = {"best_score": 1.0, "best_model_path": str(earlier), "monitor": of}
    run, checkpoints = started(tmp_path / "run", state, mode=mode)
    target = tmp_path / "run" / "checkpoints" / "best.ckpt"
    assert target.exists() is (of == "val/loss")
    if of == "val/loss":
        assert target.read_text() == "the best so far"
        assert checkpoints.best_model_path == str(target)
    assert run.validate(checkpoints, score) == [written]


def test_the_state_is_all_that_a_resumed_run_compares_with(tmp_path) -> None:
    run, checkpoints = started(tmp_path)
    run.validate(checkpoints, 0.7)
    assert checkpoints.state_dict() == {
        "best_score": pytest.approx(0.7),
        "best_model_path": str(tmp_path / "checkpoints" / "best.ckpt"),
        "monitor": "val/loss",
    }


def test_a_best_checkpoint_that_cannot_be_taken_over_leaves_nothing(tmp_path, monkeypatch) -> None:
    earlier = tmp_path / "best.ckpt"
    earlier.write_text("the best so far")

    def fail(*_: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        started(tmp_path / "run", {"best_score": 1.0, "best_model_path": str(earlier), "monitor": "val/loss"})
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_ranks_compare_their_mean(tmp_path) -> None:
    run, checkpoints = started(tmp_path)
    operations = []

    def reduce(score: torch.Tensor, reduce_op: str) -> torch.Tensor:
        operations.append(reduce_op)
        return score + 1.0

    run.strategy.reduce = reduce
    run.validate(checkpoints, 2.0)
    assert (checkpoints.best_score, operations) == (3.0, ["mean"])


@pytest.mark.parametrize("change", ["sanity check", "validate"])
def test_nothing_is_kept_of_other_validations(tmp_path, change) -> None:
    run, checkpoints = started(tmp_path)
    run.sanity_checking = change == "sanity check"
    run.state.fn = "validate" if change == "validate" else "fit"
    assert run.validate(checkpoints, 1.0) == [False]
    assert checkpoints.best_score is None


def test_a_metric_that_nobody_logs_is_told(tmp_path) -> None:
    run, checkpoints = started(tmp_path, monitor="val/accuracy")
    with pytest.warns(UserWarning, match=r"nothing logs 'val/accuracy' \(logged so far: val/loss\)"):
        assert run.validate(checkpoints, 1.0) == [False]
    with warnings_of("Checkpoints") as messages:
        assert run.validate(checkpoints, 1.0, metric="val/accuracy") == [True]
    assert messages == []


def test_last_waits_for_a_point_to_resume_from(tmp_path) -> None:
    run, checkpoints = started(tmp_path, every_n_steps=2)

    def step(batch: int, *, last: bool = False, accumulating: bool = False) -> None:
        run.loop.batch_progress.is_last_batch = last
        run.accumulate_grad_batches = 2
        run.loop.batch_progress.current = SimpleNamespace(ready=1 if accumulating else 2)
        checkpoints.on_train_batch_end(run, None, None, None, batch)  # type: ignore[arg-type]

    step(0)  # no step taken yet
    run.global_step = 1
    step(1)
    run.global_step = 2
    step(2, accumulating=True)
    step(3)
    step(4)  # the same step again
    run.global_step = 4
    step(9)  # a validation comes first
    run.global_step = 5
    step(10)
    run.global_step = 6
    step(11, last=True)  # the end of the epoch writes
    checkpoints.on_train_epoch_end(run, None)  # type: ignore[arg-type]
    run.global_step = 7
    step(12)
    assert run.saved == ["last 2", "last 5", "last 6"]
    assert checkpoints.last_model_path == str(tmp_path / "checkpoints" / "last.ckpt")


def test_validations_by_total_batches_are_waited_for_too(tmp_path) -> None:
    run, checkpoints = started(tmp_path, every_n_steps=1)
    run.check_val_every_n_epoch = None
    for done in (29, 30, 31):
        run.global_step, run.loop.total_batch_idx = done, done - 1
        checkpoints.on_train_batch_end(run, None, None, None, 3)  # type: ignore[arg-type]
    run.enable_validation, run.global_step, run.loop.total_batch_idx = False, 40, 39
    checkpoints.on_train_batch_end(run, None, None, None, 3)  # type: ignore[arg-type]
    assert run.saved == ["last 29", "last 31", "last 40"]


def test_every_n_steps_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        Checkpoints(every_n_steps=0)


class Foreign:
    """A class whose unpickling would run code."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}, "thing": Foreign()}, "not a complete checkpoint"),
        ({"weights": {}}, "has no 'state_dict'"),
        ([1, 2], "has no 'state_dict'"),
    ],
)
def test_only_tensors_and_plain_values_are_read(tmp_path, content, message) -> None:
    path = tmp_path / "some.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


def test_a_checkpoint_is_read_as_it_is_or_refused(tmp_path) -> None:
    path = tmp_path / "some.ckpt"
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        read_checkpoint(path)
    torch.save({"state_dict": {"weight": torch.arange(3.0)}, "global_step": 4}, path)
    found = read_checkpoint(path)
    assert found["global_step"] == 4
    assert found["state_dict"]["weight"].tolist() == [0.0, 1.0, 2.0]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cut off"):
        read_checkpoint(path)
