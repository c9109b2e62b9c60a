"""Does the best learning rate stay where it is when a network becomes wider (arXiv 2203.03466)?"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.diagnostics.width.coordinate_check import Batch


@dataclass(frozen=True)
class WidthTransfer:
    """Losses over widths and learning rates.

    Attributes:
        widths: The widths, in the order they were given.
        rates: The learning rates, ascending.
        losses: Loss over the last quarter of each run, averaged over seeds; float64 of shape (widths, rates), infinite
            for a run that diverged.
    """

    widths: tuple[float, ...]
    rates: tuple[float, ...]
    losses: Tensor

    @property
    def best(self) -> list[float]:
        """The best learning rate of each width: the lowest point of a parabola in log rate through the best three."""
        return [lowest_point(self.rates, row.tolist()) for row in self.losses]

    @property
    def shift(self) -> float:
        """Octaves by which the best rate of the last width is above that of the first; 0: it transfers."""
        return math.log2(self.best[-1] / self.best[0])


def best_rates(
    build: Callable[[float], nn.Module],
    make_optimizer: Callable[[nn.Module, float], Optimizer],
    loss: Callable[[Tensor, Tensor], Tensor],
    batches: Sequence[Batch],
    widths: Sequence[float],
    rates: Sequence[float],
    seeds: Sequence[int] = (0,),
) -> WidthTransfer:
    """Train networks of several widths with several learning rates, a step on each batch.

    Args:
        build: Makes the network of a width.
        make_optimizer: Makes its optimizer with a learning rate.
        loss: From outputs and targets to a scalar.
        batches: Inputs and targets, one batch a step; at least four.
        widths: At least one.
        rates: Learning rates, at least three, positive, ascending.
        seeds: Seeds of the networks' start, at least one; the global random state stays as it is.

    Returns:
        The losses.

    Raises:
        ValueError: if an argument is out of range.
    """
    if len(rates) < 3 or min(rates) <= 0 or list(rates) != sorted(set(rates)):
        raise ValueError(f"rates must be at least three positive numbers, ascending, not {list(rates)}")
    if not widths or not seeds or len(batches) < 4:
        raise ValueError("width transfer needs at least one width, one seed and four batches")
    losses = torch.zeros(len(widths), len(rates), dtype=torch.float64)
    for row, width in enumerate(widths):
        for column, rate in enumerate(rates):
            for seed in seeds:
                with torch.random.fork_rng():
                    torch.manual_seed(seed)
                    module = build(width)
                    losses[row, column] += _final_loss(module, make_optimizer(module, rate), loss, batches) / len(seeds)
    return WidthTransfer(tuple(widths), tuple(rates), losses)


def _final_loss(
    module: nn.Module, optimizer: Optimizer, loss: Callable[[Tensor, Tensor], Tensor], batches: Sequence[Batch]
) -> float:
    values = []
    for inputs, targets in batches:
        optimizer.zero_grad()
        value = loss(module(inputs), targets)
        value.backward()
        optimizer.step()
        values.append(value.detach())
    mean = float(torch.stack(values[-(len(values) // 4) :]).double().mean())
    return mean if math.isfinite(mean) else math.inf


def lowest_point(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The learning rate of the lowest point of a parabola in log rate through the lowest loss and its neighbors.

    Args:
        rates: Positive, ascending.
        losses: One for each; infinite where a run diverged.

    Returns:
        The rate of the lowest loss itself at the edge or beside a divergence.
    """
    place = min(range(len(losses)), key=lambda index: losses[index])
    if place in (0, len(rates) - 1) or not math.isfinite(losses[place + 1]) or not math.isfinite(losses[place - 1]):
        return rates[place]
    x = [math.log(rate) for rate in rates[place - 1 : place + 2]]
    y = losses[place - 1 : place + 2]
    left, right = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    if right == left:
        return rates[place]
    # Zero of the derivative, which goes linearly from `left` to `right` between the middles of the two intervals.
    middles = (x[0] + x[1]) / 2, (x[1] + x[2]) / 2
    return math.exp(middles[0] - left * (middles[1] - middles[0]) / (right - left))


def transfer_figure(transfers: Mapping[str, WidthTransfer]) -> Figure:
    """Loss over learning rate, a line for each width with its best rate marked; side by side for each parametrization.

    Args:
        transfers: By title, such as the parametrization.

    Returns:
        A figure; where learning rates transfer, all marks stand above each other.
    """
    figure = Figure(figsize=(4.2 * len(transfers) + 1.0, 4.0), layout="constrained")
    row = figure.subplots(1, len(transfers), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, transfer) in zip(row, transfers.items(), strict=True):
        for index, (width, best) in enumerate(zip(transfer.widths, transfer.best, strict=True)):
            color = colormaps["viridis"](0.9 * index / max(len(transfer.widths) - 1, 1))
            losses = [value if math.isfinite(value) else math.nan for value in transfer.losses[index].tolist()]
            axes.plot(transfer.rates, losses, color=color, marker="o", markersize=3, label=f"width x {width:g}")
            axes.axvline(best, color=color, linestyle=":", linewidth=1.2)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_title(f"{title}: best rate shifts {transfer.shift:+.2f} octaves", loc="left", fontsize=10)
        axes.set_xlabel("learning rate (dotted: best)")
        axes.grid(color="0.85", linewidth=0.6)
        axes.legend(fontsize=7)
    row[0].set_ylabel("training loss, end of the run")
    return figure
