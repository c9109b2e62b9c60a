"""Several scalars over the run, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from steepest.study.analysis.drawing import Drawing, NothingToDraw
from steepest.study.analysis.selection import of_stage, others
from steepest.study.analysis.wording import axis_text, capital, scalar_label, spoken
from steepest.study.figures.curves import BAND, CLOCKS, LOGARITHMS, cells_of, draw_panels, ends, on_one_scale
from steepest.study.figures.key import Key
from steepest.study.figures.style import columns_of, figure_kind
from steepest.study.figures.style import panels as new_panels
from steepest.study.question.definition import Study
from steepest.study.trials.results import TrialResult

METRICS = ("val/loss", "val/accuracy", "spectral/norm_max", "sharpness/batch", "noise/batch_scale", "train/loss")


@figure_kind
def panels(
    study: Study,
    results: Sequence[TrialResult],
    folder: Path,
    metrics: Sequence[str] = METRICS,
    x: Literal["step", "time"] = "step",
    by: str | None = None,
) -> list[Drawing]:
    """A grid of scalars over steps or seconds, one line in each for each cell of the study.

    Args:
        study: What was asked.
        results: What came out.
        folder: Of the study.
        metrics: Names of logged scalars; those that no trial has logged are left out, and said so.
        x: "step" or "time", seconds inside training steps.
        by: Axis that colors stand for; the first by default.
    """
    by = by or study.axes[0].name
    cells = cells_of(study, of_stage(results, "final"), by, [])
    found = {metric: on_one_scale({(): cells}, metric, x, None) for metric in metrics}
    lines = {metric: own[()] for metric, (own, _) in found.items() if own[()]}
    missing = [metric for metric in metrics if metric not in lines]
    if not lines:
        raise NothingToDraw(f"No trial has logged any of {spoken(list(metrics))}.")
    key = Key.of(study, [by, *others(study, by)], *lines.values())
    count = len(lines)
    figure, grid = new_panels(count, legend=key.height(columns_of(count)))
    for axes, (metric, own) in zip(grid, lines.items(), strict=True):
        draw_panels([axes], {(): own}, key, metric, found[metric][1])
        axes.set_title(capital(axis_text(study, metric)))
        if list(grid).index(axes) + axes.get_subplotspec().get_gridspec().ncols >= count:  # type: ignore[union-attr]
            axes.set_xlabel(CLOCKS[x])
    key.add(figure)
    logarithms = LOGARITHMS.replace(".", " on logarithmic axes.") if any(log for _, log in found.values()) else ""
    names = [scalar_label(study, metric) for metric in lines]
    absent = f" No trial has logged {spoken(missing, 'or')}." if missing else ""
    return [
        Drawing(
            title="How the runs went",
            caption=f"{capital(spoken(names))} against {CLOCKS[x]}s. {BAND}{logarithms}{absent}".replace("(s)s", "(s)"),
            alternative="Line charts. At the end: "
            + " ".join(f"{scalar_label(study, metric)}: {ends({(): own}, metric)}." for metric, own in lines.items()),
            figure=figure,
            wide=count > 1,
        )
    ]
