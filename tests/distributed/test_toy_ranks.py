"""Two ranks minimize a noisy objective as one process with twice the samples does."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from steepest.callbacks import ObjectiveTrajectory
from steepest.command_line.trainer import Trainer
from steepest.lightning_modules import ToyObjective
from steepest.lightning_modules.objectives import Rosenbrock
from steepest.optim.classical.torch_optimizers import momentum
from tests.distributed.processes import scalars

pytestmark = pytest.mark.ddp


def train(folder: Path, batch_size: int, **options: Any) -> numpy.ndarray:
    def slow(module: torch.nn.Module) -> torch.optim.Optimizer:
        return momentum(module, lr=1e-3)

    model = ToyObjective(Rosenbrock(), noise=3.0, batch_size=batch_size, steps_per_epoch=15, optimizer=slow)  # type: ignore[arg-type]
    trainer = Trainer(
        **{
            "max_epochs": 2,
            "accelerator": "cpu",
            "devices": 1,
            "log_every_n_steps": 5,
            "logger": TensorBoardLogger(folder.parent, name="", version=folder.name),
            "callbacks": [ObjectiveTrajectory(figures=False)],
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        }
    )
    trainer.run_folder = folder
    trainer.fit(model)
    return numpy.load(folder / "trajectory.npz")["weights"]


def test_two_ranks_are_one_process_with_twice_the_samples(tmp_path) -> None:
    pair = train(tmp_path / "pair", 2, strategy="ddp_fork", devices=2)
    single, half = train(tmp_path / "single", 4), train(tmp_path / "half", 2)
    numpy.testing.assert_allclose(pair, single, rtol=1e-4, atol=1e-5)
    assert numpy.abs(pair - half).max() > 1e-2  # the noise matters
    ours, theirs = scalars(tmp_path / "pair"), scalars(tmp_path / "single")
    assert {("train/gap", 5), ("val/distance", 30)} <= ours.keys() == theirs.keys()
    for key, values in ours.items():
        assert len(values) == 1
        assert values == pytest.approx(theirs[key], rel=1e-3)
