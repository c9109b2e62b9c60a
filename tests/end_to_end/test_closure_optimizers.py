"""L-BFGS and SAM under Lightning: records, callbacks, resume, two ranks, and what does not go with them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from steepest.callbacks import Checkpoints, GradientFlowMonitor, LearningRateTracker, StepSeed
from steepest.command_line.trainer import Trainer
from steepest.datamodules.digits import Digits
from steepest.lightning_modules.image_classifier import ImageClassifier
from steepest.optim.classical.lbfgs import lbfgs
from steepest.optim.classical.references import reference_lbfgs
from steepest.optim.classical.sam import sam
from steepest.optim.classical.torch_optimizers import adamw, momentum
from steepest.optim.libraries.wrapping import external
from steepest.optim.schedules import warmup_cosine

FACTORIES: dict[str, Callable[..., Any]] = {
    "lbfgs": partial(lbfgs, lr=0.5, max_iter=3, history_size=3),
    "reference_lbfgs": partial(reference_lbfgs, lr=0.5, history_size=3),
    "sam": partial(sam, lr=0.1),
    "sam_adamw": partial(sam, rho=0.1, adaptive=True, base=partial(adamw, lr=0.01)),
}


class Kill(Callback):
    """Ends the run before a batch of the only epoch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.batch:
            raise RuntimeError("killed here")


