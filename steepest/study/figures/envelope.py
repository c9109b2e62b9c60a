"""Up to which learning rate training is stable."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from steepest.study.analysis.drawing import Drawing, NothingToDraw
from steepest.study.analysis.selection import Points, is_log_spaced, metric_named, others, points_by_cell, varied_number
from steepest.study.analysis.sensitivity import Envelope
from steepest.study.analysis.sensitivity import envelope as limit_of
from steepest.study.analysis.wording import axis_text, capital, scalar_label, set_unit
from steepest.study.figures.key import Key
from steepest.study.figures.style import HEIGHT, WIDTH, Look, figure_kind, is_wide_range, legend, legend_height
from steepest.study.question.axes import axis_label
from steepest.study.question.definition import Study
from steepest.study.trials.results import TrialResult


@figure_kind
def envelope(
    study: Study, results: Sequence[TrialResult], folder: Path, axis: str | None = None, metric: str = "train/loss"
) -> list[Drawing]:
    """The final loss at every learning rate, and the largest one at which no seed diverged.

    Args:
        study: What was asked.
        results: What came out.
        folder: Of the study.
        axis: An axis of numbers, or a tuned option; by default the first tuned option, else the first axis of numbers.
        metric: Final scalar of the vertical axis.
    """
    axis = varied_number(study, axis)
    names = others(study, axis)
    cells = points_by_cell(study, results, metric_named(study, metric), axis, names)
    finite = [value for points in cells.values() for own in points.values() for value in own if math.isfinite(value)]
    if not finite:
        raise NothingToDraw(f"No finished trial has logged {metric}.")
    limits = {cell: limit_of(points) for cell, points in cells.items()}
    key = Key.of(study, names, cells)
    texts = {cell: _text(key.text(cell), limits[cell]) for cell in key.looks}
    labels = [*texts.values(), "diverged"]
    figure = Figure(figsize=(WIDTH, HEIGHT + 0.3 + legend_height(labels, WIDTH)), layout="constrained")
    axes = figure.subplots()
    if is_log_spaced([value for points in cells.values() for value in points]):
        axes.set_xscale("log")
    if is_wide_range(finite):
        axes.set_yscale("log")
    for place, (cell, look) in enumerate(key.looks.items()):
        _draw(axes, cells[cell], look, place)
        if (largest := limits[cell].largest) is not None:
            axes.axvline(largest, color=look.color, linestyle=(place, (4, 3)), linewidth=1.1)
    axes.margins(y=0.06 * (len(key.looks) + 1))
    axes.set_xlabel(axis_label(axis))
    axes.set_ylabel(f"final {axis_text(study, metric)}")
    set_unit(axes.yaxis, metric)
    handles = [Line2D([], [], label=texts[cell], **look.points()) for cell, look in key.looks.items()]
    legend(figure, [*handles, Line2D([], [], color="0.3", marker="X", linestyle="", label="diverged")])
    return [
        Drawing(
            title=f"Largest stable {axis_label(axis)}",
            caption=f"Final {scalar_label(study, metric)} of every seed against {axis_label(axis)}, lines through the "
            "means. Crosses at the top are seeds that diverged. The dashed line is the largest value at which, and "
            "below which, none did.",
            alternative=f"Largest stable {axis_label(axis)}: {'; '.join(map(capital, texts.values()))}.",
            figure=figure,
        )
    ]


def _draw(axes, points: Points, look: Look, place: int) -> None:
    kept = {value: [each for each in own if math.isfinite(each)] for value, own in points.items()}
    means = [sum(own) / len(own) if own else math.nan for own in kept.values()]
    axes.plot(list(kept), means, **look.line(linewidth=1.0, alpha=0.7))
    for value, own in kept.items():
        axes.plot([value] * len(own), own, look.marker, color=look.color, ms=5, mec="white", mew=0.4, alpha=0.9)
    broken = [value for value, own in points.items() if len(own) > len(kept[value])]
    height = [0.97 - 0.06 * place] * len(broken)
    axes.plot(broken, height, "X", color=look.color, ms=7, mec="white", mew=0.5, transform=axes.get_xaxis_transform())


def _text(name: str, found: Envelope) -> str:
    name = f"{name}: " if name else ""
    if found.largest is None:
        return f"{name}none stable"
    beyond = "at least " if found.first_failing is None else "up to "
    return f"{name}stable {beyond}{found.largest:.3g}"
