"""The step at which a training diverges is the one that a closed form or the losses say, and the run ends cleanly."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision

from steepest.callbacks import DivergenceStop, StepSeed
from steepest.command_line.trainer import Trainer
from steepest.lightning_modules import ToyObjective
from steepest.lightning_modules.objectives import Quadratic
from steepest.optim.classical.lbfgs import lbfgs
from steepest.optim.classical.sam import sam
from steepest.optim.classical.torch_optimizers import sgd
from tests.callbacks.runs import Classifier, fit, fit_in_folder, loader, warnings_of

# Of 0.5 w^2 from w = 1, gradient descent with rate 3 makes 0.5 * 4^(t - 1) at step t: above 100 first at step 5.
DIVERGING = partial(sgd, lr=3.0)


def quadratic(optimizer: Any = DIVERGING, **options: Any) -> ToyObjective:
    objective = Quadratic(eigenvalues=[1.0], start=[1.0])
    return ToyObjective(objective, steps_per_epoch=40, optimizer=optimizer, **options)


def train(folder: Path, model: Any, *callbacks: Any, **options: Any) -> Trainer:
    return fit_in_folder(folder, model, StepSeed(), *callbacks, **options)


def found(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "divergence.json").read_text())


@pytest.mark.parametrize(
    ("every", "accumulate", "stopped_at"), [(1, 1, 5), (4, 1, 8), (20, 1, 20), (1, 2, 5), (4, 3, 8), (1000, 1, 80)]
)
def test_the_step_is_that_of_the_closed_form(tmp_path, every, accumulate, stopped_at) -> None:
    callback = DivergenceStop(100.0, every)
    with warnings_of("DivergenceStop") as messages:
        trainer = train(tmp_path, quadratic(), callback, accumulate_grad_batches=accumulate, max_steps=80, max_epochs=8)
    assert messages == ["DivergenceStop: diverged at step 5 (training loss 128, bound 100)"]
    assert trainer.global_step == stopped_at
    assert found(tmp_path) == {"step": 5, "loss": 128.0, "bound": 100.0}
    assert trainer.callback_metrics["val/loss"] > 100  # the end has its validation
    assert not list(tmp_path.glob(".*"))
    assert trainer.test(quadratic(), verbose=False)  # and a test may follow


def test_without_a_bound_only_what_is_not_finite_counts(tmp_path) -> None:
    # The square of w, 4^(t - 1), is too large for float32 from 2^128 on.
    with warnings_of("DivergenceStop") as messages:
        train(tmp_path, quadratic(), DivergenceStop())
    assert messages == ["DivergenceStop: diverged at step 65 (training loss inf)"]
    assert found(tmp_path) == {"step": 65, "loss": None, "bound": None}


def test_the_loss_is_not_the_scaled_one(tmp_path) -> None:
    callback = DivergenceStop(100.0, 1)
    with warnings_of("DivergenceStop"):
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
        train(tmp_path, quadratic(), callback, plugins=[plugin], accumulate_grad_batches=2)
    assert (callback.diverged_at, callback.loss) == (5, 128.0)


@pytest.mark.parametrize("optimizer", [partial(lbfgs, lr=0.1, max_iter=4), partial(sam, lr=0.1, rho=20.0)])
def test_the_first_evaluation_of_a_step_counts(tmp_path, optimizer) -> None:
    class Probing(ToyObjective):
        evaluations = 0

        def diagnostic_loss(self, batch):
            loss = super().diagnostic_loss(batch)
            Probing.evaluations += 1
            # Evaluations within a step may go far without harm: SAM's look up the hill, a line search that is rejected.
            return loss if Probing.evaluations % 2 else loss + 1000

    callback = DivergenceStop(100.0, 1)
    model = Probing(Quadratic([1.0], start=[1.0]), steps_per_epoch=1, optimizer=optimizer)
    train(tmp_path, model, callback, max_epochs=1)
    assert Probing.evaluations >= 2
    assert callback.diverged_at is None
    assert not (tmp_path / "divergence.json").exists()


def test_a_divergence_before_a_failure_is_told(tmp_path) -> None:
    class Failing(ToyObjective):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if batch_idx == 6:
                raise ArithmeticError("no singular values of NaN")
            return loss

    model = Failing(Quadratic([1.0], start=[1.0]), steps_per_epoch=40, optimizer=DIVERGING)  # type: ignore[arg-type]
    with pytest.raises(ArithmeticError), warnings_of("DivergenceStop"):
        train(tmp_path, model, DivergenceStop(100.0))
    assert found(tmp_path)["step"] == 5


@pytest.mark.parametrize("saved_at", [3, 5, 13])
def test_a_resumed_run_stops_where_the_other_did(tmp_path, saved_at) -> None:
    class Saving(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            if trainer.global_step == saved_at:
                trainer.save_checkpoint(tmp_path / "saved.ckpt")

    whole = quadratic()
    with warnings_of("DivergenceStop"):
        train(tmp_path / "whole", whole, DivergenceStop(100.0, 15), Saving())
    resumed, callback = quadratic(), DivergenceStop(100.0, 15)
    with warnings_of("DivergenceStop"):
        trainer = train(tmp_path / "resumed", resumed, callback, resume=tmp_path / "saved.ckpt")
    assert trainer.global_step == 15
    assert found(tmp_path / "resumed") == found(tmp_path / "whole") == {"step": 5, "loss": 128.0, "bound": 100.0}
    assert torch.equal(resumed.objective.weight, whole.objective.weight)


def test_a_training_that_does_not_diverge_is_left_alone(tmp_path) -> None:
    plain, watched = Classifier(), Classifier()
    fit(None, plain, max_epochs=3)
    callback = DivergenceStop(100.0, 2)
    fit(tmp_path, watched, callback, max_epochs=3)
    assert len(watched.weights) == 19
    assert all(one.equal(other) for one, other in zip(plain.weights, watched.weights, strict=True))
    assert plain.draws == watched.draws
    assert callback.diverged_at is None
    assert not list(tmp_path.rglob("divergence.json"))


class Uneven(Classifier):
    """Rank one alone sees a large loss at step 4; both tell what they know."""

    def __init__(self, folder: Path, callback: DivergenceStop) -> None:
        super().__init__()
        self.folder, self.callback = folder, callback

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss + 1000 * (self.global_rank == 1 and batch_idx == 3)

    def on_train_end(self) -> None:
        super().on_train_end()
        report = [self.trainer.global_step, self.callback.diverged_at, self.callback.loss]
        (self.folder / f"rank{self.global_rank}.json").write_text(json.dumps(report))


@pytest.mark.ddp
def test_all_ranks_stop_when_one_diverges(tmp_path) -> None:
    callback = DivergenceStop(100.0, 5)
    with warnings_of("DivergenceStop"):
        fit(tmp_path, Uneven(tmp_path, callback), callback, data=loader(24), strategy="ddp_fork", devices=2)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first[:2] == [5, 4]
    assert 1000 < first[2] < 1010
    assert found(tmp_path / "run" / "version_0")["step"] == 4


def test_a_command_ends_with_its_test(steepest, tiny, tmp_path) -> None:
    words = ["--optimizer", "sgd", "--optimizer.lr", 1e9, "--trainer.limit_train_batches", 20, "--test_after_fit", True]
    words += ["--trainer.callbacks+=DivergenceStop", "--trainer.callbacks.every_n_steps", 4]
    with warnings_of("DivergenceStop") as messages:
        outcome = steepest("fit", "--config", tiny, *words)
    assert outcome.code == 0, outcome.err
    assert len(messages) == 1
    folder = tmp_path / "runs" / "tiny" / "version_0"
    assert 2 <= found(folder)["step"] <= 8
    assert "test/accuracy" in json.loads((folder / "run.json").read_text())["metrics"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bound": math.inf}, "bound of DivergenceStop must be a finite number, or none, got inf"),
        ({"bound": math.nan}, "bound of DivergenceStop must be a finite number, or none, got nan"),
        ({"every_n_steps": 0}, "every_n_steps of DivergenceStop must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        DivergenceStop(**options)