class Watched(ImageClassifier):
    """Counts evaluations, and keeps the weights and the loss at the first one of each batch."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10)
        )
        super().__init__(network, **options)
        self.evaluations: dict[int, int] = {}
        self.losses: list[Tensor] = []
        self.weights: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if batch_idx not in self.evaluations:
            self.losses.append(loss.detach())
        self.evaluations[batch_idx] = self.evaluations.get(batch_idx, 0) + 1
        return loss

    def on_train_end(self) -> None:
        self.weights.append(nn.utils.parameters_to_vector(self.parameters()).detach())


def train(folder: Path, model: ImageClassifier, *callbacks: Callback, resume: Path | None = None, **options: Any):
    folder.mkdir(parents=True)
    trainer = Trainer(
        **{
            "max_epochs": 1,
            "limit_train_batches": 6,
            "limit_val_batches": 1,
            "accelerator": "cpu",
            "devices": 1,
            "log_every_n_steps": 6,
            "logger": TensorBoardLogger(folder.parent, name="", version=folder.name),
            "callbacks": [
                GradientFlowMonitor(every_n_steps=2, figures=False, strict=True),
                LearningRateTracker(every_n_steps=1),
                Checkpoints(every_n_steps=1),
                StepSeed(),
                *callbacks,
            ],
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        }
    )
    trainer.run_folder = folder
    trainer.fit(model, Digits(batch_size=128), ckpt_path=resume, weights_only=True)
    return trainer


def last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other


@pytest.mark.parametrize("name", FACTORIES)
def test_records_the_first_evaluation_with_the_default_callbacks(tmp_path, name) -> None:
    model = Watched(optimizer=FACTORIES[name])
    trainer = train(tmp_path / "run", model)
    assert trainer.global_step == 6
    assert all(count == 2 if name.startswith("sam") else count > 1 for count in model.evaluations.values())
    assert model.latest_scalars["train/loss"] == pytest.approx(torch.stack(model.losses).mean().item(), abs=1e-6)
    (monitor,) = (callback for callback in trainer.callbacks if isinstance(callback, GradientFlowMonitor))
    flow = monitor.summary()
    assert flow is not None
    assert 0 < flow.total_gradient_norm < float("inf")
    assert 0 < flow.relative_update < 1
    if name.startswith("sam"):
        assert model.network[2].num_batches_tracked == 6


@pytest.mark.parametrize("name", FACTORIES)
def test_killed_and_resumed_is_uninterrupted(tmp_path, name) -> None:
    options = {"optimizer": FACTORIES[name], "schedule": partial(warmup_cosine, warmup=0.3)}
    train(tmp_path / "whole", Watched(**options))
    with pytest.raises(RuntimeError, match="killed here"):
        train(tmp_path / "killed", Watched(**options), Kill(4))
    resumed = Watched(**options)
    nn.init.zeros_(resumed.network[1].weight)  # the checkpoint's weights count
    train(tmp_path / "resumed", resumed, resume=tmp_path / "killed" / "checkpoints" / "last.ckpt")
    whole, found = last(tmp_path / "whole"), last(tmp_path / "resumed")
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "scalars", "global_step"):
        assert same(whole[key], found[key]), key


@pytest.mark.parametrize("name", FACTORIES)
def test_they_learn(tmp_path, name) -> None:
    model = Watched(optimizer=FACTORIES[name])
    trainer = train(tmp_path / "run", model, max_epochs=4, limit_train_batches=1.0, limit_val_batches=1.0)
    assert trainer.callback_metrics["val/accuracy"] > 0.85


@pytest.mark.ddp
@pytest.mark.parametrize("name", FACTORIES)
def test_two_ranks_hold_the_same_weights(tmp_path, name) -> None:
    class Saved(Watched):
        def on_train_end(self) -> None:
            super().on_train_end()
            torch.save([self.weights[-1], self.evaluations], tmp_path / f"rank{self.global_rank}.pt")

    train(tmp_path / "run", Saved(optimizer=FACTORIES[name]), strategy="ddp_fork", devices=2, limit_train_batches=4)
    (first, counts), (second, other_counts) = (
        torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)
    )
    assert torch.equal(first, second)
    assert counts == other_counts
    start = nn.utils.parameters_to_vector(Watched().parameters())
    assert (first - start).abs().max() > 1e-3


@pytest.mark.ddp
def test_two_ranks_with_sam_are_one_with_the_whole_batch(tmp_path) -> None:
    def classifier() -> ImageClassifier:
        torch.manual_seed(0)
        return ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), optimizer=FACTORIES["sam"])

    def fit(folder: str, batch_size: int, **options: Any) -> Tensor:
        trainer = Trainer(
            max_epochs=1, limit_train_batches=4, limit_val_batches=0, accelerator="cpu", logger=False,
            callbacks=[StepSeed(), Checkpoints(every_n_steps=4)], enable_progress_bar=False,
            enable_model_summary=False, **options,
        )  # fmt: skip
        trainer.run_folder = tmp_path / folder
        trainer.fit(classifier(), Digits(batch_size=batch_size))
        return last(tmp_path / folder)["state_dict"]["network.1.weight"]

    pair, single = fit("pair", 32, strategy="ddp_fork", devices=2), fit("single", 64, devices=1)
    torch.testing.assert_close(pair, single, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*FACTORIES, "external"])
def test_what_does_not_go_with_several_evaluations_is_refused_in_one_line(tmp_path, name) -> None:
    def refusal(*callbacks: Callback, **options: Any) -> str:
        factory = FACTORIES.get(name, partial(external, algorithm=torch.optim.LBFGS))
        with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as error:
            train(tmp_path / str(len(list(tmp_path.iterdir()))), Watched(optimizer=factory), *callbacks, **options)
        return str(error.value)

    kind = "SAM" if name.startswith("sam") else "LBFGS"
    start = f"{kind} evaluates its batch several times in a step, so gradients cannot be accumulated over batches"
    assert refusal(accumulate_grad_batches=2).startswith(start)
    assert refusal(GradientAccumulationScheduler({1: 4})).startswith(start)
    if kind == "LBFGS":
        assert refusal(gradient_clip_val=1.0) == (
            "LBFGS compares losses with their gradients, which clipping would change: leave out "
            "trainer.gradient_clip_val"
        )


def test_sam_goes_with_clipping_and_other_optimizers_with_accumulation(tmp_path) -> None:
    train(tmp_path / "clipped", Watched(optimizer=FACTORIES["sam"]), gradient_clip_val=0.1)
    trainer = train(tmp_path / "accumulated", Watched(optimizer=momentum), accumulate_grad_batches=2)
    assert trainer.global_step == 3


def test_every_micro_batch_is_recorded(tmp_path) -> None:
    model = Watched(optimizer=momentum)
    train(tmp_path / "run", model, accumulate_grad_batches=3, log_every_n_steps=2)
    assert len(model.losses) == 6
    assert model.latest_scalars["train/loss"] == pytest.approx(torch.stack(model.losses).mean().item(), abs=1e-6)


def test_the_command_line_trains_with_them(steepest, tiny) -> None:
    base = ["--optimizer.base", "adamw", "--optimizer.base.weight_decay", "0.1"]
    for words in (["lbfgs", "--optimizer.max_iter", 2], ["sam", "--optimizer.rho", 0.1, *base], ["reference_lbfgs"]):
        outcome = steepest("fit", "--config", tiny, "--optimizer", *words)
        assert outcome.code == 0, outcome.err
    outcome = steepest("fit", "--config", tiny, "--optimizer", "sam", "--trainer.accumulate_grad_batches", 2)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "SAM evaluates its batch several times in a step" in outcome.err
