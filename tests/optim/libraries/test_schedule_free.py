"""Schedule-free optimizers in the Trainer: the average is what is evaluated and saved, and resuming is exact."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningDataModule, Trainer
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from steepest.callbacks import ScheduleFreeSwitch
from steepest.optim import OPTIMIZERS
from tests.callbacks.runs import Classifier, fit, loader

pytest.importorskip("schedulefree", reason="needs the extra: pip install 'steepest[schedule_free]'")


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=False)["state_dict"]


def test_a_fit_switches_saves_the_average_and_resumes_to_the_bit(steepest, tiny, tmp_path) -> None:
    words = ["--config", tiny, "--optimizer", "schedule_free_adamw", "--optimizer.lr", "0.01"]
    whole = steepest("fit", *words, "--trainer.max_epochs", "4", "--name", "whole")
    assert whole.code == 0, whole.err
    assert steepest("fit", *words, "--trainer.max_epochs", "2", "--name", "part").code == 0
    resumed = steepest("fit", *words, "--trainer.max_epochs", "4", "--name", "part", "--ckpt_path", "last")
    assert resumed.code == 0, resumed.err
    first = weights(tmp_path / "runs/whole/version_0/checkpoints/last.ckpt")
    second = weights(tmp_path / "runs/part/version_1/checkpoints/last.ckpt")
    assert all(torch.equal(first[name], second[name]) for name in first)
    saved = torch.load(tmp_path / "runs/whole/version_0/checkpoints/last.ckpt", weights_only=False)
    assert all(group["train_mode"] is False for group in saved["optimizer_states"][0]["param_groups"])


def test_a_schedule_is_advised_against(steepest, tiny) -> None:
    words = ["--optimizer", "schedule_free_sgd", "--schedule", "linear", "--trainer.max_steps", "2"]
    with pytest.warns(UserWarning, match="a schedule-free optimizer needs no schedule: leave --schedule out"):
        assert steepest("fit", "--config", tiny, *words).code == 0


class Watched(Classifier):
    """Keeps the point of training and the average that follows from it, and the weights that validation met."""

    average: Tensor
    seen: list[tuple[Tensor, Tensor]]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return OPTIMIZERS.create("schedule_free_sgd", self, lr=0.5, momentum=0.8)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # The gradient point is 0.8 x + 0.2 z, with x the average and z the newest point (arXiv 2405.15682).
        optimizer = self.trainer.optimizers[0]
        newest = parameters_to_vector([optimizer.state[parameter]["z"] for parameter in self.parameters()])
        self.average = ((parameters_to_vector(self.parameters()) - 0.2 * newest) / 0.8).detach()

    def on_validation_start(self) -> None:
        if not self.trainer.sanity_checking:
            self.seen = [*getattr(self, "seen", []), (parameters_to_vector(self.parameters()).detach(), self.average)]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing to compute."""


def fit_watched(module: Watched, tmp_path: Path, *callbacks: Callback, **options: Any) -> None:
    Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path, max_epochs=2,
        callbacks=[ScheduleFreeSwitch(), *callbacks], **options,
    ).fit(module, DataModule())  # fmt: skip


class DataModule(LightningDataModule):
    def train_dataloader(self) -> Any:
        return loader()

    def val_dataloader(self) -> Any:
        return loader(batches=1)


class Saves(Callback):
    """Saves in the middle of an epoch, where the weights are those of training."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.weights: tuple[Tensor, Tensor, Tensor]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 3:
            before = parameters_to_vector(pl_module.parameters()).detach()
            pl_module.on_train_batch_end(outputs, batch, batch_idx)
            trainer.save_checkpoint(self.path)
            self.weights = before, pl_module.average, parameters_to_vector(pl_module.parameters()).detach()


class Stops(Callback):
    def on_train_batch_start(self, trainer: Any, *arguments: Any) -> None:
        if trainer.global_step == 4:
            raise RuntimeError("stopped by the test")


def test_validation_and_the_end_meet_the_average(tmp_path: Path) -> None:
    module = Watched()
    fit_watched(module, tmp_path, val_check_interval=3)
    assert len(module.seen) == 4
    for met, average in (*module.seen, (parameters_to_vector(module.parameters()), module.average)):
        torch.testing.assert_close(met, average, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_in_mid_epoch_holds_the_average_and_training_goes_on(tmp_path: Path) -> None:
    module, saves = Watched(), Saves(tmp_path / "mid.ckpt")
    fit_watched(module, tmp_path, saves)
    before, average, after = saves.weights
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)
    saved = torch.load(saves.path, weights_only=True)
    held = parameters_to_vector([saved["state_dict"][name] for name, _ in module.named_parameters()])
    torch.testing.assert_close(held, average, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(held, before, rtol=1e-3)
    assert [group["train_mode"] for group in saved["optimizer_states"][0]["param_groups"]] == [False]


def test_an_exception_leaves_the_average(tmp_path: Path) -> None:
    module = Watched()
    with pytest.raises(RuntimeError, match="stopped by the test"):
        fit_watched(module, tmp_path, Stops())
    torch.testing.assert_close(parameters_to_vector(module.parameters()), module.average, rtol=1e-5, atol=1e-6)


def test_other_optimizers_are_left_alone(tmp_path: Path) -> None:
    runs = []
    for callbacks in ((), (ScheduleFreeSwitch(),)):
        module = Classifier()
        fit(None, module, *callbacks)
        runs.append(parameters_to_vector(module.parameters()))
    assert torch.equal(*runs)


@pytest.mark.parametrize("path", ["schedulefree.AdamWScheduleFree", "tests.optim.averaging.Averaging"])
def test_a_schedule_free_class_by_import_path_is_switched_as_well(path, steepest, tiny) -> None:
    words = ["--optimizer", "external", "--optimizer.algorithm", path]
    assert steepest("fit", "--config", tiny, *words, "--trainer.max_epochs", "1").code == 0
    (checkpoint,) = Path("runs/tiny/version_0/checkpoints").glob("last.ckpt")
    saved = torch.load(checkpoint, weights_only=False)
    assert all(group["train_mode"] is False for group in saved["optimizer_states"][0]["param_groups"])
