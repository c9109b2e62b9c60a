"""Time of a step of our learning-rate range test, of Lightning's finder and of torch-lr-finder.

    python benchmarks/lr_range_test.py [--repeats 9] [--steps 150] [--threads 1]

CPU time between two forward passes, so that other processes matter little: contestants take turns, ratios are formed
within a turn, and the median over the turns is printed. Every one trains the same network on the same batches of a
plain DataLoader over a range in which nothing diverges. Lightning's `lr_find` needs a module with an attribute `lr`;
torch-lr-finder is left out where it is not installed; `make bench` installs it.
"""

import argparse
import importlib
import importlib.util
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.tuner import Tuner
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from steepest.callbacks import LRRangeTest

WARM_UP = 20  # steps before the clock starts
LOW, HIGH = 1e-6, 1e-4


MARKS: list[float] = []  # not an attribute of the network, which a range test would restore


class Clocked(nn.Module):
    """A network that notes the CPU time of its forward passes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        MARKS.clear()

    def forward(self, inputs: Tensor) -> Tensor:
        MARKS.append(time.process_time())
        return self.network(inputs)


class Module(LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.lr = 1e-3

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def raw(network: nn.Module, batches: DataLoader, steps: int) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=LOW)
    for _, (inputs, labels) in zip(range(steps), batches, strict=False):
        optimizer.zero_grad()
        functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()


def ours(network: nn.Module, batches: DataLoader, steps: int) -> None:
    test = LRRangeTest(rates=(LOW, HIGH), steps=steps, divergence=1e9, figures=False)
    _trainer(max_steps=1, callbacks=[test]).fit(Module(network), batches)


def lightning_finder(network: nn.Module, batches: DataLoader, steps: int) -> None:
    tuner = Tuner(_trainer(max_steps=1))
    tuner.lr_find(Module(network), batches, min_lr=LOW, max_lr=HIGH, num_training=steps, early_stop_threshold=None)


def torch_lr_finder(network: nn.Module, batches: DataLoader, steps: int) -> None:
    package: Any = importlib.import_module("torch_lr_finder")
    optimizer = torch.optim.AdamW(network.parameters(), lr=LOW)
    finder = package.LRFinder(network, optimizer, nn.CrossEntropyLoss(), device="cpu")
    finder.range_test(batches, end_lr=HIGH, num_iter=steps, diverge_th=1e9)
    finder.reset()


def _trainer(**options) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    return Trainer(**quiet, accelerator="cpu", devices=1, enable_model_summary=False, **options)


CONTESTANTS: dict[str, Callable[[nn.Module, DataLoader, int], None]] = {
    "raw loop, no test": raw,
    "Steepest": ours,
    "Lightning lr_find": lightning_finder,
    "torch-lr-finder": torch_lr_finder,
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "tiny (6 k parameters)": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10)),
    "MLP (102 k parameters)": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="turns of all contestants")
    parser.add_argument("--steps", type=int, default=150, help="steps of a test")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    contestants = dict(CONTESTANTS)
    if importlib.util.find_spec("torch_lr_finder") is None:
        print("torch-lr-finder: left out, torch_lr_finder is not installed")
        del contestants["torch-lr-finder"]
    generator = torch.Generator().manual_seed(0)
    count = 16 * (options.steps + 2)
    inputs, labels = torch.randn(count, 784, generator=generator), torch.randint(0, 10, (count,), generator=generator)
    batches = DataLoader(TensorDataset(inputs, labels), batch_size=16)

    for title, make in NETWORKS.items():
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(options.repeats):
            for name, contestant in contestants.items():
                torch.manual_seed(0)
                network = Clocked(make())
                silence = redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO())
                with tempfile.TemporaryDirectory() as folder, chdir(folder), silence[0], silence[1]:
                    contestant(network, batches, options.steps)
                seconds[name].append((MARKS[options.steps - 1] - MARKS[WARM_UP]) / (options.steps - 1 - WARM_UP))
        table = Table("range test", "ms / step", "ratio to Steepest", title=f"{title}, batch 16", title_justify="left")
        for name, own in seconds.items():
            ratio = statistics.median(one / other for one, other in zip(own, seconds["Steepest"], strict=True))
            table.add_row(name, f"{1e3 * statistics.median(own):.3f}", f"{ratio:.2f}")
        Console().print(table)


if __name__ == "__main__":
    main()
