import base64
import html
import math
import re
import threading
from dataclasses import replace

import pytest

from steepest.study.analysis.statistics import compare_pairs, summarize
from steepest.study.analysis.summary import summary_table
from steepest.study.question.definition import Axis
from steepest.study.report.page import write_report
from steepest.study.report.sentences import answer, protocol
from steepest.study.report.tables import comparisons, summary
from steepest.study.trials.folder import load_stored
from steepest.study.trials.results import load_results, write_result
from steepest.study.trials.runner import reporting
from steepest.study.trials.tuning import results_of
from tests.steepest.study.synthetic import TUNING, make_result, make_results, make_study, write_study

FIGURES = "figures: [{kind: curves}, {kind: sensitivity}, {kind: layers}]\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a study with all results, and its page."""
    folder = write_study(
        tmp_path_factory.mktemp("whole"),
        TUNING + FIGURES,
        question='Is <script>alert("a")</script> & co. best?',
        truth=_edges,
    )
    failed = next(result for result in load_results(folder) if result.stage == "final" and result.seed == 4)
    write_result(folder, replace(failed, status="failed", error="<b>no space</b> left", final={}, history={}))
    (folder / "figures").mkdir()
    (folder / "figures/09_old.png").write_bytes(b"old")
    (folder / "figures/.01_curves-x7.png").write_bytes(b"of a process that is writing it")
    return folder, write_report(folder).read_text(encoding="utf-8")


def _edges(labels, point, seed):
    # The higher the rate, the better, up to the end of the grid; Adam's largest diverges.
    rate = point["optimizer.lr"]
    accuracy = (
        0.9 + 0.02 * math.log10(rate) + 0.001 * (seed % 5) + {"SGD": 0, "Adam": 0.01, "Muon": 0.02}[labels["optimizer"]]
    )
    return accuracy, 50 if labels["optimizer"] == "Adam" and rate >= 1 else None


def text_of(page):
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<style>.*?</style>", "", page))))


def test_the_page_answers_the_question(whole):
    page = text_of(whole[1])
    assert 'Is <script>alert("a")</script> & co. best?' in page
    # Muon: 92 % and 0 to 4 tenths, with a standard deviation of sqrt(2.5) tenths: 2.776 * 0.158 / sqrt(5) = 0.196
    assert (
        "Best is Muon with a final validation accuracy of 92.20 % (95 % interval 92.00 % to 92.40 %, 5 seeds)" in page
    )
    assert "it is distinguishably better than both others." in page
    assert "All 27 trials are done, 1 diverged and 1 failed." in page


def test_nothing_from_the_study_is_markup(whole):
    page = whole[1]
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<b>" not in page
    assert "&lt;b&gt;no space&lt;/b&gt; left" in page


def test_the_page_needs_no_other_file(whole):
    page = whole[1]
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "@import" not in page
    assert "url(" not in page
    images = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)"', page)
    assert len(images) == 2
    assert all(b"</svg>" in base64.b64decode(content) for content, _ in images)
    anchors = {source[1:] for source in sources if source.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]+)"', page))


def test_figures_are_written_and_old_ones_removed(whole):
    folder, page = whole
    names = {path.name for path in (folder / "figures").iterdir()}
    drawn = {f"{name}.{suffix}" for name in ("01_curves", "02_sensitivity") for suffix in ("png", "svg")}
    assert names == {*drawn, ".01_curves-x7.png"}
    assert "Not drawn: No run has left a gradient_flow.json" in page
    assert (folder / "results.csv").is_file()


def test_tables_tell_numbers_edges_and_reasons(whole):
    page = text_of(whole[1])
    row = r"Muon learning rate 1 \(edge of its range\) 92\.20 0\.16 5 92\.00 to 92\.40 0 0"
    assert re.search(row, page), page[:3000]
    assert "learning rate: a better value may lie beyond" in page
    assert "training loss not finite or above 100 at step 50" in page
    assert "full grid of optimizer.lr 0.001 to 1 (log, 4 points)" in page
    assert "python 3.12" in page
    for result in load_results(whole[0]):
        assert html.escape(result.command) in whole[1] or result.command in page


