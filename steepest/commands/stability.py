"""`steepest stability`: largest stable learning rates and best constants on a spectrum, predicted and measured."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.diagnostics.common.artifacts import save_figure, save_json
from steepest.diagnostics.stability.figures import Panel, losses_around_the_limit, rate_curves
from steepest.diagnostics.stability.theory import (
    BestConstants,
    Rule,
    best_constants,
    check_spectrum,
    classical_rules,
    fitted_rate,
    largest_stable_lr,
    rate,
)
from steepest.errors import OneLineParser
from steepest.optim import OPTIMIZERS

# A decay of 1 to the last digit: a second moment that is set once stands still.
FROZEN = 1 - 2.0**-53
SETTLED = 1e18  # steps after which bias correction is done

GROWTH = 1e9  # weights this many times as large as at the start have diverged
PRECISION = 1e-6  # relative, of a limit found by bisection
STEPS = 100  # enough to fit a rate to: what has died out by then says nothing

# Of the figures.
AROUND = (0.95, 1.0, 1.05)  # learning rates over the limit
LOSS_STEPS = 200
DOTS = (-2.5, -2.0, -1.5, -1.0, -0.6, -0.3, -0.1, 0.0, 0.003)  # log10 of learning rate over limit


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


def optimizer_of(rule: Rule) -> tuple[str, dict[str, Any]]:
    """Name and options, besides the learning rate, of the registered optimizer that is this rule."""
    b = rule.momentum
    if rule.form == "plain" or (rule.form == "nesterov" and b == 0):
        name, options = "sgd", {}
    elif rule.form == "nesterov":
        name, options = "nesterov", {"momentum": b}
    elif rule.form == "pole_zero":
        name, options = "autosgm", {"beta": b, "gamma": rule.zero, "adaptive": False, "debias": False}
    else:
        name, options = "momentum", {"momentum": b, "dampening": b if rule.form == "average" else 0.0}
    if rule.preconditioner is not None:
        if rule.form == "plain":
            name, options = "rmsprop", {"alpha": FROZEN, "eps": 1e-30}
        else:
            name, options = "adam", {"betas": (b, FROZEN), "eps": 1e-30}
        if rule.decoupled:
            name = "adamw"
    decay = rule.coupled + rule.decoupled
    return name, {**options, "weight_decay": decay}


def run(rule: Rule, lr: float, curvatures: Tensor, steps: int) -> Tensor:
    """Train on 0.5 sum h_i w_i^2 from equal weights, in float64.

    Args:
        rule: The rule, run by the optimizer of the registry.
        lr: Learning rate.
        curvatures: The eigenvalues h, shape (count,).
        steps: Optimizer steps.

    Returns:
        The weights relative to those at the start, shape (steps + 1, count), shorter if they diverged before the end.
    """
    # A linear layer, because weight decay applies to matrices.
    layer = nn.Linear(1, len(curvatures), bias=False, dtype=torch.float64)
    name, options = optimizer_of(rule)
    optimizer: Optimizer = OPTIMIZERS.create(name, layer, lr=lr, **options)
    weight, start = layer.weight, 1.0
    if rule.preconditioner is not None:
        # So small that a second moment with a decay of 1 to the last digit does not notice any growth.
        start = 1e-9 * rule.preconditioner / max(1.0, float(curvatures.max()))
        _freeze(optimizer, weight, rule.preconditioner)
    slopes = curvatures[:, None]
    with torch.no_grad():
        weight.fill_(start)
        seen = [weight.detach().flatten().clone()]
        for _ in range(steps):
            weight.grad = slopes * weight
            optimizer.step()
            seen.append(weight.detach().flatten().clone())
            if not float(weight.abs().max()) < GROWTH * start:
                break
    return torch.stack(seen) / start


def measured_rate(rule: Rule, lr: float, curvatures: Tensor, steps: int = STEPS) -> float:
    """Factor per step of the slowest eigenvector, fitted to a run."""
    weights = run(rule, lr, curvatures, steps)
    if len(weights) < 6:  # so fast that the last step tells
        return float((weights[-1] / weights[-2]).abs().max())
    return fitted_rate(weights)


def measured_limit(rule: Rule, curvatures: Tensor) -> float:
    """Largest learning rate at which the weights do not grow, by bisection; the theory is not asked."""
    return bisect(lambda lr: measured_rate(rule, lr, curvatures) > 1, 1 / float(curvatures.max()))


def bisect(diverges: Callable[[float], bool], start: float) -> float:
    """The number at which `diverges` turns from false to true, to a millionth.

    Args:
        diverges: Called with positive numbers.
        start: Where to begin, by doubling and halving.
    """
    low = start
    while diverges(low):
        low /= 2
    high = 2 * low
    while not diverges(high):
        low, high = high, 2 * high
    while high > low * (1 + PRECISION):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if diverges(middle) else (middle, high)
    return math.sqrt(low * high)


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


def parse_eigenvalues(text: str, source: str) -> list[float]:
    """Numbers apart by commas or white space; what follows a # in a line is a comment.

    Args:
        text: The text.
        source: Where it is from, for messages.

    Raises:
        ValueError: if a word is not a number.
    """
    lines = [line.partition("#")[0] for line in text.splitlines()]
    values = []
    for word in " ".join(lines).replace(",", " ").split():
        try:
            values.append(float(word))
        except ValueError:
            raise ValueError(f"{source}: {word[:40]!r} is not a number") from None
    return values


def read_spectrum(path: Path) -> tuple[list[float], str | None]:
    """Eigenvalues of a file: the `sharpness.json` of a run, or a text of numbers.

    Args:
        path: A file with the suffix .json is taken for a report of SharpnessProbe: its last eigenvalues, and the nodes
            of its density if there is one. Negative curvature, along which no learning rate converges, is left out of a
            measured spectrum, and said.

    Returns:
        The eigenvalues, and what was left out in words, if anything.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else, or no positive eigenvalue.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--spectrum: there is no file {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"--spectrum: {path} is not a text file") from None
    if path.suffix.lower() != ".json":
        return parse_eigenvalues(text, f"--spectrum {path}"), None
    try:
        measured = _measured(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"--spectrum: {path}, line {error.lineno} is not JSON: {error.msg}") from None
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"--spectrum: {path} is not the sharpness.json that SharpnessProbe writes") from None
    kept = [value for value in measured if value > 0]
    if not kept:
        raise ValueError(f"--spectrum: {path} holds no eigenvalue above 0, so there is no limit")
    left_out = len(measured) - len(kept)
    verb = "is" if left_out == 1 else "are"
    note = f"{left_out} of {len(measured)} eigenvalues {verb} not above 0 and left out"
    return kept, note if left_out else None


def _freeze(optimizer: Optimizer, weight: Tensor, preconditioner: float) -> None:
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    state = optimizer.state[weight]
    state["step"].fill_(SETTLED)
    state["exp_avg_sq" if "exp_avg_sq" in state else "square_avg"].fill_(preconditioner**2)


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


def _measured(report: Any) -> list[float]:
    last = report["last"]
    density = last.get("density") or {"nodes": []}
    return sorted({float(value) for value in (*last["eigenvalues"], *density["nodes"])})
