"""A metric from before the end of the schedule is told as such."""

from dataclasses import replace

import pytest

from steepest.study.analysis.summary import unjudged_end
from steepest.study.report.sentences import protocol
from tests.steepest.study.small_studies import study_command, write_study
from tests.steepest.study.synthetic import make_results, make_study


def cut(results, last):
    """The results as if evaluations had ended at a step."""

    def until(history):
        return {name: [row for row in rows if row[0] <= last] for name, rows in history.items()}

    return [replace(result, history=until(result.history)) for result in results]


def test_runs_that_were_evaluated_at_the_end_need_no_warning():
    study = make_study()
    results = make_results(study)
    assert unjudged_end(study, results) is None
    assert "But" not in dict(protocol(study, results))["Evaluation"]
    assert unjudged_end(study, []) is None


def test_the_run_that_was_evaluated_least_is_told():
    study = make_study()
    results = make_results(study)
    mixed = [*cut(results[:3], 100), *cut(results[3:6], 150), *results[6:]]
    said = unjudged_end(study, mixed)
    assert said is not None
    assert said.startswith("the last value of val/accuracy is from step 100 of 200")
    assert said in dict(protocol(study, mixed))["Evaluation"]


def test_neither_diverged_runs_nor_the_best_evaluation_are_held_to_the_end():
    study = make_study()
    results = cut(make_results(study), 100)
    assert unjudged_end(study, [replace(result, status="diverged") for result in results]) is None
    assert unjudged_end(replace(study, metric=replace(study.metric, at="best")), results) is None


@pytest.mark.slow
def test_the_terminal_and_the_report_say_so(tmp_path):
    options = {"trainer.limit_train_batches": 5, "trainer.val_check_interval": 3}
    write_study(tmp_path, options=options, seeds=1)
    code, out, err = study_command(tmp_path, "run", "question.yaml", "--jobs", 1)
    assert (code, err) == (0, ""), err
    assert "warning: the last value of val/accuracy is from step 3 of 5" in out
    page = (tmp_path / "studies/question/smoke/report.html").read_text(encoding="utf-8")
    assert "from step 3 of 5" in page
