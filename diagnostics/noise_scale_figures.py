"""The figure of the gradient noise scale."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from diagnostics.noise_scale import NoiseScale
from diagnostics.noise_scale_history import NoiseHistory

# Okabe and Ito's palette, which stays apart under every kind of color blindness.
SCALE, BATCH, SIGNAL, NOISE, DIFFERENCE = "#0072B2", "black", "#009E73", "#D55E00", "0.6"


def noise_scale(result: NoiseScale, history: NoiseHistory) -> Figure:
    """The noise scale with its interval beside the batch size, and below signal and noise in the batch's gradient.

    Args:
        result: What the average says last.
        history: All measurements.

    Returns:
        A figure of two panels over the optimizer steps, both logarithmic; values that are not positive are gaps.
    """
    steps = history.steps
    figure = Figure(figsize=(8.0, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    scale, low, high = (_positive(history[field]) for field in ("scale", "low", "high"))
    seen = [value for value in (*scale, *low, *high, *history["batch_size"]) if 0.0 < value < math.inf]
    top = 3.0 * max(seen)
    # An interval without an upper end goes up to the frame.
    upper = [top * 10 if math.isinf(value) else value for value in history["high"]]
    lower = [value if value > 0 or math.isnan(value) else min(seen) / 10 for value in history["low"]]
    above.fill_between(steps, lower, upper, color=SCALE, alpha=0.2, linewidth=0.0, label="95 % interval")
    dots = "o" if len(steps) <= 30 else ""
    above.plot(steps, scale, color=SCALE, marker=dots, markersize=4, label=r"noise scale, $\mathrm{tr}\,S / |G|^2$")
    above.plot(steps, history["batch_size"], color=BATCH, linestyle="--", linewidth=1.2, label="batch measured on")
    above.set_ylim(min(seen) / 3.0, top)
    above.set_ylabel("samples")
    above.set_title(f"Gradient noise scale: {result.verdict}", loc="left", fontsize=10)

    noise = [trace / size for trace, size in zip(history["trace"], history["batch_size"], strict=True)]
    below.plot(
        steps,
        _positive(history["half_difference"]),
        color=DIFFERENCE,
        marker=".",
        linestyle="",
        label=r"$|g_1 - g_2|^2 / 2$ of single parts, as measured",
    )
    below.plot(steps, _positive(history["gradient_square"]), color=SIGNAL, label=r"signal, $|G|^2$")
    below.plot(
        steps, _positive(noise), color=NOISE, linestyle="-.", label=r"noise of the whole batch, $\mathrm{tr}\,S / B$"
    )
    below.set_ylabel("squared gradient norm")
    below.set_xlabel("optimizer step")
    for axes in (above, below):
        axes.set_yscale("log")
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.legend(loc="best", frameon=False, fontsize=8)
    return figure


def _positive(values: Sequence[float]) -> list[float]:
    return [value if 0.0 < value < math.inf else math.nan for value in values]
