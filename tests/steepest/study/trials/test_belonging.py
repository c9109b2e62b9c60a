"""Results of a study that was changed or interrupted: none is lost, none is run twice, none is chosen too early."""

from dataclasses import replace

import pytest

from steepest.study.trials.plan import final_trials, tuning_trials
from steepest.study.trials.tuning import choose, chosen_points, results_of, tuning_rounds
from tests.steepest.study.question.test_definition import CONTENT, result_of, study_of

OPTIMIZER, WIDTH = CONTENT["axes"]["optimizer"], CONTENT["axes"]["width"]
SMOKE = {"smoke": {"options": {"trainer.max_epochs": 1}}}


def value_of(trial):
    """Rates are the better the larger they are, up to ten."""
    rate = trial.point.get("optimizer.lr", 0.1)
    return rate if rate <= 10 else 0.0


def finished(study, results=(), value=value_of, stop_at=lambda trial: False):
    """Results of what a runner would run, from these on, up to a trial at which it is interrupted."""
    stored = {result.key: result for result in results}

    def all_done(trials):
        for trial in trials:
            if trial.key not in stored:
                if stop_at(trial):
                    return False
                stored[trial.key] = result_of(trial, value(trial))
        return True

    number = 0
    while number < len(rounds := tuning_rounds(study, stored)):
        if not all_done(rounds[number]):
            return list(stored.values())
        number += 1
    all_done(final_trials(study, chosen_points(study, results_of(study, list(stored.values())))))
    return list(stored.values())


def places(results):
    return [(r.stage, r.cell, dict(r.point), r.seed) for r in results]


EXTENDED = {**CONTENT["tuning"], "extend": True}


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"axes": {"optimizer": {"plain": OPTIMIZER["SGD"], "Adam": OPTIMIZER["Adam"]}, "width": WIDTH}}, 0),
        ({"axes": {"method": OPTIMIZER, "hidden units": WIDTH}}, 0),
        ({"axes": {"width": WIDTH, "optimizer": OPTIMIZER}}, 0),
        ({"axes": {**CONTENT["axes"], "decay": {"none": {"optimizer.weight_decay": 0.0}}}}, 0),
        # Of one that also has something new to say, the rest is there: 3 points, 3 further ones, 2 final seeds.
        (
            {
                "axes": {
                    **CONTENT["axes"],
                    "decay": {"none": {"optimizer.weight_decay": 0.0}, "some": {"optimizer.weight_decay": 0.1}},
                }
            },
            4 * (3 + 3 + 2),
        ),
        # A tuning seed becomes a final one, and another takes its place; at the best point it has run.
        ({"seeds": [0, 100], "tuning": {**EXTENDED, "seeds": [101]}, "scales": SMOKE}, 4 * (3 + 3)),
    ],
)
def test_a_changed_study_only_adds_what_is_missing_and_reports_all_it_asks_for(tmp_path, changes, more):
    before = finished(study_of(tmp_path, tuning=EXTENDED))
    assert len(before) == 4 * (3 + 3 + 2)
    study = study_of(tmp_path, **{"tuning": EXTENDED, **changes})
    after = finished(study, before)
    assert len(after) == len(before) + more
    # The same rows as of a study that was written so from the start.
    afresh = results_of(study, finished(study))
    for results in (results_of(study, after), results_of(study, after[::-1])):
        known = [r for r in places(results) if r in places(afresh)]
        assert known == places(afresh)
        assert all(list(r.labels) == [axis.name for axis in study.axes] for r in results)
    tuning = [r for r in places(results_of(study, after)) if r[0] == "tuning"]
    assert tuning == [r for r in places(afresh) if r[0] == "tuning"]


def test_a_cell_of_another_name_takes_a_final_trial_for_one_of_its_tuning(tmp_path):
    fixed = {"optimizer": {"at 0.01": {"optimizer": "sgd", "optimizer.lr": 0.01}}}
    before = finished(study_of(tmp_path, axes=fixed, tuning=None, seeds=[100, 0], scales=SMOKE))
    study = study_of(tmp_path, axes={"optimizer": {"tuned": {"optimizer": "sgd"}}}, seeds=1, scales=SMOKE)
    assert places(results_of(study, before)) == [
        ("tuning", ("tuned",), {"optimizer.lr": 0.01}, 100),
        ("final", ("tuned",), {"optimizer.lr": 0.01}, 0),
    ]


TWO_SEEDS = {**EXTENDED, "seeds": [100, 101]}


@pytest.mark.parametrize("rate", [1.0, 10.0])
def test_an_extension_that_was_interrupted_between_two_seeds_goes_on(tmp_path, rate):
    study = study_of(tmp_path, tuning=TWO_SEEDS)
    whole = results_of(study, finished(study))
    assert [r.point["optimizer.lr"] for r in whole if r.stage == "final"] == [10.0] * 8
    cell = ("Adam", "16")
    cut = finished(study, stop_at=lambda t: (t.cell, t.point["optimizer.lr"], t.seed) == (cell, rate, 101))
    begun = [r for r in results_of(study, cut) if r.cell == cell and r.point["optimizer.lr"] == rate]
    assert [r.seed for r in begun] == [100]
    assert choose(study, results_of(study, cut))[cell].point == {"optimizer.lr": rate / 10}
    missing = [t for trials in tuning_rounds(study, {r.key: r for r in cut}) for t in trials]
    assert ("tuning", cell, {"optimizer.lr": rate}, 101) in places(missing)
    assert results_of(study, finished(study, cut)) == whole


def test_of_two_edges_the_one_that_was_begun_goes_on_too(tmp_path):
    # Both options end on their edge, so that both are extended at a time; the second waits for its last seed.
    space = {"optimizer.lr": {"log": [0.01, 0.1], "points": 2}, "optimizer.momentum": {"linear": [0, 0.2], "points": 2}}
    study = study_of(tmp_path, axes={"optimizer": {"SGD": OPTIMIZER["SGD"]}}, tuning={**TWO_SEEDS, "space": space})

    def value(trial):
        return trial.point["optimizer.lr"] + trial.point["optimizer.momentum"]

    whole = finished(study, value=value)
    cut = finished(study, value=value, stop_at=lambda t: t.point["optimizer.momentum"] > 0.3 and t.seed == 101)
    assert len(cut) == (4 + 2) * 2 - 1
    assert sorted(r.key for r in finished(study, cut, value)) == sorted(r.key for r in whole)


def test_options_may_be_lists(tmp_path):
    space = {"optimizer.betas": {"values": [[0.9, 0.99], [0.9, 0.999]]}}
    study = study_of(tmp_path, tuning={**CONTENT["tuning"], "space": space})
    results = [result_of(trial, trial.point["optimizer.betas"][1]) for trial in tuning_trials(study)]
    choices = choose(study, results)
    assert {(str(choice.point), choice.trials, choice.on_edge) for choice in choices.values()} == {
        ("{'optimizer.betas': [0.9, 0.999]}", 2, ())
    }
    trials = final_trials(study, chosen_points(study, results))
    results += [result_of(trial, 0.5) for trial in trials]
    assert len(results_of(study, [replace(r, point={}) for r in results])) == 4 * (2 + 2)
