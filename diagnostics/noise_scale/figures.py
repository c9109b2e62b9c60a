"""The figure of the gradient noise scale."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from steepest.common.history import History
from steepest.common.plotting import BLUE, GREEN, VERMILION, light_grid
from steepest.diagnostics.noise_scale.noise_scale import NoiseScale

SCALE, BATCH, SIGNAL, NOISE, DIFFERENCE = BLUE, "black", GREEN, VERMILION, "0.6"


def noise_scale(result: NoiseScale, history: History) -> Figure:
    """The noise scale with its interval beside the batch size, and below signal and noise in the batch's gradient.

    Args:
        result: What the average says last.
        history: All measurements.

    Returns:
        A figure of two panels over the optimizer steps, both logarithmic; values that are not positive are gaps.
    """
    table = history.table()
    steps = table["steps"]
    figure = Figure(figsize=(8.0, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    scale, low, high = (_positive(table[field]) for field in ("scale", "low", "high"))
    seen = [value for value in (*scale, *low, *high, *table["batch_size"]) if 0.0 < value < math.inf]
    top = 3.0 * max(seen)
    # An interval without an upper end goes up to the frame.
    upper = [top * 10 if math.isinf(value) else value for value in table["high"]]
    lower = [value if value > 0 or math.isnan(value) else min(seen) / 10 for value in table["low"]]
    above.fill_between(steps, lower, upper, color=SCALE, alpha=0.2, linewidth=0.0, label="95 % interval")
    dots = "o" if len(steps) <= 30 else ""
    above.plot(steps, scale, color=SCALE, marker=dots, markersize=4, label=r"noise scale, $\mathrm{tr}\,S / |G|^2$")
    above.plot(steps, table["batch_size"], color=BATCH, linestyle="--", linewidth=1.2, label="batch measured on")
    above.set_ylim(min(seen) / 3.0, top)
    above.set_ylabel("samples")
    above.set_title(f"Gradient noise scale: {result.verdict}", loc="left", fontsize=10)

    noise = [trace / size for trace, size in zip(table["trace"], table["batch_size"], strict=True)]
    below.plot(
        steps,
        _positive(table["half_difference"]),
        color=DIFFERENCE,
        marker=".",
        linestyle="",
        label=r"$|g_1 - g_2|^2 / 2$ of single parts, as measured",
    )
    below.plot(steps, _positive(table["gradient_square"]), color=SIGNAL, label=r"signal, $|G|^2$")
    below.plot(
        steps, _positive(noise), color=NOISE, linestyle="-.", label=r"noise of the whole batch, $\mathrm{tr}\,S / B$"
    )
    below.set_ylabel("squared gradient norm")
    below.set_xlabel("optimizer step")
    for axes in (above, below):
        axes.set_yscale("log")
        light_grid(axes)
        axes.legend(loc="best", frameon=False, fontsize=8)
    return figure


def _positive(values: Sequence[float]) -> list[float]:
    return [value if 0.0 < value < math.inf else math.nan for value in values]