def test_a_part_of_the_results_is_told(tmp_path):
    folder = write_study(
        tmp_path, "figures: [{kind: bars}]\n", keep=lambda r: r.seed < 2 and r.labels["optimizer"] != "Muon"
    )
    page = text_of(write_report(folder).read_text(encoding="utf-8"))
    assert "4 of 15 trials are there so far." in page
    assert "Best so far is SGD" in page


def test_one_process_at_a_time_writes_the_report(tmp_path):
    folder = write_study(tmp_path, keep=lambda result: False)
    (tmp_path / "other").mkdir()
    result = load_results(write_study(tmp_path / "other", keep=lambda result: result.seed == 0))[0]
    writer = threading.Thread(target=write_report, args=[folder])
    with reporting(folder):
        writer.start()
        writer.join(timeout=0.5)
        write_result(folder, result)
    writer.join(timeout=60)
    assert "1 of 15 trials are there so far" in text_of((folder / "report.html").read_text(encoding="utf-8"))


def test_no_results_are_a_page_too(tmp_path):
    folder = write_study(tmp_path, TUNING + FIGURES, keep=lambda result: False)
    page = text_of(write_report(folder).read_text(encoding="utf-8"))
    assert "there is no answer" in page
    assert "0 of 27 trials are there so far." in page
    assert "Not drawn: There are no final trials yet." in page
    assert "No trial has ended yet." in page


def test_a_folder_of_no_study_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not the folder of a study"):
        write_report(tmp_path)


def rows_of(groups):
    """Summary of a study whose optimizers have these accuracies; NaN diverged."""
    study = make_study(seeds=5)
    results = [
        replace(
            result,
            final={"val/accuracy": groups[result.labels["optimizer"]][result.seed]},
            status="diverged" if math.isnan(groups[result.labels["optimizer"]][result.seed]) else "finished",
        )
        for result in make_results(study)
        if result.seed < len(groups[result.labels["optimizer"]])
    ]
    return study, summary_table(study, results)


NAN = math.nan


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        (
            {"SGD": [0.9, 0.91, 0.92], "Adam": [0.89, 0.91, 0.93], "Muon": [0.5, 0.51, 0.52]},
            "Best is SGD with a final validation accuracy of 91.00 % (95 % interval 88.52 % to 93.48 %, 3 seeds); "
            "Adam is not distinguishable from it; 1 is distinguishably worse.",
        ),
        (
            {"SGD": [0.9], "Adam": [0.8], "Muon": [0.7]},
            "Best is SGD with a final validation accuracy of 90.00 % (1 seed, so no interval); Adam and Muon have too "
            "few finished runs to be compared with it.",
        ),
        (
            {"SGD": [0.95, 0.96, NAN], "Adam": [0.89, 0.90, 0.91], "Muon": [NAN, NAN, NAN]},
            "Best is Adam with a final validation accuracy of 90.00 % (95 % interval 87.52 % to 92.48 %, 3 seeds); "
            "Muon diverged and has no finished run; SGD had a better mean where runs finished, but others diverged.",
        ),
        (
            {"SGD": [0.9, 0.92, 0.91], "Adam": [NAN, NAN, NAN], "Muon": [NAN, NAN, NAN]},
            "Best is SGD with a final validation accuracy of 91.00 % (95 % interval 88.52 % to 93.48 %, 3 seeds); "
            "Adam and Muon diverged and have no finished run.",
        ),
        (
            {"SGD": [0.9, 0.9], "Adam": [0.8, 0.8], "Muon": [0.5, 0.51]},
            "Best is SGD with a final validation accuracy of 90.00 % (95 % interval 90.00 % to 90.00 %, 2 seeds); "
            "Adam cannot be tested against it, since results do not vary over seeds; 1 is distinguishably worse.",
        ),
        ({"SGD": [0.9, 0.9], "Adam": [], "Muon": []}, None),
        (
            {"SGD": [NAN], "Adam": [NAN], "Muon": [NAN]},
            "No trial of the final stage has finished yet, so there is no answer.",
        ),
    ],
)
def test_answers(groups, sentence):
    study, rows = rows_of(groups)
    only = "SGD, with a final validation accuracy of 90.00 % (95 % interval 90.00 % to 90.00 %, 2 seeds)."
    expected = sentence or f"The only one with a result is {only}"
    assert answer(study, rows, complete=True) == expected


def test_pairs_are_tested_with_their_correction():
    study, rows = rows_of({"SGD": [0.90, 0.91, 0.92], "Adam": [0.80, 0.81, 0.82], "Muon": [0.9]})
    table = comparisons(study, rows)
    first = table.rows[0]
    assert first[:3] == ("SGD", "Adam", "+10.00")
    # t = 0.1 / sqrt(2 * 0.01**2 / 3) = 12.25 with 4 degrees of freedom
    assert first[5:] == ("< 0.001", "< 0.001", "different")
    assert "2 finished runs each are needed" in table.rows[1][-1]
    assert summary(study, rows).marked == {0}


def test_pairs_without_scatter_are_not_tested():
    study, rows = rows_of({"SGD": [0.9, 0.9], "Adam": [0.8, 0.8], "Muon": [0.5, 0.6]})
    table = comparisons(study, rows)
    assert table is not None
    reason = "not testable: results do not vary over seeds"
    assert table.rows[0] == ("SGD", "Adam", "+10.00", *4 * ("–",), reason)
    only_constant = rows_of({"SGD": [0.9, 0.9], "Adam": [0.8, 0.8], "Muon": [0.5, 0.5]})
    assert comparisons(*only_constant) is None


@pytest.mark.parametrize(
    ("metric", "tuned", "sentence"),
    [
        ("val/loss", True, ", evaluated at the same steps; validation data choose and compare, nothing is fitted to"),
        ("val/loss", False, ", evaluated at the same steps; validation data compare, nothing is fitted to the test"),
        ("train/loss", False, "; scalars of training compare, data that were held out take no part"),
        ("test/accuracy", True, "; the test data choose and compare and so favor what they have chosen"),
        ("test/accuracy", False, "; the test data compare"),
        ("grad/max_min_ratio", True, ""),
    ],
)
def test_the_protocol_names_the_data_that_decide(metric, tuned, sentence):
    study = make_study(tuned=tuned)
    study = replace(study, metric=replace(study.metric, name=metric))
    said = dict(protocol(study))["Evaluation"]
    assert said.startswith(f"every run is a complete schedule without early stopping{sentence}")
    assert len(said) < 60 or sentence
    assert ("validation" in said, "test data" in said) == (metric.startswith("val"), metric.startswith(("val", "test")))


def test_the_protocol_tells_how_many_trials_an_extended_grid_had():
    study = make_study(tuned=True)
    assert study.tuning is not None
    results = make_results(study)
    same = "; the same number of trials for every cell that is tuned; seed 1000;"
    assert same in dict(protocol(study, results))["Tuning"]
    study = replace(study, tuning=replace(study.tuning, extend=True))
    assert "same number of trials for every cell that is tuned, unless" in dict(protocol(study, results))["Tuning"]
    results += [make_result({"optimizer": "Adam"}, {"optimizer.lr": rate}, 1000, "tuning") for rate in (10.0, 100.0)]
    said = dict(protocol(study, results))["Tuning"]
    assert "4 to 6 trials a cell, since grids with the best point on their edge were extended; seed 1000" in said
    assert "same number" not in said


def _muon_diverges(labels, point, seed):
    accuracy = {"SGD": 0.95, "Adam": 0.92, "Muon": 0.99}[labels["optimizer"]] + seed % 7 / 1e3
    distance = abs(math.log10(point["optimizer.lr"] / 0.1))
    return accuracy - distance, 50 if labels["optimizer"] == "Muon" else None


