"""CPU time per training step of our base module with default callbacks, against a raw loop and a bare Trainer.

Contestants train the same network from the same start on the same batches with the same optimizer, interleaved in one
process on one thread; the table shows medians over rounds, and ratios within rounds. "ours" records five scalars,
writes TensorBoard and CSV every 50 steps and runs the default callbacks with progress bar and step seeds; "bare" is
Lightning's Trainer without logger, bar, checkpoints or callbacks; "Trainer, 5 logs" is what users of Lightning have
today: five `self.log` calls, logger, bar and checkpoint.

    python benchmarks/framework_overhead.py [--rounds 7] [--steps 600]
"""

import argparse
import contextlib
import io
import logging
import statistics
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule
from lightning import Trainer as LightningTrainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from marked_batches import MarkedBatches
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

import steepest.callbacks as callbacks
from steepest.callbacks import StepProgressBar, StepSeed
from steepest.command_line.completion import DEFAULT_CALLBACKS
from steepest.command_line.trainer import Trainer
from steepest.lightning_modules.base import BaseModule
from steepest.optim.classical.torch_optimizers import momentum

WARM_UP = 60  # steps before the clock starts: past the first logging step
SCALARS = ("loss", "accuracy", "confidence", "entropy", "margin")


class Batches(MarkedBatches):
    """Batches that tell the time of a step, from step `WARM_UP` to the last."""

    @property
    def seconds_per_step(self) -> float:
        return (self.marks[self.steps] - self.marks[WARM_UP]) / (self.steps - WARM_UP)


class Plain(LightningModule):
    """What a user of Lightning writes."""

    def __init__(self, network: nn.Module, logs: bool) -> None:
        super().__init__()
        self.network = network
        self.logs = logs

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = functional.cross_entropy(self.network(batch[0]), batch[1])
        if self.logs:
            for name in SCALARS:
                self.log(f"train/{name}", loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return momentum(self, lr=0.01)


class Ours(BaseModule):
    """The same on our base module."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(optimizer=lambda module: momentum(module, lr=0.01))
        self.network = network

    def diagnostic_loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(self.network(batch[0]), batch[1])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = functional.cross_entropy(self.network(batch[0]), batch[1])
        value = loss.detach()
        self.record(loss=value, accuracy=value, confidence=value, entropy=value, margin=value)
        return loss


class Idle(Callback):
    """Hooks that do nothing: the price of being called."""

    def on_train_batch_start(self, *arguments: Any) -> None: ...

    def on_train_batch_end(self, *arguments: Any) -> None: ...

    def on_before_optimizer_step(self, *arguments: Any) -> None: ...


def raw(network: nn.Module, batches: Batches, folder: str) -> None:
    optimizer = momentum(network, lr=0.01)
    for inputs, labels in batches:
        optimizer.zero_grad()
        functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()


def bare(network: nn.Module, batches: Batches, folder: str) -> None:
    LightningTrainer(**_quiet()).fit(Plain(network, logs=False), batches)


def idle(network: nn.Module, batches: Batches, folder: str) -> None:
    ten: list[Callback] = [type(f"Idle{index}", (Idle,), {})() for index in range(10)]
    LightningTrainer(**_quiet(), callbacks=ten).fit(Plain(network, logs=False), batches)


def lightning_logs(network: nn.Module, batches: Batches, folder: str) -> None:
    options = {**_quiet(), "logger": TensorBoardLogger(folder, name="plain"), "enable_progress_bar": True}
    options["enable_checkpointing"] = True
    LightningTrainer(**options).fit(Plain(network, logs=True), batches)


def ours(network: nn.Module, batches: Batches, folder: str) -> None:
    logger = TensorBoardLogger(folder, name="ours", default_hp_metric=False)
    options = {**_quiet(), "enable_progress_bar": True, "enable_checkpointing": True}
    options["logger"] = [logger, CSVLogger(folder, name="ours", version=logger.version)]
    used = [*(getattr(callbacks, name)() for name in DEFAULT_CALLBACKS), StepProgressBar(), StepSeed()]
    trainer = Trainer(**options, callbacks=used)
    trainer.run_folder = logger.log_dir  # type: ignore[assignment]
    trainer.fit(Ours(network), batches)


def _quiet() -> dict[str, Any]:
    return {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }


CONTESTANTS: dict[str, Callable[[nn.Module, Batches, str], None]] = {
    "raw loop": raw,
    "bare Trainer": bare,
    "bare, 10 idle callbacks": idle,
    "Trainer, 5 logs": lightning_logs,
    "ours": ours,
}


def _tiny() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def _cnn() -> nn.Module:
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 10)]
    return nn.Sequential(*layers)


TASKS = {"tiny 784-8-10, batch 8": (_tiny, 8, 1), "MLP 784-128-10, batch 128": (_mlp, 128, 1)}
TASKS["CNN 16-32, batch 64"] = (_cnn, 64, 4)  # a slow step needs fewer of them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")

    table = Table("task", "contestant", "ms a step", "over raw, ms", "x raw", "x bare")
    for task, (make, size, divisor) in TASKS.items():
        torch.manual_seed(0)
        start = make()
        batches = Batches((1, 28, 28), size, max(options.steps // divisor, WARM_UP + 50))
        seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
        for _ in range(options.rounds):
            for name, contestant in CONTESTANTS.items():
                network = make()
                network.load_state_dict(start.state_dict())
                silence = (contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()))
                with tempfile.TemporaryDirectory() as folder, silence[0], silence[1]:
                    contestant(network, batches, folder)
                seconds[name].append(batches.seconds_per_step)
        for name, own in seconds.items():
            over = [mine - base for mine, base in zip(own, seconds["raw loop"], strict=True)]
            table.add_row(
                task if name == "raw loop" else "",
                name,
                f"{1e3 * statistics.median(own):.3f}",
                f"{1e3 * statistics.median(over):+.3f}",
                f"{_ratio(own, seconds['raw loop']):.2f}",
                f"{_ratio(own, seconds['bare Trainer']):.2f}",
            )
        table.add_section()
    Console(width=110).print(table)


def _ratio(mine: list[float], theirs: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(mine, theirs, strict=True))


if __name__ == "__main__":
    main()
