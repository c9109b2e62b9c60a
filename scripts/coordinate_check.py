"""The coordinate check of muP: does mean |activation| of each layer stay the same when a network becomes wider?

It trains WidthMLP on the embedded digits for a few steps at several widths, in the standard parametrization and in muP,
prints the exponent of the width of each layer, and draws both. muP is right where the exponents after training are near
0; the standard parametrization shows what growth looks like.

    python scripts/coordinate_check.py --optimizer adam --lr 0.01 --output coordinate_check

With --transfer it finds the best learning rate of each width as well: where it stays, learning rates transfer.
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run by path, from any folder

from datamodules import Digits
from diagnostics.artifacts import save_figure
from diagnostics.coordinate_check import Batch, coordinate_check, coordinate_figure
from diagnostics.width_transfer import best_rates, transfer_figure
from lightning_modules.networks import WidthMLP
from lightning_modules.networks.width_scaling import Parametrization
from optim import OPTIMIZERS

TITLES: dict[Parametrization, str] = {"standard": "standard", "mup": "muP"}


def batches(count: int, size: int) -> list[Batch]:
    """Training batches of digits: images (size, 1, 8, 8) and labels."""
    data = Digits(batch_size=size)
    data.setup("fit")
    found: list[Batch] = []
    loader = data.train_dataloader()
    while len(found) < count:
        found += loader
    return found[:count]


def main() -> None:
    """Parse the options, run the check, print the table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", default="adam", help="of the registry, with muP (default: adam)")
    parser.add_argument("--lr", type=float, default=0.01, help="at the base width (default: 0.01)")
    parser.add_argument("--base", type=int, default=64, help="hidden width at multiplier 1 (default: 64)")
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

    def optimizer(module: nn.Module, lr: float = options.lr) -> torch.optim.Optimizer:
        return OPTIMIZERS.create(options.optimizer, module, lr=lr)

    checks, rates = {}, {}
    for parametrization, title in TITLES.items():

        def build(width: float, parametrization: Parametrization = parametrization) -> nn.Module:
            return WidthMLP((1, 8, 8), 10, options.base, width, parametrization=parametrization)

        checks[title] = coordinate_check(
            build, optimizer, cross_entropy, batches(options.steps, 128), options.widths, options.steps,
            range(options.seeds),
        )  # fmt: skip
        if options.transfer:
            rates[title] = best_rates(
                build, optimizer, cross_entropy, batches(120, 128), options.widths,
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
