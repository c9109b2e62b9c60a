"""What the diagnostics cost: CPU time on one thread, contestants interleaved in one process, medians over rounds.

    python benchmarks/diagnostics_cost.py [--only share|idle] [--rounds 3] [--repeats 4]

`share`: the share of the training time that the default set of callbacks takes on SmallCNN and ResNet-18 (CIFAR-10's
shapes). Each diagnostic measures at every fourth step of a short run, over its whole cycle of cheap and thorough
measurements; what the measured steps and those right before them take more than the others around them, over the
default interval between two measurements, is its share of a long run. The other default callbacks are idle throughout.

`idle`: what a callback adds to a step at which it does nothing: ten copies of it in one Trainer on a tiny network.
"""

import argparse
import contextlib
import io
import logging
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torchvision
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from marked_batches import MarkedBatches
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

import steepest.callbacks as callbacks
from steepest.command_line.trainer import Trainer
from steepest.lightning_modules.networks import SmallCNN
from steepest.optim.classical.torch_optimizers import adamw

NEVER = 1_000_000_000
COPIES = 10
PERIOD = 4  # steps from one measurement to the next, two of which have nothing to do with any
WARM_UP = 8  # steps before the clock starts, where caches and lazy states settle


class Batches(MarkedBatches):
    """Batches that tell the time of each step."""

    def seconds(self, first: int) -> list[float]:
        """CPU time of each step from the one of this number on, counted from 1."""
        return [after - before for before, after in pairwise(self.marks[first - 1 :])]


class Classifier(LightningModule):
    """Cross-entropy with AdamW: nothing but a step."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adamw(self, lr=1e-3)


def seconds_of(
    make: Callable[[], nn.Module], batches: Batches, used: Sequence[Callback], first: int = 1
) -> list[float]:
    """CPU seconds of each step with these callbacks, from step `first` on; the end of the run is outside."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        logger = TensorBoardLogger(folder, name="run", default_hp_metric=False)
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=[logger, CSVLogger(folder, name="run", version=logger.version)],
            callbacks=list(used),
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.run_folder = logger.log_dir  # type: ignore[assignment]
        trainer.fit(Classifier(make()), batches)
    return batches.seconds(first)


# --- share ------------------------------------------------------------------------------------------------------------

NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], int]] = {
    "SmallCNN, batch 128": (lambda: SmallCNN(input_shape=(3, 32, 32)), 128),
    "ResNet-18, batch 128": (lambda: torchvision.models.resnet18(num_classes=10), 128),
}
# By diagnostic of the default set, how many measurements its cycle of cheap and thorough ones has.
CYCLES = {"GradientFlowMonitor": 5, "SpectralNormTracker": 20, "UpdateDynamics": 5}


def share_tables(rounds: int, repeats: int) -> Iterator[Table]:
    """The share of the training time that each diagnostic of the default set takes, and the whole set."""
    for network, (make, size) in NETWORKS.items():
        yield _share_table(network, make, (3, 32, 32), size, rounds)


def _share_table(network: str, make: Callable[[], nn.Module], shape: tuple[int, ...], size: int, rounds: int) -> Table:
    steps: list[float] = []
    extra: dict[str, list[float]] = {name: [] for name in CYCLES}
    for _ in range(rounds):
        for name, cycle in CYCLES.items():
            last = WARM_UP + PERIOD * cycle
            callback = _dense(name, range(WARM_UP + PERIOD, last + 1, PERIOD))
            seconds = seconds_of(make, Batches(shape, size, last), [callback], WARM_UP + 1)
            idle = statistics.median([own for place, own in enumerate(seconds) if place % PERIOD < PERIOD - 2])
            steps.append(idle)
            busy = [own for place, own in enumerate(seconds) if place % PERIOD >= PERIOD - 2]
            extra[name].append((sum(busy) - len(busy) * idle) / cycle)
    table = Table("what", "every", "CPU ms", "share of the training, %", title=f"default set on {network}")
    step = statistics.median(steps)
    table.add_row("a training step", "", f"{1e3 * step:.1f}", "")
    total = 0.0
    for name in CYCLES:
        every = getattr(callbacks, name)().cadence.every_n_steps
        cost = statistics.median(extra[name])
        total += cost / (every * step)
        table.add_row(name, f"{every} steps", f"{1e3 * cost:.1f}", f"{100 * cost / (every * step):.2f}")
    table.add_row("all three, in a long run", "", "", f"{100 * total:.2f}")
    return table


def _dense(name: str, at_steps: Sequence[int]) -> Callback:
    return getattr(callbacks, name)(every_n_steps=None, at_steps=list(at_steps), figures=False)


# --- idle -------------------------------------------------------------------------------------------------------------

IDLE: Mapping[str, Callable[[type], Callback]] = {
    "GradientFlowMonitor": lambda kind: kind(every_n_steps=NEVER, figures=False),
    "SpectralNormTracker": lambda kind: kind(every_n_steps=NEVER, figures=False),
    "UpdateDynamics": lambda kind: kind(every_n_steps=NEVER, figures=False),
    "LearningRateTracker": lambda kind: kind(every_n_steps=NEVER),
    "SharpnessProbe": lambda kind: kind(every_n_steps=NEVER, figures=False),
    "GradientNoiseScale": lambda kind: kind(every_n_steps=NEVER, figures=False),
    "a hook that returns": lambda kind: kind(),
}


class Idle(Callback):
    """The price of being called at all."""

    def on_train_batch_end(self, *arguments: Any) -> None: ...


def _tiny() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))


def idle_tables(rounds: int, repeats: int) -> Iterator[Table]:
    """Microseconds that each callback adds to a step at which it is not due."""
    steps = 300 * repeats
    batches = Batches((64,), 8, 100 + steps)
    seconds: dict[str, list[float]] = {name: [] for name in ("", *IDLE)}
    for _ in range(rounds):
        for name, own in seconds.items():
            kind: type = getattr(callbacks, name, Idle)
            # Lightning tells callbacks apart by their class.
            used = [IDLE[name](type(f"{name}{copy}", (kind,), {})) for copy in range(COPIES)] if name else []
            own.append(sum(seconds_of(_tiny, batches, used, first=101)))
    table = Table("callback", "added to an idle step, CPU µs", "over rounds", title="idle step of each callback")
    for name in IDLE:
        added = [1e6 * (own - base) / COPIES / steps for own, base in zip(seconds[name], seconds[""], strict=True)]
        table.add_row(name, f"{statistics.median(added):.1f}", f"{min(added):.1f} to {max(added):.1f}")
    table.caption = f"a step without callbacks: {1e6 * statistics.median(seconds['']) / steps:.0f} µs"
    yield table


# --- the command ------------------------------------------------------------------------------------------------------

TABLES: Mapping[str, Callable[[int, int], Iterable[Table]]] = {"share": share_tables, "idle": idle_tables}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(TABLES), help="one kind of table")
    parser.add_argument("--rounds", type=int, default=3, help="how often all contestants take their turn")
    parser.add_argument("--repeats", type=int, default=4, help="length of an idle run, in 300 steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    for name, tables in TABLES.items():
        if options.only in (None, name):
            for table in tables(options.rounds, options.repeats):
                Console(width=110).print(table)


if __name__ == "__main__":
    main()
