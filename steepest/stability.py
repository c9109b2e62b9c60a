"""`steepest stability`: largest stable learning rates and best constants on a spectrum, predicted and measured."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

from diagnostics.artifacts import save_figure, save_json
from diagnostics.stability_figures import Panel, losses_around_the_limit, rate_curves
from diagnostics.stability_theory import (
    BestConstants,
    Rule,
    best_constants,
    check_spectrum,
    classical_rules,
    largest_stable_lr,
    rate,
)
from steepest.one_line_parser import OneLineParser
from steepest.stability_runs import measured_limit, measured_rate, optimizer_of, run
from steepest.stability_spectrum import parse_eigenvalues, read_spectrum

AROUND = (0.95, 1.0, 1.05)
LOSS_STEPS = 200
DOTS = (-2.5, -2.0, -1.5, -1.0, -0.6, -0.3, -0.1, 0.0, 0.003)  # log10 of learning rate over limit


@dataclass(frozen=True)
class Comparison:
    """Theory and measurement of one rule; relative errors are of the measured number to the predicted one.

    Attributes:
        rule: The rule.
        limit: Largest stable learning rate, predicted.
        measured_limit: The same by bisection with the real optimizer.
        lr: A learning rate.
        rate: Factor per step there, predicted.
        measured_rate: The same, fitted to a run.
        best: Best constants, with the rate they promise.
        measured_best_rate: The rate they have.
    """

    rule: Rule
    limit: float
    measured_limit: float
    lr: float
    rate: float
    measured_rate: float
    best: BestConstants
    measured_best_rate: float

    def row(self) -> dict[str, Any]:
        """Everything as plain values."""
        name, options = optimizer_of(self.rule)
        errors = {
            "limit_error": self.measured_limit / self.limit - 1,
            "rate_error": self.measured_rate / self.rate - 1 if self.rate else 0.0,
            "best_rate_error": self.measured_best_rate / self.best.rate - 1 if self.best.rate else 0.0,
        }
        return {**asdict(self), "optimizer": name, "options": options, **errors}


def compare(rule: Rule, curvatures: Tensor, lr: float | None = None) -> Comparison:
    """Predict and measure.

    Args:
        rule: The rule.
        curvatures: The spectrum, shape (count,), ascending.
        lr: Learning rate whose rate is wanted; None takes half the largest stable one.
    """
    limit = largest_stable_lr(rule, float(curvatures[-1]))
    lr = limit / 2 if lr is None else lr
    best = best_constants(rule, float(curvatures[0]), float(curvatures[-1]))
    return Comparison(
        rule,
        limit,
        measured_limit(rule, curvatures),
        lr,
        rate(rule, lr, curvatures),
        measured_rate(rule, lr, curvatures),
        best,
        measured_rate(best.rule, best.lr, curvatures),
    )


def run_stability(words: Sequence[str]) -> None:
    """Print the tables, and write figures and `stability.json` into a folder if one is given.

    Args:
        words: Options, see `steepest stability --help`.
    """
    parser = OneLineParser(
        prog="steepest stability",
        description="Largest stable learning rates, best constants and rates of the classical optimizers on a "
        "quadratic with given eigenvalues: predicted in closed form, and measured with the real optimizers.",
        allow_abbrev=False,
    )
    parser.add_argument("--eigenvalues", metavar="1,10,100", help="eigenvalues of the Hessian, above 0")
    parser.add_argument(
        "--spectrum", metavar="FILE", help="read them from a run's sharpness.json, or from a text of numbers"
    )
    parser.add_argument("--momentum", type=float, default=0.9, help="in (0, 1), for all that have it (default 0.9)")
    parser.add_argument(
        "--zero", type=float, help="of AutoSGM's filter, at most the momentum (default: half of Nesterov's)"
    )
    parser.add_argument("--weight_decay", type=float, default=0.1, help="of the rules with decay (default 0.1)")
    parser.add_argument(
        "--preconditioner", type=float, default=1.0, help="root of the adaptive rules' second moment (default 1)"
    )
    parser.add_argument("--lr", type=float, help="learning rate whose rate is shown (default: half of each limit)")
    parser.add_argument("--output", metavar="FOLDER", help="write figures (PNG, SVG) and stability.json there")
    # argparse takes a value that begins with a minus sign for an option.
    options = parser.parse_args([*_joined(words, "--eigenvalues")])
    if not 0 < options.momentum < 1:
        raise ValueError(f"--momentum must be in (0, 1), got {options.momentum:g}")
    if options.lr is not None and not 0 < options.lr < math.inf:
        raise ValueError(f"--lr must be a number above 0, got {options.lr:g}")
    if options.output is not None and Path(options.output).is_file():
        raise ValueError(f"--output: {options.output} is a file, not a folder")
    curvatures, note = _curvatures(options)
    rules = classical_rules(options.momentum, options.zero, options.weight_decay, options.preconditioner)
    comparisons = [compare(rule, curvatures, options.lr) for rule in rules]
    _print(comparisons, curvatures, note)
    if options.output is not None:
        _write(comparisons, curvatures, Path(options.output))


def _joined(words: Sequence[str], option: str) -> list[str]:
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == option:
            joined[-1] = f"{option}={word}"
        else:
            joined.append(word)
    return joined


def _curvatures(options: Any) -> tuple[Tensor, str | None]:
    if (options.eigenvalues is None) == (options.spectrum is None):
        raise ValueError("give either --eigenvalues 1,10,100 or --spectrum FILE")
    if options.eigenvalues is not None:
        return check_spectrum(parse_eigenvalues(options.eigenvalues, "--eigenvalues")), None
    values, note = read_spectrum(Path(options.spectrum))
    return check_spectrum(values), note


def _print(comparisons: Sequence[Comparison], curvatures: Tensor, note: str | None) -> None:
    console = Console(soft_wrap=True)
    low, high = float(curvatures[0]), float(curvatures[-1])
    text = f"eigenvalues: {len(curvatures)} from {low:g} to {high:g}, condition number {high / low:g}"
    console.print(f"{text}; {note}" if note else text, highlight=False)
    limits = _table("largest stable learning rate", "predicted", "measured", "error")
    chosen = _table("factor per step at a learning rate", "learning rate", "predicted", "measured", "error")
    best = _table(
        "factor per step at the best constants", "learning rate", "momentum", "predicted", "measured", "error"
    )
    for found in comparisons:
        row, constants = found.row(), found.best
        name = found.rule.name
        limits.add_row(name, f"{found.limit:.6g}", f"{found.measured_limit:.6g}", f"{row['limit_error']:+.0e}")
        rates = f"{found.rate:.6f}", f"{found.measured_rate:.6f}", f"{row['rate_error']:+.0e}"
        chosen.add_row(name, f"{found.lr:.4g}", *rates)
        momentum = "" if constants.rule.form == "plain" else f"{constants.rule.momentum:.4f}"
        rates = f"{constants.rate:.6f}", f"{found.measured_best_rate:.6f}", f"{row['best_rate_error']:+.0e}"
        best.add_row(name, f"{constants.lr:.4g}", momentum, *rates)
    for table in (limits, chosen, best):
        console.print(table)


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("optimizer", no_wrap=True)
    for header in headers:
        table.add_column(header, justify="right")
    return table


def _write(comparisons: Sequence[Comparison], curvatures: Tensor, folder: Path) -> None:
    panels = [_panel(found, curvatures) for found in comparisons]
    save_figure(rate_curves(panels, curvatures), folder, "stability_rates")
    save_figure(losses_around_the_limit(panels), folder, "stability_losses")
    content = {"eigenvalues": curvatures.tolist(), "rules": [found.row() for found in comparisons]}
    save_json(content, folder / "stability.json")
    for name in ("stability_rates.png", "stability_losses.png", "stability.json"):
        print(f"{'figure' if name.endswith('png') else 'table':<7} {folder / name}")


def _panel(found: Comparison, curvatures: Tensor) -> Panel:
    lrs = [found.limit * 10**exponent for exponent in DOTS]
    measured = [measured_rate(found.rule, lr, curvatures) for lr in lrs]
    losses = {}
    for factor in AROUND:
        weights = run(found.rule, factor * found.limit, curvatures, LOSS_STEPS)
        loss = weights.square() @ curvatures
        losses[factor] = loss / loss[0]
    return Panel(found.rule, found.limit, lrs, measured, found.best, losses)
