"""Small real training runs for the callbacks' tests."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from steepest.command_line.trainer import Trainer as SteepestTrainer


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    )


class Classifier(LightningModule):
    """A network with dropout and batch normalization; logs its loss, seeds itself."""

    def __init__(self, net: nn.Module | None = None, optimizer: Any = torch.optim.AdamW, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = network() if net is None else net
        self.optimizer = optimizer
        self.options = {"lr": 0.01, **options}
        self.weights: list[Tensor] = []
        self.draws: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.weights.append(nn.utils.parameters_to_vector(self.parameters()).detach().clone())

    def on_train_end(self) -> None:
        self.weights.append(nn.utils.parameters_to_vector(self.parameters()).detach().clone())
        self.draws.append(float(torch.rand(1)))

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters(), **self.options)


def loader(batches: int = 6, size: int = 8) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(batches * size, 6, generator=generator)
    return DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=size)


def fit(
    folder: Path | None, module: LightningModule, *callbacks: Any, data: Any = None, resume: Any = None, **options: Any
) -> Trainer:
    torch.manual_seed(2)
    trainer = Trainer(
        **{
            "max_epochs": 1,
            "accelerator": "cpu",
            "devices": 1,
            "logger": TensorBoardLogger(folder, name="run") if folder is not None else False,
            "callbacks": list(callbacks),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            **options,
        }
    )
    trainer.fit(module, loader() if data is None else data, ckpt_path=resume)
    return trainer


def fit_in_folder(
    folder: Path, module: LightningModule, *callbacks: Any, resume: Path | None = None, **options: Any
) -> Trainer:
    """Train a module that brings its own data, with a Trainer of ours, whose run folder is `folder`."""
    folder.mkdir(exist_ok=True)
    trainer = SteepestTrainer(
        **{
            "max_epochs": 2,
            "accelerator": "cpu",
            "devices": 1,
            "callbacks": list(callbacks),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "default_root_dir": folder,
            **options,
        }
    )
    trainer.run_folder = folder
    trainer.fit(module, ckpt_path=resume)
    return trainer


@contextmanager
def warnings_of(name: str) -> Iterator[list[str]]:
    """Collect the warnings that start with this callback's name; foreign ones (Lightning's own) are dropped."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield messages
    messages += [str(warning.message) for warning in seen if str(warning.message).startswith(f"{name}: ")]


def events(run: Trainer | Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars by tag, as (step, value), read back from the event files of a run or its folder."""
    accumulator = EventAccumulator(str(run if isinstance(run, Path) else run.log_dir), {"scalars": 0, "images": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }
