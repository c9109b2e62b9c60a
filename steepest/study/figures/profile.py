"""How often one optimizer is how much slower than the fastest."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from steepest.study.analysis.drawing import Drawing, NothingToDraw
from steepest.study.analysis.selection import of_stage
from steepest.study.analysis.speed import LARGEST_RATIO, performance_profiles, workload_times
from steepest.study.analysis.summary import never_finished
from steepest.study.figures.style import HEIGHT, WIDTH, figure_kind, legend, legend_height, looks
from steepest.study.question.axes import axis_label, axis_named
from steepest.study.question.definition import Study
from steepest.study.trials.results import TrialResult


@figure_kind
def profile(
    study: Study,
    results: Sequence[TrialResult],
    folder: Path,
    by: str | None = None,
    clock: Literal["step", "seconds"] = "step",
) -> list[Drawing]:
    """Share of the workloads on which the time to the target is at most so many times the fastest.

    Args:
        study: What was asked; its metric needs a target.
        results: What came out.
        folder: Of the study.
        by: Axis whose alternatives are compared; the first by default. The other axes are the workloads; without any,
            the seeds are.
        clock: Optimizer steps, or seconds inside training steps.
    """
    if study.metric.target is None:
        raise NothingToDraw("The study's metric has no target.")
    axis = axis_named(study, by or study.axes[0].name)
    never = never_finished(study, results)
    times = workload_times(of_stage(results, "final"), study.metric, axis.name, clock, never)
    count = len(next(iter(times.values()), []))
    if not count or any(math.isnan(time) for own in times.values() for time in own):
        raise NothingToDraw("No workload was run with all alternatives yet, or its training time is not known.")
    profiles = performance_profiles(times)
    shown = {label: look for label, look in looks(axis).items() if label in profiles}
    texts = {label: f"{label}: {profiles[label].score:.2f}" for label in shown}
    figure = Figure(figsize=(WIDTH, HEIGHT + legend_height(list(texts.values()), WIDTH)), layout="constrained")
    axes = figure.subplots()
    # Lines that lie on each other stay visible: each is a little thinner than the one below it.
    for place, (label, look) in enumerate(shown.items()):
        width = 3.2 - 2.0 * place / max(len(shown) - 1, 1)
        axes.step(profiles[label].taus, profiles[label].shares, where="post", **look.line(linewidth=width))
    axes.set_xlim(1.0, LARGEST_RATIO)
    axes.set_ylim(-0.03, 1.03)
    name = "steps" if clock == "step" else "training time"
    axes.set_xlabel(f"{name} to target / the fastest's")
    axes.set_ylabel("share reached")
    legend(figure, [Line2D([], [], label=texts[label], **look.line(linewidth=2.0)) for label, look in shown.items()])
    rest = [axis_label(other.name) for other in study.axes if other.name != axis.name and len(other.alternatives) > 1]
    what = f"{count} workloads (each {' and '.join(rest)})" if rest else f"{count} seeds of the one workload"
    return [
        Drawing(
            title="Performance profile",
            caption=f"Share of the {what} on which the {name} to the target {'are' if clock == 'step' else 'is'} at "
            "most so many times the fastest's. Runs that miss the target, or take more than "
            f"{LARGEST_RATIO:g} times as long, do not count. "
            + ("What diverged at every point of its tuning has missed. " if never else "")
            + "The legend gives the area below the line: 1 is always fastest.",
            alternative=f"Performance profile. Scores: {'; '.join(texts.values())}.",
            figure=figure,
        )
    ]
