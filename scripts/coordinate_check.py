"""The coordinate check of muP: does mean |activation| of each layer stay the same when a network becomes wider?

It trains WidthMLP on the embedded digits, or GPT2 on TinyText, for a few steps at several widths, in the standard
parametrization and in muP, prints the exponent of the width of each layer, and draws both. muP is right where the
exponents after training are near 0; the standard parametrization shows what growth looks like.

    python scripts/coordinate_check.py --optimizer adam --lr 0.01 --output coordinate_check
    python scripts/coordinate_check.py --network gpt2 --lr 0.005

With --transfer it finds the best learning rate of each width as well: where it stays, learning rates transfer.
"""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run by path, from any folder

from steepest.datamodules.digits import Digits
from steepest.datamodules.tiny_text import TinyText
from steepest.diagnostics.common.artifacts import save_figure
from steepest.diagnostics.width.coordinate_check import Batch, coordinate_check, coordinate_figure
from steepest.diagnostics.width.transfer import best_rates, transfer_figure
from steepest.lightning_modules.networks.gpt2 import GPT2
from steepest.lightning_modules.networks.mlp import WidthMLP
from steepest.lightning_modules.networks.width_scaling import Parametrization
from steepest.optim import OPTIMIZERS

TITLES: dict[Parametrization, str] = {"standard": "standard", "mup": "muP"}
TRANSFER_STEPS = 120


@dataclass(frozen=True)
class Study:
    """What is trained on what.

    Attributes:
        build: Makes the network of a width multiplier.
        data: Where its training batches come from.
        loss: From outputs and targets to a scalar.
    """

    build: Callable[[float, Parametrization], nn.Module]
    data: Digits | TinyText
    loss: Callable[[Tensor, Tensor], Tensor]

    def batches(self, count: int) -> list[Batch]:
        """The first training batches, over as many epochs as it takes."""
        found: list[Batch] = []
        loader = self.data.train_dataloader()
        while len(found) < count:
            found += loader
        return found[:count]


def digits_mlp(base: int) -> Study:
    """Two hidden layers on images of digits."""
    data = Digits(batch_size=128)
    data.setup("fit")

    def build(width: float, parametrization: Parametrization) -> nn.Module:
        return WidthMLP((1, 8, 8), 10, base, width, parametrization=parametrization)

    return Study(build, data, cross_entropy)


def tiny_text_gpt(base: int) -> Study:
    """Two blocks on characters of a text, with heads of 16 features at every width."""
    if base < 16 or base % 16:
        raise ValueError(f"--base must be a multiple of 16, the size of a head, not {base}")
    data = TinyText(block_size=32, batch_size=8, seed=0)
    data.setup("fit")

    def build(width: float, parametrization: Parametrization) -> nn.Module:
        return GPT2(data.vocabulary_size, 32, 2, base // 16, base, width, parametrization=parametrization)

    def loss(scores: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(scores.flatten(0, 1), targets.flatten())

    return Study(build, data, loss)


NETWORKS = {"mlp": digits_mlp, "gpt2": tiny_text_gpt}


def main() -> None:
    """Parse the options, run the check, print the table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="mlp", help="WidthMLP (default) or GPT2")
    parser.add_argument("--optimizer", default="adam", help="of the registry, with muP (default: adam)")
    parser.add_argument("--lr", type=float, default=0.01, help="at the base width (default: 0.01)")
    parser.add_argument("--base", type=int, default=64, help="width at multiplier 1 (default: 64)")
    parser.add_argument("--widths", type=float, nargs="+", default=[1, 2, 4, 8], help="multipliers of the base")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps (default: 3)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--transfer", action="store_true", help="find the best learning rates too: takes minutes")
    parser.add_argument("--output", default="coordinate_check", help="folder of the figures (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        check(options)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def check(options: argparse.Namespace) -> None:
    """Run the check with parsed options."""
    console = Console()
    study = NETWORKS[options.network](options.base)
    batches = study.batches(max(options.steps, TRANSFER_STEPS if options.transfer else 0))

    def optimizer(module: nn.Module, lr: float = options.lr) -> torch.optim.Optimizer:
        return OPTIMIZERS.create(options.optimizer, module, lr=lr)

    checks, rates = {}, {}
    for parametrization, title in TITLES.items():

        def build(width: float, parametrization: Parametrization = parametrization) -> nn.Module:
            return study.build(width, parametrization)

        checks[title] = coordinate_check(
            build, optimizer, study.loss, batches, options.widths, options.steps, range(options.seeds)
        )  # fmt: skip
        if options.transfer:
            rates[title] = best_rates(
                build, optimizer, study.loss, batches[:TRANSFER_STEPS], options.widths,
                [2.0**exponent for exponent in range(-12, 0)], range(options.seeds),
            )  # fmt: skip

    table = Table("layer", *TITLES.values(), title=f"exponent of the width after {options.steps} steps")
    slopes = {title: check.slopes() for title, check in checks.items()}
    for layer in next(iter(checks.values())).layers:
        table.add_row(layer, *(f"{slopes[title][layer]:+.2f}" for title in checks))
    console.print(table)
    folder = Path(options.output)
    save_figure(coordinate_figure(checks), folder, "coordinate_check")
    console.print(f"figure: {folder / 'coordinate_check.png'}")
    if rates:
        table = Table("parametrization", *(f"x {width:g}" for width in options.widths), "shift in octaves")
        table.title = "log2 of the best learning rate"
        for title, found in rates.items():
            table.add_row(title, *(f"{math.log2(rate):.2f}" for rate in found.best), f"{found.shift:+.2f}")
        console.print(table)
        save_figure(transfer_figure(rates), folder, "width_transfer")
        console.print(f"figure: {folder / 'width_transfer.png'}")


if __name__ == "__main__":
    main()
