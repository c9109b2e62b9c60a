"""Two ranks train as one process does: the same data, weights and logs, also after a resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from steepest.callbacks import Checkpoints, GradientFlowMonitor, LearningRateTracker, StepSeed
from steepest.command_line.trainer import Trainer
from steepest.datamodules.digits import Digits
from steepest.lightning_modules.image_classifier import ImageClassifier
from steepest.lightning_modules.networks import DeepMLP
from steepest.optim.classical.torch_optimizers import adamw, sgd
from steepest.optim.schedules import warmup_cosine
from tests.distributed.processes import scalars

pytestmark = pytest.mark.ddp

TWO_RANKS: dict[str, Any] = {"strategy": "ddp_fork", "devices": 2}


class Notes(Callback):
    """Writes what each rank saw into its own file, because the processes are gone after the fit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches: list[tuple[int, torch.Tensor]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append((trainer.current_epoch, batch[0].flatten(1).clone()))

    def on_train_end(self, trainer: Any, pl_module: LightningModule) -> None:
        weights = nn.utils.parameters_to_vector(pl_module.parameters()).detach()
        torch.save((weights, self.batches), self.folder / f"rank{trainer.global_rank}.pt")


class Kill(Callback):
    def __init__(self, epoch: int, batch: int) -> None:
        self.place = epoch, batch

    def on_train_batch_start(self, trainer: Any, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.place:
            raise RuntimeError("killed here")


def train(
    folder: Path,
    batch_size: int,
    *callbacks: Callback,
    network: nn.Module | None = None,
    resume: Path | None = None,
    measure_every: int = 3,
    dropout: float = 0.0,
    optimizer: Any = sgd,
    schedule: Any = None,
    **options: Any,
) -> None:
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    network = network or DeepMLP(hidden=[16, 16], input_shape=(1, 8, 8), num_classes=10, dropout=dropout)
    model = ImageClassifier(network, optimizer=optimizer, schedule=schedule)
    trainer = Trainer(
        **{
            "max_epochs": 2,
            "accelerator": "cpu",
            "devices": 1,
            "log_every_n_steps": 4,
            "logger": TensorBoardLogger(folder.parent, name="", version=folder.name),
            "callbacks": [
                GradientFlowMonitor(measure_every, dead_units_every=1, figures=False, ratio_warning=1e9, strict=True),
                LearningRateTracker(every_n_steps=5),
                Checkpoints(every_n_steps=3),
                StepSeed(),
                Notes(folder),
                *callbacks,
            ],
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        }
    )
    trainer.run_folder = folder
    trainer.fit(model, Digits(batch_size=batch_size, random_crop=1), ckpt_path=resume, weights_only=True)


def notes(folder: Path, rank: int) -> tuple[torch.Tensor, list[tuple[int, torch.Tensor]]]:
    return torch.load(folder / f"rank{rank}.pt", weights_only=True)


def epoch_of(batches: list[tuple[int, torch.Tensor]], epoch: int) -> list[tuple[float, ...]]:
    return [tuple(image.tolist()) for number, images in batches if number == epoch for image in images]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pair") / "run"
    train(folder, 32, **TWO_RANKS)
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("single") / "run"
    train(folder, 64)
    return folder


def test_both_ranks_hold_the_same_weights(pair) -> None:
    assert torch.equal(notes(pair, 0)[0], notes(pair, 1)[0])


def test_the_ranks_share_each_epoch(pair, single) -> None:
    for epoch in range(2):
        first, second = (epoch_of(notes(pair, rank)[1], epoch) for rank in range(2))
        # Digits repeat no image; cropped ones may coincide, so counts are compared, not only sets.
        assert sorted(first + second) == sorted(epoch_of(notes(single, 0)[1], epoch))
        assert len(first) == len(second) == 19 * 32
        assert not set(first) & set(second)
    steps = zip(notes(pair, 0)[1], notes(pair, 1)[1], notes(single, 0)[1], strict=True)
    assert all(torch.equal(torch.cat([one, other]), union) for (_, one), (_, other), (_, union) in steps)


def test_two_small_batches_are_one_large_batch(pair, single) -> None:
    torch.testing.assert_close(notes(pair, 0)[0], notes(single, 0)[0], rtol=1e-4, atol=1e-6)


def test_adamw_takes_the_same_first_steps(tmp_path) -> None:
    options: dict[str, Any] = {"optimizer": adamw, "max_epochs": 1, "limit_train_batches": 4}
    train(tmp_path / "pair", 32, **options, **TWO_RANKS)
    train(tmp_path / "single", 64, **options)
    torch.testing.assert_close(notes(tmp_path / "pair", 0)[0], notes(tmp_path / "single", 0)[0], rtol=1e-5, atol=1e-6)


def test_each_scalar_is_written_once_and_is_that_of_the_union(pair, single) -> None:
    ours, theirs = scalars(pair), scalars(single)
    assert ours.keys() == theirs.keys()
    assert {("train/loss", 4), ("train/epoch_loss", 19), ("val/accuracy", 38), ("grad/total_norm", 3)} <= ours.keys()
    for (tag, step), values in ours.items():
        if not tag.endswith("_seconds"):
            assert values == pytest.approx(theirs[tag, step], rel=1e-3, abs=1e-6), f"{tag} at step {step}"
    assert len(list(pair.glob("events.out.tfevents.*"))) == 1


@pytest.mark.parametrize("kill", [(1, 0), (1, 7)], ids=["end of an epoch", "inside an epoch"])
def test_two_ranks_resume_exactly(tmp_path, kill) -> None:
    options: dict[str, Any] = {"dropout": 0.2, "optimizer": adamw, "schedule": warmup_cosine, **TWO_RANKS}
    train(tmp_path / "whole", 32, **options)
    with pytest.raises(Exception, match="killed here"):
        train(tmp_path / "killed", 32, Kill(*kill), **options)
    train(tmp_path / "resumed", 32, resume=tmp_path / "killed" / "checkpoints" / "last.ckpt", **options)
    for rank in range(2):
        whole, resumed = notes(tmp_path / "whole", rank), notes(tmp_path / "resumed", rank)
        assert torch.equal(whole[0], resumed[0])
        for (_, images), (_, expected) in zip(reversed(resumed[1]), reversed(whole[1]), strict=False):
            assert torch.equal(images, expected)
    expected = scalars(tmp_path / "whole")
    for run in ("killed", "resumed"):
        for (tag, step), values in scalars(tmp_path / run).items():
            assert tag.endswith("_seconds") or values == expected[tag, step], f"{tag} at step {step}"


def test_batch_normalization_with_a_measurement_at_every_step(tmp_path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    options: dict[str, Any] = {"max_epochs": 1, "val_check_interval": 5, **TWO_RANKS}
    train(tmp_path / "run", 32, network=network, measure_every=1, **options)
    assert torch.equal(notes(tmp_path / "run", 0)[0], notes(tmp_path / "run", 1)[0])
    assert {("grad/dead_relu_fraction", step) for step in range(1, 20)} <= scalars(tmp_path / "run").keys()
