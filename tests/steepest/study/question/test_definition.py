"""Study files: read, checked, laid out as trials, and kept in a folder."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from steepest.study.question.definition import Dimension, Tuning
from steepest.study.question.reading import load_study
from steepest.study.question.spaces import points
from steepest.study.trials.folder import load_stored, store_study
from steepest.study.trials.plan import cells, command_line, final_trials, make_trial, tuning_trials
from steepest.study.trials.results import TrialResult, load_results, read_result, result_path, write_result
from steepest.study.trials.tuning import choose, chosen_points, extensions, results_of

BASE = """
model: {class_path: ImageClassifier, init_args: {network: {class_path: SimpleMLP}}}
data: Digits
optimizer: adamw
"""

CONTENT = {
    "question": "Which optimizer?",
    "base": ["base.yaml"],
    "options": {"trainer.max_epochs": 2, "optimizer.weight_decay": 0.0},
    "axes": {
        "optimizer": {"SGD": {"optimizer": "sgd"}, "Adam": {"optimizer": "adam"}},
        "width": {"key": "model.network.hidden", "values": [8, 16]},
    },
    "seeds": 3,
    "tuning": {"space": {"optimizer.lr": {"log": [1e-3, 0.1], "points": 3}}, "seeds": [100]},
    "metric": {"name": "val/accuracy", "target": 0.9},
    "figures": [{"kind": "bars"}],
    "scales": {"smoke": {"seeds": 2, "options": {"trainer.max_epochs": 1}}, "paper": {"seeds": 5, "seconds": 20}},
}


def write(folder, content):
    (folder / "base.yaml").write_text(BASE)
    path = folder / "which.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def study_of(folder, **changes):
    return load_study(write(folder, {**CONTENT, **changes}))


def result_of(trial, value, **changes):
    result = TrialResult(
        key=trial.key,
        stage=trial.stage,
        labels=trial.labels,
        point=trial.point,
        seed=trial.seed,
        command=command_line(trial),
        status="finished",
        error=None,
        diverged_at=None,
        steps=10,
        train_seconds=1.0,
        seconds=2.0,
        parameters=100,
        final={"val/accuracy": value},
        history={"val/accuracy": [[5, 0.5, value / 2], [10, 1.0, value]]},
        run_folder="runs/x",
        host="here",
        finished_at="2026-01-01T00:00:00+00:00",
    )
    return replace(result, **changes)


def test_a_scale_adds_to_the_options_and_replaces_the_rest(tmp_path):
    study = load_study(write(tmp_path, CONTENT), "smoke")
    assert study.seeds == (0, 1)
    assert study.options == {"trainer.max_epochs": 1, "optimizer.weight_decay": 0.0}
    assert load_study(study.path, "paper").seconds == 20
    assert load_study(study.path) == study, "smoke is taken unless another is named"


def test_every_cell_is_tuned_alike_and_then_run_on_fresh_seeds(tmp_path):
    study = study_of(tmp_path)
    tuning = tuning_trials(study)
    assert len(cells(study)) == 4
    assert len(tuning) == 4 * 3
    assert {trial.point["optimizer.lr"] for trial in tuning} == {1e-3, 1e-2, 0.1}
    final = final_trials(study, {trial.cell: trial.point for trial in tuning})
    assert len(final) == 4 * 2
    assert {trial.seed for trial in tuning}.isdisjoint(trial.seed for trial in final)
    assert len({trial.key for trial in [*tuning, *final]}) == 20


def test_words_choose_a_class_before_its_options(tmp_path):
    study = study_of(tmp_path, callbacks={"SharpnessProbe": {"every_n_epochs": 1}})
    trial = make_trial(study, "final", {"optimizer": "Adam", "width": "8"}, {"optimizer.lr": 0.01}, 7)
    words = list(trial.words)
    assert words.index("--optimizer") < words.index("--optimizer.lr")
    assert words[words.index("--optimizer.weight_decay") + 1] == "0.0", "holds for whichever optimizer is chosen"
    assert words[words.index("--trainer.callbacks+=SharpnessProbe") + 1] == "--trainer.callbacks.every_n_epochs"
    assert words[-2:] == ["--seed_everything", "7"]
    assert command_line(trial).startswith("steepest fit --config ")


def test_a_trial_is_known_by_what_decides_its_numbers(tmp_path):
    study = study_of(tmp_path)
    trial = final_trials(study, {})[0]
    (tmp_path / "base.yaml").write_text("# a comment\n" + BASE)
    assert final_trials(study, {})[0].key == trial.key
    (tmp_path / "base.yaml").write_text(BASE.replace("adamw", "lion"))
    assert final_trials(study, {})[0].key != trial.key
    assert final_trials(study_of(tmp_path, bound=3.0), {})[0].key != trial.key


def test_numbers_as_people_write_them(tmp_path):
    text = yaml.safe_dump({k: v for k, v in CONTENT.items() if k not in ("axes", "tuning")})
    text += "axes: {lr: {key: optimizer.lr, values: [1e-4, 1e-3, .1, 1]}}\n"
    study = load_study(write(tmp_path, text))
    assert study.axes[0].values == (1e-4, 1e-3, 0.1, 1)
    assert list(study.axes[0].alternatives) == ["0.0001", "0.001", "0.1", "1"]


def test_log_spaced_axis_equals_numpy(tmp_path):
    study = study_of(tmp_path, tuning=None, axes={"lr": {"key": "optimizer.lr", "log": [1e-3, 2.0], "points": 12}})
    np.testing.assert_allclose(study.axes[0].values, np.geomspace(1e-3, 2.0, 12), rtol=1e-5)


@given(trials=st.integers(2, 40), low=st.floats(1e-6, 1e-2), factor=st.floats(2, 1e4))
def test_drawn_points_lie_in_their_space_and_spread_over_it(trials, low, factor):
    tuning = Tuning("quasi_random", trials, (9,), {"optimizer.lr": Dimension("log", (low, low * factor))}, {}, False)
    values = [point["optimizer.lr"] for point in points(tuning, tuning.space)]
    assert len(values) == trials
    shares = np.log(np.array(values) / low) / np.log(factor)
    assert shares.min() > -0.01
    assert shares.max() < 1.01
    # A low-discrepancy sequence: each half of the range gets its share, but for one.
    assert abs(int((shares < 0.5).sum()) - trials / 2) <= 2


def test_the_best_point_is_chosen_and_an_edge_is_noticed(tmp_path):
    study = study_of(tmp_path)
    values = {1e-3: 0.5, 1e-2: 0.9, 0.1: 0.7}
    results = [result_of(trial, values[trial.point["optimizer.lr"]]) for trial in tuning_trials(study)]
    choices = choose(study, results)
    assert len(choices) == 4
    assert all(choice.point == {"optimizer.lr": 1e-2} and choice.on_edge == () for choice in choices.values())
    # One that ran away is the worst, whatever it logged before.
    edged = [replace(r, status="diverged") if r.point["optimizer.lr"] == 1e-2 else r for r in results]
    assert all(choice.point == {"optimizer.lr": 0.1} for choice in choose(study, edged).values())
    assert all(choice.on_edge == ("optimizer.lr",) for choice in choose(study, edged).values())
    failed = [replace(r, status="failed") for r in results]
    assert set(chosen_points(study, failed).values()) == {None}
    assert final_trials(study, chosen_points(study, failed)) == []


def test_a_grid_is_extended_past_its_edge_three_times_at_most(tmp_path):
    study = study_of(tmp_path, tuning={**CONTENT["tuning"], "extend": True})
    results = [result_of(trial, trial.point["optimizer.lr"]) for trial in tuning_trials(study)]
    added = []
    while trials := extensions(study, results):
        assert len(trials) == 4
        added.append(trials[0].point["optimizer.lr"])
        results += [result_of(trial, trial.point["optimizer.lr"]) for trial in trials]
    assert added == [1.0, 10.0, 100.0]
    inside = [result_of(t, -abs(np.log10(t.point["optimizer.lr"]) + 2)) for t in tuning_trials(study)]
    assert extensions(study, inside) == []


def test_results_come_back_as_they_were_and_only_those_of_the_study(tmp_path):
    study = study_of(tmp_path)
    trials = final_trials(study, {trial.cell: trial.point for trial in tuning_trials(study)})
    for trial in trials:
        write_result(tmp_path, result_of(trial, 0.5))
    assert sorted(r.key for r in load_results(tmp_path)) == sorted(trial.key for trial in trials)
    assert [r.key for r in results_of(study, load_results(tmp_path))] == [trial.key for trial in trials]
    assert read_result(tmp_path, trials[0].key) == result_of(trials[0], 0.5)
    changed = study_of(tmp_path, options={"trainer.max_epochs": 9}, scales={})
    assert results_of(changed, load_results(tmp_path)) == []
    result_path(tmp_path, trials[0].key).write_text("{")
    with pytest.raises(ValueError, match="is not the result of a trial; delete it"):
        load_results(tmp_path)


def test_metric_of_a_result(tmp_path):
    study = study_of(tmp_path)
    result = result_of(final_trials(study, {})[0], 0.8)
    assert result.value(study.metric) == 0.8
    assert result.value(replace(study.metric, at="best", mode="min")) == 0.4
    assert np.isnan(replace(result, status="diverged").value(study.metric))
    assert np.isnan(result.value(replace(study.metric, name="val/loss")))


@pytest.mark.parametrize("tuning", [CONTENT["tuning"], None, {"method": "quasi_random", "trials": 4, "space": {}}])
def test_a_stored_study_has_the_same_trials(tmp_path, tuning):
    study = study_of(
        tmp_path, tuning=tuning, workloads=["width"], statistics={"interval": "bootstrap", "test": "paired"}
    )
    assert (study.statistics.interval, study.statistics.test) == ("bootstrap", "paired")
    store_study(tmp_path / "studies" / "which" / "smoke", study)
    (tmp_path / "base.yaml").unlink()
    stored = load_stored(tmp_path / "studies" / "which" / "smoke")
    (tmp_path / "base.yaml").write_text(BASE)
    assert (stored.name, stored.scale) == ("which", "smoke")
    assert [t.key for t in tuning_trials(stored)] == [t.key for t in tuning_trials(study)]
    assert [t.key for t in final_trials(stored, {})] == [t.key for t in final_trials(study, {})]
    store_study(tmp_path / "studies" / "which" / "smoke", stored)
    assert load_stored(tmp_path / "studies" / "which" / "smoke") == stored


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrik": "x"}, r"unknown key 'metrik' \(did you mean 'metric'\?\)"),
        ({"scale": {"smoke": {"seeds": 3}}}, r"unknown key 'scale' \(did you mean 'scales'\?\)"),
        ({"scale": "paper"}, r"unknown key 'scale' \(did you mean 'scales'\?\)"),
        ({"scales": {"smoke": {"seed": 3}}}, r"scales.smoke: unknown key 'seed' \(did you mean 'seeds'\?\)"),
        ({"question": " "}, "question must say"),
        ({"axes": {}}, "axes must name at least one"),
        (
            {"axes": {"optimizer": {}}},
            "axes.optimizer must hold alternatives by name, or a key and values; it is",
        ),
        ({"axes": {"lr": {"key": "optimizer.lr", "values": []}}}, "values must be a list of at least one"),
        ({"axes": {"lr": {"key": "optimizer.lr", "log": [0, 1], "points": 3}}}, "above 0"),
        ({"axes": {"lr": {"key": "optimizer.lr", "values": [1, 1.0]}}}, "a value is there twice"),
        ({"axes": {"optimizer": {"SGD": "sgd"}}}, "axes.optimizer.SGD must be a mapping of options"),
        (
            {"axes": {**CONTENT["axes"], "more": {"key": "optimizer", "values": ["sgd"]}}},
            "the axes 'optimizer' and 'more' both set 'optimizer'",
        ),
        (
            {"axes": {"lr": {"key": "optimizer.lr", "values": [1]}}},
            "'optimizer.lr' is set by '1' of the axis 'lr' and also tuned",
        ),
        ({"workloads": ["optimizer", "width"]}, "workloads must list some of the axes"),
        ({"workloads": ["task"]}, "workloads must list some of the axes"),
        ({"seeds": 0, "scales": {}}, "seeds must be a number of seeds above 0"),
        ({"seeds": [1, 1], "scales": {}}, "or a list of different ones"),
        ({"seeds": [100], "scales": {}}, "seeds 100 are in both seeds and tuning.seeds"),
        ({"metric": {"name": "val/accuracy", "mode": "up"}}, "metric.mode must be max or min"),
        ({"metric": {"name": "val/accuracy", "target": "high"}}, "metric.target must be a number"),
        ({"statistics": "t"}, r"statistics must be a mapping such as \{interval: t, test: welch\}, got 't'"),
        ({"statistics": {"interval": "z"}}, "statistics.interval must be one of t, bootstrap, got 'z'"),
        ({"statistics": {"test": ["welch"]}}, r"statistics.test must be one of welch, paired, mann_whitney, got \['w"),
        ({"statistics": {"tests": "welch"}}, r"statistics: unknown key 'tests' \(did you mean 'test'\?\)"),
        ({"bound": -1}, "bound must be a number above 0"),
        ({"base": ["nowhere.yaml"]}, "base: there is no file"),
        ({"figures": ["bars"]}, "figures must list mappings with a kind"),
        ({"tuning": {"method": "random"}}, "tuning.method must be one of grid, quasi_random"),
        ({"tuning": {"method": "quasi_random"}}, "tuning.trials is the number"),
        ({"tuning": {"space": {"optimizer.lr": {"log": [1, 2]}}}}, "with points"),
        ({"tuning": {**CONTENT["tuning"], "spaces": {"Adm": {}}}}, r"unknown key 'Adm' \(did you mean 'Adam'\?\)"),
        (
            {"tuning": {**CONTENT["tuning"], "spaces": {"SGD": {"optimizer.lr": {"log": [1, 2], "points": 4}}}}},
            "spaces of 3 and 4 points; all need equally many",
        ),
    ],
)
def test_a_wrong_file_ends_in_one_line(tmp_path, changes, message):
    path = write(tmp_path, {**CONTENT, **changes})
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        load_study(path)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    path = write(tmp_path, "question: a\nquestion: b\n")
    with pytest.raises(ValueError, match="line 2: 'question' is there twice"):
        load_study(path)


def test_an_unknown_scale_names_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"no scale 'papr' \(did you mean 'paper'\?\); scales: smoke, paper"):
        load_study(write(tmp_path, CONTENT), "papr")
