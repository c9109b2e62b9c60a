"""Two ranks train a language model as one process does: the same windows, weights, metrics and checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from steepest.callbacks import Checkpoints, GradientFlowMonitor, StepSeed
from steepest.command_line.trainer import Trainer
from steepest.datamodules import TextFile
from steepest.lightning_modules import LanguageModel
from steepest.lightning_modules.networks import GPT2
from steepest.optim.classical.torch_optimizers import sgd
from tests.distributed.processes import scalars

pytestmark = pytest.mark.ddp

TEXT = "".join(chr(97 + (7 * place * place + place // 5) % 23) for place in range(1500))


class Notes(Callback):
    """Writes what each rank saw into its own file, because the processes are gone after the fit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: Any, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append(torch.cat(batch, dim=1))

    def on_train_end(self, trainer: Any, pl_module: LightningModule) -> None:
        weights = nn.utils.parameters_to_vector(pl_module.parameters()).detach()
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        torch.save((weights, self.batches, metrics), self.folder / f"rank{trainer.global_rank}.pt")


def train(folder: Path, batch_size: int, **options: Any) -> None:
    folder.mkdir(parents=True)
    text = folder.parent / "text.txt"
    text.write_text(TEXT)
    torch.manual_seed(0)
    network = GPT2(len(set(TEXT)), 16, layers=1, heads=2, width=16)
    model = LanguageModel(network, sample_length=5, optimizer=sgd)
    trainer = Trainer(
        **{
            "max_epochs": 2,
            "accelerator": "cpu",
            "devices": 1,
            "log_every_n_steps": 4,
            "logger": TensorBoardLogger(folder.parent, name="", version=folder.name),
            "callbacks": [GradientFlowMonitor(5, figures=False), Checkpoints(), StepSeed(), Notes(folder)],
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        }
    )
    trainer.run_folder = folder
    trainer.fit(model, TextFile(text, block_size=16, batch_size=batch_size, evaluation_batch_size=batch_size))


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pair") / "run"
    train(folder, 4, strategy="ddp_fork", devices=2)
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("single") / "run"
    train(folder, 8)
    return folder


def notes(folder: Path, rank: int) -> tuple[torch.Tensor, list[torch.Tensor], dict[str, float]]:
    return torch.load(folder / f"rank{rank}.pt", weights_only=True)


def test_the_ranks_share_the_windows_of_one_process(pair, single):
    whole, shares = notes(single, 0)[1], [notes(pair, rank)[1] for rank in range(2)]
    assert len(whole) == len(shares[0]) > 10
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat(parts), batch)


def test_weights_and_metrics_are_those_of_one_process(pair, single):
    weights, _, metrics = notes(single, 0)
    for rank in range(2):
        assert torch.allclose(notes(pair, rank)[0], weights, atol=1e-6)
        assert notes(pair, rank)[2] == pytest.approx(metrics, rel=1e-4)
    assert torch.equal(notes(pair, 0)[0], notes(pair, 1)[0])
    assert {"val/loss", "val/perplexity", "val/bits_per_character"} <= set(metrics)


def test_events_and_checkpoints_are_written_once(pair, single):
    found, expected = scalars(pair), scalars(single)
    measured = {key for key in expected if key[0].endswith("_seconds") or key[0] == "train/tokens_per_second"}
    assert found.keys() == expected.keys()
    for key in expected.keys() - measured:
        assert found[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-5), key
    stored = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (pair, single)]
    assert stored[0]["tokenizer"] == stored[1]["tokenizer"]
