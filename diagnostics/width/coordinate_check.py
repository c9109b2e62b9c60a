"""Do activations keep their size when a network becomes wider? The coordinate check of muP (arXiv 2203.03466)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest.diagnostics.common.guards import hooks_removed, measurement_mode

Batch = tuple[Tensor, Tensor]
LAYERS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class CoordinateCheck:
    """Mean |activation| of each layer over widths and steps.

    Attributes:
        widths: The widths, in the order they were given.
        layers: Names of the layers.
        activations: Mean |output| of each layer on the first batch, averaged over seeds; float64 of shape
            (steps + 1, widths, layers), the first row before training.
    """

    widths: tuple[float, ...]
    layers: tuple[str, ...]
    activations: Tensor

    def slopes(self, step: int = -1) -> dict[str, float]:
        """How each layer's activation grows: the exponent a of width^a, by least squares on logarithms.

        0 is flat. Standard parametrization under Adam lets hidden layers grow; muP keeps all near 0, but at step 0 its
        output layer may shrink, with exponent -1/2.

        Args:
            step: Row of `activations`.

        Returns:
            Exponents by layer; NaN where an activation is 0 or not finite.
        """
        logarithms = torch.tensor([math.log(width) for width in self.widths], dtype=torch.float64)
        centered = logarithms - logarithms.mean()
        values = self.activations[step].log()  # (widths, layers)
        slopes = (centered @ values / centered.square().sum()).tolist()
        return {
            layer: slope if math.isfinite(slope) else math.nan for layer, slope in zip(self.layers, slopes, strict=True)
        }


def coordinate_check(
    build: Callable[[float], nn.Module],
    make_optimizer: Callable[[nn.Module], Optimizer],
    loss: Callable[[Tensor, Tensor], Tensor],
    batches: Sequence[Batch],
    widths: Sequence[float],
    steps: int = 5,
    seeds: Sequence[int] = (0,),
) -> CoordinateCheck:
    """Train networks of several widths for a few steps and measure mean |activation| of each layer.

    Args:
        build: Makes the network of a width (a width or a multiplier: only ratios matter).
        make_optimizer: Makes its optimizer. Take a large learning rate: a small one hides what grows.
        loss: From outputs and targets to a scalar.
        batches: Inputs and targets; step t trains on batch t, over and over. Activations are those of the first one,
            in evaluation mode.
        widths: At least two different ones, positive.
        steps: Number of optimizer steps, at least 1.
        seeds: Seeds of the networks' start, at least one; the global random state stays as it is.

    Returns:
        The activations of all linear, convolution and embedding layers.

    Raises:
        ValueError: if an argument is out of range or the networks differ in more than their widths.
    """
    if len(set(widths)) < 2 or min(widths) <= 0:
        raise ValueError(f"widths must be at least two different positive numbers, not {list(widths)}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if not batches or not seeds:
        raise ValueError("the coordinate check needs at least one batch and one seed")
    names: list[str] | None = None
    total = torch.zeros(())
    for seed in seeds:
        rows = []
        for width in widths:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                module = build(width)
                found, activations = _run(module, make_optimizer(module), loss, batches, steps)
            names = found if names is None else names
            if found != names:
                raise ValueError(f"networks of different widths must have the same layers, not {names} and {found}")
            rows.append(activations)
        total = total + torch.stack(rows, dim=1)
    return CoordinateCheck(tuple(widths), tuple(names or ()), total / len(seeds))


def _run(
    module: nn.Module,
    optimizer: Optimizer,
    loss: Callable[[Tensor, Tensor], Tensor],
    batches: Sequence[Batch],
    steps: int,
) -> tuple[list[str], Tensor]:
    """Names of the layers, and their activations of shape (steps + 1, layers)."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, LAYERS)}
    rows = [_activations(module, layers, batches[0][0])]
    for step in range(steps):
        inputs, targets = batches[step % len(batches)]
        optimizer.zero_grad()
        loss(module(inputs), targets).backward()
        optimizer.step()
        rows.append(_activations(module, layers, batches[0][0]))
    return list(layers), torch.stack(rows)


@torch.no_grad()
def _activations(module: nn.Module, layers: Mapping[str, nn.Module], inputs: Tensor) -> Tensor:
    found: dict[str, Tensor] = {}

    def measure(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(layer: nn.Module, arguments: object, output: Tensor) -> None:
            found[name] = output.double().abs().mean()

        return hook

    handles = [layer.register_forward_hook(measure(name)) for name, layer in layers.items()]
    with hooks_removed(handles), measurement_mode(module, "running"):
        module(inputs)
    unused = [name for name in layers if name not in found]
    if unused:
        raise ValueError(f"layer {unused[0]!r} is not used in the network's forward pass")
    return torch.stack([found[name] for name in layers]).cpu()


def coordinate_figure(checks: Mapping[str, CoordinateCheck], label: str = "width multiplier") -> Figure:
    """Mean |activation| over width, before training and after the last step, side by side for each check.

    Args:
        checks: By title, such as the parametrization.
        label: What the widths are, with their unit.

    Returns:
        A figure with a column for each check; horizontal lines mean that width does not matter.
    """
    figure = Figure(figsize=(5.2 * len(checks), 6.4), layout="constrained")
    grid = figure.subplots(2, len(checks), sharex=True, sharey="row", squeeze=False)
    for column, (title, check) in enumerate(checks.items()):
        last = len(check.activations) - 1
        for axes, step in zip(grid[:, column], (0, last), strict=True):
            slopes = check.slopes(step)
            for index, layer in enumerate(check.layers):
                color = colormaps["viridis"](0.9 * index / max(len(check.layers) - 1, 1))
                exponent = "" if math.isnan(slopes[layer]) else f"  {slopes[layer]:+.2f}"
                axes.plot(
                    check.widths, check.activations[step, :, index], color=color, marker="o", markersize=4,
                    label=f"{layer}{exponent}",
                )  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            when = "before training" if step == 0 else f"after {step} steps"
            axes.set_title(f"{title}, {when}", loc="left", fontsize=10)
            axes.grid(color="0.85", linewidth=0.6)
            axes.legend(fontsize=7, title="layer, exponent", title_fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        grid[1, column].set_xlabel(label)
    for axes in grid[:, 0]:
        axes.set_ylabel("mean |activation|")
    return figure
