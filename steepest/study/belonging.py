"""Which results belong to a study as it is now."""

from collections.abc import Sequence

from steepest.study.definition import Study
from steepest.study.plan import cells, make_trial
from steepest.study.results import TrialResult, results_for
from steepest.study.spaces import space_of
from steepest.study.tuning import tuning_rounds


def results_of(study: Study, results: Sequence[TrialResult]) -> list[TrialResult]:
    """The results of those trials that the study asks for, in the order of its cells, points and seeds.

    A trial is known by its key, so a result counts whatever its labels and stage were when it was run: an axis may have
    been renamed since, or a seed have become one of the final ones. Two cells that ask for the same trial, as a fixed
    learning rate and a tuned one that comes out the same, have its one result each. Final trials at any point of the
    tuning are among them. Results of trials that the study does not ask for are kept on the disk, and not reported.
    """
    stored = {result.key: result for result in results}
    tuning = [trial for trials in tuning_rounds(study, stored) for trial in trials]
    order = {tuple(labels.values()): position for position, labels in enumerate(cells(study))}
    tried = [(labels, {}) for labels in cells(study) if study.tuning is None or not space_of(study.tuning, labels)]
    if study.tuning is not None:
        tried += [(trial.labels, trial.point) for trial in tuning if trial.seed == study.tuning.seeds[0]]
    final = [make_trial(study, "final", labels, point, seed) for labels, point in tried for seed in study.seeds]
    found = results_for([*tuning, *final], stored)
    return sorted(found, key=lambda r: (r.stage != "tuning", order[r.cell], str(dict(r.point)), r.seed))
