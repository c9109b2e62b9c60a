"""Figures of singular values."""

import math
from collections.abc import Sequence

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from steepest.common.history import History
from steepest.common.plotting import (
    BLUE,
    GREEN,
    VERMILION,
    dots_with_range,
    heat_map,
    height_of_rows,
    label_rows,
    positive_log10,
)
from steepest.diagnostics.spectral.monitor import FIELDS, SpectralSample

WEIGHT, OPERATOR, UPDATE = BLUE, VERMILION, GREEN
CONVOLUTION = "convolution as an operator"


def by_layer(sample: SpectralSample, history: History) -> Figure:
    """The last norms and stable ranks of every matrix, of weights and updates, with their range over the run.

    Args:
        sample: The last sample, the newest of `history`.
        history: All samples, for the ranges.

    Returns:
        A figure with the first layer at the top: norms on the left, stable ranks on the right, both logarithmic.
    """
    seen = {field: history.of(field, sample.names) for field in FIELDS}
    figure = Figure(figsize=(12.0, height_of_rows(len(sample.names)) + 0.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    dots_with_range(left, sample.norms, seen["norms"], WEIGHT, "weight")
    if not _all_nan(sample.operator_norms):
        dots_with_range(
            left, sample.operator_norms, seen["operator_norms"], OPERATOR, "convolution as an operator", "D"
        )
    dots_with_range(right, sample.stable_ranks, seen["stable_ranks"], WEIGHT, "weight")
    if not _all_nan(sample.update_norms):
        dots_with_range(left, sample.update_norms, seen["update_norms"], UPDATE, "last update", "s")
        dots_with_range(right, sample.update_stable_ranks, seen["update_stable_ranks"], UPDATE, "last update", "s")
    rows = range(len(sample.names))
    right.scatter(sample.sizes, rows, color="black", marker="|", s=60, linewidths=1.2, label="largest possible")
    left.set_xlabel(r"largest singular value, $\|W\|_2$ and $\|\Delta W\|_2$")
    right.set_xlabel(r"stable rank, $\|W\|_F^2\,/\,\|W\|_2^2$")
    left.set_title(f"Spectral norm by layer at step {history.steps[-1]:,}", loc="left")
    left.set_ylim(len(sample.names) - 0.4, -0.6)
    if not any(norm > 0 for norm in sample.norms):
        left.set_xlim(0.1, 1.0)  # a logarithmic axis needs something to show
    for axes in (left, right):
        axes.set_xscale("log")
        axes.grid(axis="x", color="0.85", linewidth=0.6)
        axes.set_axisbelow(True)
    label_rows(left, list(sample.names), offset=0.0)
    right.tick_params(axis="y", length=0)
    handles, labels = left.get_legend_handles_labels()
    more, texts = right.get_legend_handles_labels()
    labels_seen = dict(zip([*labels, *texts], [*handles, *more], strict=True))
    if len(history) > 1:
        labels_seen["range over the run"] = left.plot([], [], color="0.5", linewidth=3.0, alpha=0.6)[0]
    figure.legend(
        labels_seen.values(), labels_seen.keys(), loc="outside lower center", ncols=len(labels_seen), frameon=False
    )
    return figure


def heat_maps(sample: SpectralSample, history: History) -> Figure:
    """Norm, relative update and stable rank of every matrix over the run, as heat maps side by side.

    Args:
        sample: The last sample, the newest of `history`.
        history: All samples.

    Returns:
        A figure with steps from left to right, the first layer at the top and logarithmic colors. Gray means zero, not
        finite or not measured; the panel of updates is left out if there are none.
    """
    seen = {field: history.of(field, sample.names) for field in FIELDS}
    sizes = torch.tensor(sample.sizes, dtype=torch.float32)
    panels = [
        ("Norm of the weight", seen["norms"], "viridis", r"$\log_{10}\,\|W\|_2$"),
        (
            "Relative update",
            seen["update_norms"] / seen["norms"],
            "magma",
            r"$\log_{10}\,(\|\Delta W\|_2 / \|W\|_2)$",
        ),
        (
            "Stable rank of the weight",
            seen["stable_ranks"] / sizes,
            "cividis",
            r"$\log_{10}$ (stable rank / full rank)",
        ),
        (
            "Stable rank of the update",
            seen["update_stable_ranks"] / sizes,
            "cividis",
            r"$\log_{10}$ (stable rank / full rank)",
        ),
    ]
    panels = [panel for panel in panels if not torch.isnan(panel[1]).all()] or panels[:1]
    figure = Figure(
        figsize=(2.0 + 3.6 * len(panels), max(3.8, height_of_rows(len(sample.names)))), layout="constrained"
    )
    for axes, (title, table, colors, label) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
    ):
        _heat_map(figure, axes, history.steps, table, colors, label)
        axes.set_title(title, loc="left")
        if axes.get_subplotspec().is_first_col():
            axes.set_ylim(len(sample.names), 0)
            label_rows(axes, list(sample.names), offset=0.5)
        else:
            axes.tick_params(axis="y", length=0)
    return figure


def spectra(sample: SpectralSample, step: int) -> Figure:
    """All singular values of every matrix, and of its last update, relative to the largest.

    Args:
        sample: A sample with spectra.
        step: The optimizer step it was taken at.

    Returns:
        A figure with one line per matrix, colored by its place in the network.
    """
    kept = [
        (title, values)
        for title, values in (("weights", sample.spectra), ("last update", sample.update_spectra))
        if values
    ]
    figure = Figure(figsize=(1.5 + 5.0 * len(kept), 4.2), layout="constrained")
    colors = colormaps["viridis"]
    last = max(1, len(sample.names) - 1)
    panels = figure.subplots(1, len(kept), sharey=True, squeeze=False)[0]
    for axes, (title, spectra_of) in zip(panels, kept, strict=True):
        for index, name in enumerate(sample.names):
            values = spectra_of.get(name, [])
            if not values or not values[0] > 0:
                continue
            places = [place / max(1, len(values) - 1) for place in range(len(values))]
            heights = [value / values[0] if value > 0 else math.nan for value in values]
            axes.plot(places, heights, color=colors(index / last), linewidth=1.2)
        if not axes.lines:
            axes.set_ylim(0.1, 1.0)
        axes.set_yscale("log")
        axes.set_title(f"Singular values of the {title} at step {step:,}", loc="left", fontsize=11)
        axes.set_xlabel("place in the order, from the largest (0) to the smallest (1)")
        axes.grid(color="0.9", linewidth=0.6)
    panels[0].set_ylabel(r"singular value over the largest, $\sigma_i / \sigma_1$")
    bar = figure.colorbar(ScalarMappable(Normalize(0, last), colors), ax=panels, pad=0.01, aspect=40)
    shown = sorted({0, last // 2, last}) if len(sample.names) > 1 else [0]
    bar.set_ticks(shown, labels=[sample.names[index] for index in shown], fontsize=7)
    return figure


def _heat_map(figure: Figure, axes: Axes, steps: Sequence[int], table: Tensor, colors: str, label: str) -> None:
    logs = positive_log10(table)
    finite = logs[torch.isfinite(logs)]
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (-1.0, 0.0)
    heat_map(figure, axes, steps, logs, colors, (low - 0.02, high + 0.02), label)
    axes.set_xlabel("optimizer step")


def _all_nan(values: Sequence[float]) -> bool:
    return all(math.isnan(value) for value in values)
