"""How gradients flow through the layers of each alternative."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy

from steepest.study.analysis.drawing import Drawing, NothingToDraw
from steepest.study.analysis.selection import Cell, of_stage, others
from steepest.study.analysis.wording import number
from steepest.study.figures.curves import cells_of
from steepest.study.figures.key import Key
from steepest.study.figures.style import figure_kind, panels
from steepest.study.question.definition import Study
from steepest.study.trials.results import TrialResult

FILE = "gradient_flow.json"
WARNING = 100.0


@figure_kind
def layers(
    study: Study,
    results: Sequence[TrialResult],
    folder: Path,
    by: str | None = None,
    when: Literal["run", "first", "last"] = "run",
) -> list[Drawing]:
    """Gradient norm of the weight of every layer, and the ratio of the largest to the smallest.

    Args:
        study: What was asked.
        results: What came out.
        folder: Of the study; `gradient_flow.json` is read from its run folders.
        by: Axis that colors stand for; the first by default.
        when: The geometric mean over the whole run, or the first or last measurement.
    """
    by = by or study.axes[0].name
    norms: dict[Cell, list[float]] = {}
    for cell, members in cells_of(study, of_stage(results, "final"), by, []).items():
        found = [own for result in members if (own := _norms(folder / result.run_folder / FILE, when))]
        if found:
            table = numpy.array([own for own in found if len(own) == len(found[0])])
            norms[cell] = _geometric_mean(table)
    if not norms:
        raise NothingToDraw(f"No run has left a {FILE}; GradientFlowMonitor writes it.")
    key = Key.of(study, [by, *others(study, by)], norms)
    figure, (left, right) = panels(2, columns=2, height=2.7, legend=key.height(2))
    ratios = {cell: _ratio(norms[cell]) for cell in key.looks}
    left.set_yscale("log")
    for cell, look in key.looks.items():
        own = [value if value > 0 else math.nan for value in norms[cell]]
        left.plot(range(1, len(own) + 1), own, **look.points())
    left.set_xlabel("layer, from the input")
    left.set_ylabel("gradient norm of the weight")
    left.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[attr-defined]
    left.set_title("Gradient norm by layer")
    _draw_ratios(right, ratios, key)
    key.add(figure)
    time = {
        "run": "geometric mean over the run",
        "first": "at the first measurement",
        "last": "at the last measurement",
    }
    far = [key.text(cell) for cell, ratio in ratios.items() if ratio > WARNING]
    warning = f" Above it: {', '.join(far)}." if far else " None is above it."
    return [
        Drawing(
            title="Gradient flow through the layers",
            caption=f"Left: Euclidean norm of the gradient of each layer's weight, {time[when]} and over the seeds. "
            f"Right: the largest of them over the smallest; above {WARNING:g} (dashed) the layers with the smallest "
            f"gradients hardly train at a common learning rate.{warning}",
            alternative="Ratio of the largest to the smallest gradient norm of a layer: "
            + "; ".join(f"{key.text(cell)} {number(ratio)}" for cell, ratio in ratios.items())
            + ".",
            figure=figure,
            wide=True,
        )
    ]


def _draw_ratios(axes: Any, ratios: Mapping[Cell, float], key: Key) -> None:
    axes.set_xscale("log")
    finite = [ratio for ratio in ratios.values() if math.isfinite(ratio)]
    right = 4.0 * max([WARNING, *finite])
    edge = axes.get_yaxis_transform()
    for row, (cell, ratio) in enumerate(ratios.items()):
        look = key.looks[cell]
        # The line of the legend, at the foot of its bar: bars of one color are told apart by it.
        axes.plot([-0.13, -0.02], [row, row], transform=edge, clip_on=False, **look.line())
        axes.plot([-0.075], [row], transform=edge, clip_on=False, **look.points())
        axes.barh(row, min(ratio, right) - 1.0, 0.65, left=1.0, color=look.color)
        inside = ratio > right / 30
        place = 1.0 if math.isnan(ratio) else min(ratio, right / 1.2)
        color = "white" if inside else "black"
        axes.text(
            place / 1.15 if inside else place * 1.15,
            row,
            number(float(f"{ratio:.3g}")),
            va="center",
            fontsize=8,
            ha="right" if inside else "left",
            color=color,
        )
    axes.axvline(WARNING, color="0.2", linestyle="--", linewidth=1.1)
    axes.set_xlim(1.0, right)
    axes.set_ylim(len(ratios) - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xlabel("largest / smallest gradient norm")
    axes.set_title(f"Ratio, warning above {WARNING:g}")
    axes.grid(visible=False, axis="y")


def _norms(path: Path, when: str) -> list[float] | None:
    """Gradient norms of the layers' weights, from the input on; None without a measurement."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    history = content.get("history") or {}
    roles = dict(zip(content["last"]["names"], content["last"]["roles"], strict=True))
    names, rows = history.get("names") or [], history.get("gradient_norms") or []
    places = [place for place, name in enumerate(names) if roles.get(name) == "weight"]
    if not places or not rows:
        return None
    table = numpy.array([[math.nan if row[place] is None else row[place] for place in places] for row in rows])
    table = {"run": table, "first": table[:1], "last": table[-1:]}[when]
    return _geometric_mean(table)


def _geometric_mean(table: numpy.ndarray) -> list[float]:
    # A layer that gets no gradient has the mean 0, as it should.
    with numpy.errstate(divide="ignore"):
        logs = numpy.log(numpy.where(numpy.isfinite(table), table, numpy.nan))
    means = [
        float(numpy.exp(column[~numpy.isnan(column)].mean())) if not numpy.isnan(column).all() else math.nan
        for column in logs.T
    ]
    return means


def _ratio(norms: Sequence[float]) -> float:
    finite = [value for value in norms if math.isfinite(value)]
    if not finite:
        return math.nan
    return max(finite) / min(finite) if min(finite) > 0 else math.inf