def test_a_cell_whose_tuning_diverged_everywhere_is_named_and_has_missed_the_target(tmp_path):
    folder = write_study(tmp_path, TUNING + "figures: [{kind: profile}]\n", truth=_muon_diverges)
    assert not [result for result in load_results(folder) if result.stage == "final" and "Muon" in result.cell]
    page = text_of(write_report(folder).read_text(encoding="utf-8"))
    assert "All 22 trials are done, 4 diverged." in page
    said = "1 is distinguishably worse; Muon has no final trials, since runs diverged at every point of the tuning."
    assert said in page
    assert "better than" not in page.partition("Contents")[0]
    assert re.search(r"Muon diverged everywhere – – 0", page)
    assert re.search(r"Muon 0\.00 0\.00 0\.25 0\.25", page)
    assert "What diverged at every point of its tuning has missed." in page
    # An error is no divergence.
    for result in load_results(folder):
        if result.stage == "tuning" and "Muon" in result.cell and result.point["optimizer.lr"] == 1.0:
            write_result(folder, replace(result, status="failed", error="no space"))
    page = text_of(write_report(folder).read_text(encoding="utf-8"))
    assert "Muon has no final trials" not in page
    assert "better than" not in page.partition("Contents")[0]
    assert "Muon diverged everywhere" not in page


def test_the_interval_and_the_test_that_a_study_asks_for_are_used_and_named(tmp_path):
    folder = write_study(tmp_path, "statistics: {interval: bootstrap, test: paired}\nfigures: [{kind: bars}]\n")
    study, results = load_stored(folder), load_results(folder)
    rows = summary_table(study, results_of(study, results))
    assert rows[0].value == summarize(list(rows[0].values.values()), "bootstrap")
    assert rows[0].value != summarize(list(rows[0].values.values()))
    page = text_of(write_report(folder).read_text(encoding="utf-8"))
    assert "bootstrap 95 % intervals, paired t-test for pairs with Holm's correction at the level 0.05" in page
    assert "intervals are bootstrap, training s the mean time" in page
    assert "Paired t-test; p-values" in page
    assert "95 % interval (bootstrap)" in page
    assert "Student" not in page
    assert "Welch" not in page
    table = comparisons(study, rows)
    pair = compare_pairs({row.name: row.values for row in rows}, "paired")[0]
    assert table is not None
    assert table.rows[0][5] == ("< 0.001" if pair.p_value < 0.001 else f"{pair.p_value:.3f}")


def _by_task(labels, point, seed):
    accuracy = {("SGD", "easy"): 0.99, ("Adam", "easy"): 0.98, ("SGD", "hard"): 0.5, ("Adam", "hard"): 0.6}
    return accuracy[labels["optimizer"], labels["task"]] + 0.001 * seed, None


def test_workloads_are_never_compared_with_each_other():
    optimizers = Axis("optimizer", {"SGD": {}, "Adam": {}})
    tasks = Axis("task", {"easy": {}, "hard": {}})
    study = make_study(axes=(optimizers, tasks), seeds=3, workloads=("task",))
    rows = summary_table(study, make_results(study, _by_task))
    assert answer(study, rows, complete=True) == (
        "On easy, best is SGD with a final validation accuracy of 99.10 % (95 % interval 98.85 % to 99.35 %, 3 seeds); "
        "it is distinguishably better than the other. "
        "On hard, best is Adam with a final validation accuracy of 60.10 % (95 % interval 59.85 % to 60.35 %, "
        "3 seeds); it is distinguishably better than the other."
    )
    table = comparisons(study, rows)
    assert table is not None
    assert [row[:4] for row in table.rows] == [("easy", "SGD", "Adam", "+1.00"), ("hard", "SGD", "Adam", "−10.00")]
    marked = summary(study, rows).marked
    assert [tuple(rows[place].labels.values()) for place in sorted(marked)] == [("SGD", "easy"), ("Adam", "hard")]


def test_cells_that_ask_for_the_same_trial_share_its_result(tmp_path):
    # Adam's tuned rate is 0.1: the trial of the cell that has it fixed is the same, and runs once.
    axes = "{optimizer: {Adam: {optimizer: adam}, Adam at 0.1: {optimizer: adam, optimizer.lr: 0.1}}}"
    tuning = TUNING.replace("{seeds:", "{spaces: {Adam at 0.1: {}}, seeds:")
    folder = write_study(tmp_path, f"scales: {{smoke: {{axes: {axes}, {tuning.strip()}}}}}")
    assert len(load_results(folder)) == 4 + 5
    study = load_stored(folder)
    results = results_of(study, load_results(folder))
    assert [result.cell for result in results].count(("Adam at 0.1",)) == 5
    page = text_of(write_report(folder).read_text(encoding="utf-8"))
    assert "All 14 trials are done, 1 diverged." in page
