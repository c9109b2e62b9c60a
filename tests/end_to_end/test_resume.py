"""A run that was killed and resumed ends, bit for bit, where the uninterrupted run ends."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from steepest.callbacks import Checkpoints, GradientFlowMonitor, LearningRateTracker, StepSeed
from steepest.command_line.trainer import Trainer
from steepest.datamodules.digits import Digits
from steepest.lightning_modules.image_classifier import ImageClassifier
from steepest.lightning_modules.networks import DeepMLP
from steepest.optim.classical.torch_optimizers import adamw, momentum
from steepest.optim.schedules import warmup_cosine

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "momentum": {"optimizer": momentum},
    "adamw_cosine": {"optimizer": adamw, "schedule": warmup_cosine},
}
BATCHES = 9  # of 128 digits, in an epoch

# What a resumed run may have otherwise: paths, and times that were measured.
OWN = {"best_model_path", "config", "total_seconds"}


class Killed(BaseException):
    """No `Exception`, so that nothing between the training loop and the test handles it."""


class Kill(Callback):
    """Ends the run before the given batch of training, counted from 0 over all epochs."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: Any, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch * BATCHES + batch_idx == self.batch:
            raise Killed


def train(
    folder: Path,
    model: LightningModule,
    data: Any,
    *callbacks: Callback,
    resume: Path | None = None,
    checkpoint_every: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Fit until the end or until killed; returns the content of the last checkpoint."""
    folder.mkdir(parents=True)
    trainer = Trainer(
        **{
            "max_epochs": 3,
            "accelerator": "cpu",
            "devices": 1,
            "log_every_n_steps": 4,
            "logger": TensorBoardLogger(folder.parent, name="", version=folder.name),
            "callbacks": [
                GradientFlowMonitor(every_n_steps=5, figures=False),
                LearningRateTracker(every_n_steps=3),
                Checkpoints(every_n_steps=checkpoint_every),
                StepSeed(),
                *callbacks,
            ],
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        }
    )
    trainer.run_folder = folder
    try:
        trainer.fit(model, data, ckpt_path=resume, weights_only=True)
    except Killed:
        return {}
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def classifier(**options: Any) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(DeepMLP(hidden=[16, 16], input_shape=(1, 8, 8), num_classes=10, dropout=0.2), **options)


def digits() -> Digits:
    return Digits(batch_size=128, random_crop=1)


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two checkpoints differ, however little."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [key for key in one.keys() | other.keys() if key not in OWN]
        return [line for key in keys for line in differences(one.get(key), other.get(key), f"{path}/{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        return [
            line for i, pair in enumerate(zip(one, other, strict=True)) for line in differences(*pair, f"{path}/{i}")
        ]
    # What was not measured is NaN in both.
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        alike = (one.shape, one.dtype) == (other.shape, other.dtype)
        same = alike and bool(((one == other) | ((one != one) & (other != other))).all())
    else:
        same = one == other or (one != one and other != other)
    return [] if same else [f"{path}: {str(one)[:60]} and {str(other)[:60]}"]


def scalars(*folders: Path) -> dict[tuple[str, int], set[float]]:
    """All values that one or several runs wrote for a tag and step, without measured times."""
    found: dict[tuple[str, int], set[float]] = {}
    for folder in folders:
        accumulator = EventAccumulator(str(folder))
        accumulator.Reload()
        for tag in accumulator.Tags()["scalars"]:
            if not tag.endswith("_seconds"):
                for event in accumulator.Scalars(tag):
                    found.setdefault((tag, event.step), set()).add(event.value)
    return found


SCENARIOS: dict[str, dict[str, Any]] = {
    # kill: before which batch; step: the optimizer step of the checkpoint that is resumed
    "first step": {"kill": 1, "step": 1, "checkpoint_every": 1},
    "inside an epoch": {"kill": 15, "step": 14, "checkpoint_every": 2},
    "end of an epoch": {"kill": 18, "step": 18},
    "one step before the end of an epoch": {"kill": 17, "step": 17, "checkpoint_every": 1},
    "during accumulation": {"kill": 14, "step": 7, "checkpoint_every": 1, "accumulate_grad_batches": 2},
    "end of an epoch with accumulation": {"kill": 18, "step": 10, "accumulate_grad_batches": 2},
    "after a validation inside an epoch": {"kill": 14, "step": 14, "checkpoint_every": 1, "val_check_interval": 4},
    "before a validation inside an epoch": {"kill": 13, "step": 12, "checkpoint_every": 1, "val_check_interval": 4},
    "half an epoch": {"kill": 24, "step": 24, "checkpoint_every": 1, "val_check_interval": 0.5},
    "best": {"kill": 25, "step": 18, "which": "best"},
    "best inside an epoch": {"kill": 25, "step": 22, "which": "best", "val_check_interval": 0.5},
    "limited by steps": {"kill": 20, "step": 20, "checkpoint_every": 1, "max_steps": 23, "max_epochs": -1},
    "limited by steps, end of an epoch": {"kill": 20, "step": 18, "max_steps": 23, "max_epochs": -1},
}


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory) -> Callable[..., tuple[dict[str, Any], Path]]:
    """Uninterrupted runs, each trained once."""
    done: dict[str, tuple[dict[str, Any], Path]] = {}

    def run(optimizer: str, **options: Any) -> tuple[dict[str, Any], Path]:
        key = f"{optimizer} {options}"
        if key not in done:
            folder = tmp_path_factory.mktemp("whole") / "version_0"
            done[key] = train(folder, classifier(**OPTIMIZERS[optimizer]), digits(), **options), folder
        return done[key]

    return run


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_killed_and_resumed_is_uninterrupted(tmp_path, whole_runs, optimizer, scenario) -> None:
    options = dict(SCENARIOS[scenario])
    kill, step, which = options.pop("kill"), options.pop("step"), options.pop("which", "last")
    expected, whole = whole_runs(optimizer, **options)
    killed, resumed = tmp_path / "version_0", tmp_path / "version_1"
    assert train(killed, classifier(**OPTIMIZERS[optimizer]), digits(), Kill(kill), **options) == {}
    checkpoint = killed / "checkpoints" / f"{which}.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == step
    model = classifier(**OPTIMIZERS[optimizer])
    nn.init.zeros_(model.network.output.weight)  # the checkpoint's weights count
    found = train(resumed, model, digits(), resume=checkpoint, **options)
    # Lightning itself counts an epoch twice when it resumes at its end under `max_steps`.
    counted = ("/loops",) if scenario == "limited by steps, end of an epoch" else ()
    assert [line for line in differences(expected, found) if not line.startswith(counted)] == []
    assert scalars(killed, resumed) == scalars(whole)


def test_killed_twice(tmp_path, whole_runs) -> None:
    options: dict[str, Any] = {"checkpoint_every": 4, "max_steps": 25, "max_epochs": -1}
    expected, whole = whole_runs("adamw_cosine", **options)
    folders = [tmp_path / f"version_{number}" for number in range(3)]
    checkpoint = None
    found: dict[str, Any] = {}
    for folder, kill in zip(folders, (10, 21, None), strict=True):
        ends = [] if kill is None else [Kill(kill)]
        found = train(folder, classifier(**OPTIMIZERS["adamw_cosine"]), digits(), *ends, resume=checkpoint, **options)
        checkpoint = folder / "checkpoints" / "last.ckpt"
    # Lightning itself counts an epoch twice when it resumes at its end under `max_steps`.
    assert [line for line in differences(expected, found) if not line.startswith("/loops")] == []
    assert scalars(*folders) == scalars(whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_plain_loader_resumes_at_the_end_of_an_epoch(tmp_path, workers) -> None:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(1152, 1, 8, 8, generator=generator), torch.arange(1152) % 10)

    def loader() -> DataLoader:
        return DataLoader(data, batch_size=128, shuffle=True, num_workers=workers)

    expected = train(tmp_path / "version_0", classifier(), loader())
    train(tmp_path / "version_1", classifier(), loader(), Kill(20))
    checkpoint = tmp_path / "version_1" / "checkpoints" / "last.ckpt"
    found = train(tmp_path / "version_2", classifier(), loader(), resume=checkpoint)
    assert differences(expected, found) == []
    assert scalars(tmp_path / "version_1", tmp_path / "version_2") == scalars(tmp_path / "version_0")


def test_resumed_command_has_its_own_folder_and_keeps_the_best(steepest, tmp_path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(
        "model: {class_path: ImageClassifier, init_args: {network: {class_path: DeepMLP, init_args: {hidden: [8]}}}}\n"
        "data: {class_path: Digits, init_args: {batch_size: 128}}\n"
        "optimizer: {class_path: sgd, init_args: {lr: 0.1}}\n"
        "trainer: {max_epochs: 2, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}\n"
    )
    assert steepest("fit", "--config", config).code == 0
    first = tmp_path / "runs" / "small" / "version_0"
    kept = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    # No validation any more: no new best.
    words = ["--ckpt_path", "last", "--trainer.max_epochs", "3", "--trainer.limit_val_batches", "0"]
    assert steepest("fit", "--config", config, *words).code == 0
    second = tmp_path / "runs" / "small" / "version_1"
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == kept
    record = json.loads((second / "run.json").read_text())
    assert record["parent"] == {"checkpoint": "runs/small/version_0/checkpoints/last.ckpt", "global_step": 18}
    assert record["status"] == "finished"
    assert record["global_step"] == 27
    best = Path("checkpoints") / "best.ckpt"
    assert (second / best).read_bytes() == (first / best).read_bytes()
    assert json.loads((first / "run.json").read_text())["parent"] is None


@pytest.mark.slow
def test_sigkill_at_random_moments(tmp_path) -> None:
    moments = random.Random(0)
    repository = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "steepest", "fit", "--config", str(repository / "configs" / "digits_mlp.yaml")]
    command += ["--runs_dir", str(tmp_path), "--trainer.max_epochs", "8", "--trainer.accelerator", "cpu"]
    command += ["--model.network.dropout", "0.2", "--data.random_crop", "1", "--test_after_fit", "false"]
    command += ["--trainer.callbacks+=Checkpoints", "--trainer.callbacks.every_n_steps", "7"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--name", "whole"], check=True, env=environment, stdout=subprocess.DEVNULL, timeout=120)

    command += ["--name", "killed"]
    for attempt in range(3):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        last = tmp_path / "killed" / f"version_{attempt}" / "checkpoints" / "last.ckpt"
        saves, saved, wanted = 0, 0.0, moments.randint(2, 8)
        while attempt < 2 and process.poll() is None and saves < wanted:
            now = last.stat().st_mtime if last.is_file() else 0.0
            saves, saved = saves + (now != saved), now
            time.sleep(0.002)
        if attempt < 2:
            time.sleep(0.05 * moments.random())
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            command = [*command[: command.index("killed") + 1], "--ckpt_path", "last"]
        else:
            assert process.wait(timeout=120) == 0

    whole, parts = tmp_path / "whole" / "version_0", [tmp_path / "killed" / f"version_{part}" for part in range(3)]
    checkpoints = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, parts[-1])]
    assert differences(*checkpoints) == []
    assert scalars(*parts) == scalars(whole)
    parents = [json.loads((part / "run.json").read_text())["parent"] for part in parts]
    assert parents[0] is None
    assert [parent["checkpoint"] for parent in parents[1:]] == [f"{part}/checkpoints/last.ckpt" for part in parts[:2]]
