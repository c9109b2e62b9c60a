"""Whether trials were judged at the end of their schedule, as a fair comparison asks for."""

from collections.abc import Sequence

from steepest.study.definition import Study
from steepest.study.results import TrialResult

NEAR_ENOUGH = 0.98  # of a run's steps: scalars of training are means that may lag behind by a few


def unjudged_end(study: Study, results: Sequence[TrialResult]) -> str | None:
    """A warning if the metric's last value is from before the end of the schedule.

    Evaluations every n batches leave the end of a run out unless n divides its length, and rankings change while the
    learning rate falls.

    Args:
        study: The study.
        results: Its trials.

    Returns:
        One sentence with the step of the last evaluation where most is missing, or None.
    """
    if study.metric.at != "final":
        return None
    ends = [
        (result.history[study.metric.name][-1][0], result.steps)
        for result in results
        if result.status == "finished" and result.steps > 0 and result.history.get(study.metric.name)
    ]
    early = [(last, steps) for last, steps in ends if last < NEAR_ENOUGH * steps]
    if not early:
        return None
    last, steps = min(early, key=lambda end: end[0] / end[1])
    return (
        f"the last value of {study.metric.name} is from step {last:,} of {steps:,}, so that the end of the schedule is "
        "not judged: evaluate at the end of epochs, or every n batches where n divides their number"
    )
