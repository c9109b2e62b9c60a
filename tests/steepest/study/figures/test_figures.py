import inspect
import math
from dataclasses import replace

import numpy
import pytest
from matplotlib.colors import to_hex
from scipy import stats

from steepest.common.plotting import SERIES
from steepest.study.analysis.selection import is_log_spaced
from steepest.study.analysis.wording import aligned, number, spoken, wrapped
from steepest.study.figures import FIGURES, NothingToDraw, draw
from steepest.study.figures.style import looks
from steepest.study.question.axes import numbers_of
from steepest.study.question.definition import Axis
from tests.steepest.study.figures.artists import NOWHERE, labels_of, legend_of, lines, one
from tests.steepest.study.synthetic import OPTIMIZERS, STEPS, make_result, make_results, make_study, values

RATES = values("learning_rate", "optimizer.lr", [1e-3, 1e-2, 1e-1, 1.0])
WIDTHS = values("width", "model.network.width", [1, 2, 4])


def test_curves_are_means_with_their_intervals():
    study = make_study()
    results = make_results(study)
    axes = one(study, results, kind="curves").figure.axes[0]
    assert len(axes.lines) == 3
    assert len(axes.collections) == 3
    accuracies = [result.final["val/accuracy"] for result in results if result.labels["optimizer"] == "Adam"]
    assert axes.lines[1].get_xdata()[-1] == STEPS
    assert axes.lines[1].get_ydata()[-1] == pytest.approx(numpy.mean(accuracies))
    low, high = stats.t.interval(0.95, 4, numpy.mean(accuracies), stats.sem(accuracies))
    ends = [y for x, y in axes.collections[1].get_paths()[0].vertices if x == STEPS]
    assert (min(ends), max(ends)) == pytest.approx((low, high))
    assert axes.get_ylabel() == "validation accuracy (%)"
    assert legend_of(axes.figure) == ["SGD", "Adam", "Muon"]


def test_curves_of_few_seeds_are_thin_lines_beside_the_mean():
    study = make_study(seeds=2)
    drawing = one(study, make_results(study), kind="curves", x="time")
    axes = drawing.figure.axes[0]
    assert [line.get_linewidth() < 1 for line in axes.lines] == [True, True, False] * 3
    assert numpy.isnan([path.vertices for own in axes.collections for path in own.get_paths()]).all()
    # The mean of two clocks: 0.010 and 0.012 s a step.
    assert axes.lines[2].get_xdata()[-1] == pytest.approx(0.011 * STEPS)
    assert axes.get_xlabel() == "training time (s)"


def test_curves_on_a_logarithmic_axis_have_intervals_of_the_logarithms():
    study = make_study([RATES], seeds=3)
    results = [
        replace(result, history={"val/loss": [[10, 1.0, 10.0**result.seed], [20, 2.0, 1e-3 * 10.0**result.seed]]})
        for result in make_results(study, lambda labels, point, seed: (0.9, None))
    ]
    drawing = one(study, results, kind="curves", metric="val/loss", only={"learning_rate": "0.1"})
    axes = drawing.figure.axes[0]
    assert axes.get_yscale() == "log"
    assert axes.lines[0].get_ydata() == pytest.approx([10.0, 0.01])
    low, high = stats.t.interval(0.95, 2, 1.0, stats.sem([0.0, 1.0, 2.0]))
    band = axes.collections[0].get_paths()[0].vertices
    ends = [y for x, y in band if x == 10]
    assert (min(ends), max(ends)) == pytest.approx((10.0**low, 10.0**high))
    assert "of the logarithms" in drawing.caption


def test_long_names_do_not_squeeze_the_bars():
    named = Axis("optimizer", {f"an optimizer with a rather long name, number {k}": {} for k in range(3)})
    study = make_study([named])
    drawing = one(study, make_results(study, lambda labels, point, seed: (0.9 + seed / 100, None)), kind="bars")
    drawing.figure.draw_without_rendering()
    assert drawing.figure.axes[0].get_window_extent().width > 0.3 * drawing.figure.bbox.width
    assert all(text.get_window_extent().x0 >= 0 for text in drawing.figure.axes[0].get_yticklabels())


def test_diverged_seeds_end_in_a_cross_and_leave_the_mean_alone():
    study = make_study([OPTIMIZERS, RATES])
    figure = one(study, make_results(study), kind="curves", metric="train/loss").figure
    assert [axes.get_title("left") for axes in figure.axes] == [
        f"learning rate {rate}" for rate in ("0.001", "0.01", "0.1", "1")
    ]
    last = figure.axes[3]
    crosses = lines(last, "X")
    assert len(crosses) == 3 * 3  # seeds 0, 2 and 4 of each optimizer
    assert sorted({cross.get_xdata()[0] for cross in crosses}) == [60, 80, 100]
    assert last.get_ylim()[1] < 1e3  # losses of 1e4 do not press the others flat
    assert last.get_yscale() == "log"
    assert all(not lines(axes, "X") for axes in figure.axes[:3])


def test_many_numbers_have_a_color_bar_instead_of_a_legend():
    rates = values("learning_rate", "optimizer.lr", [10 ** (k / 4 - 3) for k in range(9)])
    figure = one(make_study([rates]), make_results(make_study([rates])), kind="curves").figure
    assert not figure.legends
    assert figure.axes[1].get_ylabel() == "learning rate"
    colors = [to_hex(line.get_color()) for line in figure.axes[0].lines if len(line.get_xdata()) == 20]
    assert len(set(colors)) == 9


def test_a_label_looks_the_same_in_all_figures():
    study = make_study()
    results = make_results(study)
    expected = looks(OPTIMIZERS)["Adam"]
    assert expected.color == SERIES[1]
    kept = {"kind": "curves", "only": {"optimizer": ["Adam"]}}
    assert one(study, results, **kept).figure.axes[0].lines[0].get_color() == expected.color
    for kind in ("bars", "targets"):
        marks = lines(one(study, results, kind=kind).figure.axes[0], "D")
        assert expected.color in [mark.get_color() for mark in marks]
    many = looks(Axis("many", {f"name {k}": {} for k in range(20)}))
    assert len({look.color for look in many.values()}) == 20
    assert many["name 0"].dashes != many["name 8"].dashes != many["name 16"].dashes


def test_bars_are_sorted_with_diverged_cells_last():
    study = make_study([OPTIMIZERS, RATES])
    results = make_results(study)
    axes = one(study, results, kind="bars").figure.axes[0]
    labels = labels_of(axes)
    assert labels[0] == "SGD, learning rate 0.1"
    assert labels[-3:] == [f"{name}, learning rate 1 (3 of 5 diverged)" for name in ("SGD", "Adam", "Muon")]
    means = [mark.get_xdata()[0] for mark in lines(axes, "D")]
    assert means[:9] == sorted(means[:9], reverse=True)
    assert sum(len(own.get_xdata()) for own in lines(axes, ".")) == 9 * 5 + 3 * 2
    assert axes.texts[0].get_text() == f"{100 * means[0]:.2f} %"


def test_workloads_have_a_panel_each_and_are_ranked_within():
    tasks = Axis("task", {"easy": {}, "hard": {}})
    study = make_study([tasks, OPTIMIZERS], seeds=3, workloads=("task",))
    ends = {"easy": {"SGD": 0.99, "Adam": 0.95, "Muon": 0.97}, "hard": {"SGD": 0.6, "Adam": 0.92, "Muon": 0.5}}
    results = make_results(
        study, lambda labels, point, seed: (ends[labels["task"]][labels["optimizer"]] + seed / 1e3, None)
    )
    drawing = one(study, results, kind="bars")
    assert [axes.get_title("left") for axes in drawing.figure.axes] == ["easy", "hard"]
    assert [labels_of(axes) for axes in drawing.figure.axes] == [["SGD", "Muon", "Adam"], ["Adam", "SGD", "Muon"]]
    colors = [[mark.get_color() for mark in lines(axes, "D")] for axes in drawing.figure.axes]
    sgd, adam, muon = (look.color for look in looks(OPTIMIZERS).values())
    assert colors == [[sgd, muon, adam], [adam, sgd, muon]]
    assert "easy: SGD 99.10 %; Muon" in drawing.alternative
    # A workload in which nothing finished has no panel; too many are refused.
    easy = [replace(each, status="failed", final={}) if each.labels["task"] == "hard" else each for each in results]
    drawing = one(study, easy, kind="bars")
    assert len(drawing.figure.axes) == 1
    assert "No run finished on hard." in drawing.caption
    many = make_study([Axis("task", {f"task {k}": {} for k in range(13)}), OPTIMIZERS], seeds=1, workloads=("task",))
    with pytest.raises(NothingToDraw, match="13 panels, one for each workload"):
        draw(many, make_results(many, lambda *_: (0.95, None)), NOWHERE, {"kind": "bars"})


@pytest.mark.parametrize(("tuned", "axes"), [(True, [OPTIMIZERS]), (False, [OPTIMIZERS, RATES])])
def test_sensitivity_marks_the_best_and_the_diverged(tuned, axes):
    study = make_study(axes, tuned=tuned)
    drawing = one(study, make_results(study, _even_diverges), kind="sensitivity")
    panel = drawing.figure.axes[0]
    assert panel.get_xscale() == "log"
    stars = lines(panel, "*")
    assert [star.get_xdata()[0] for star in stars] == [0.1] * 3
    assert all(star.get_markerfacecolor() != "white" for star in stars)
    crosses = lines(panel, "x")
    assert [cross.get_xdata()[0] for cross in crosses] == [1.0] * 3
    assert ("tuning" in drawing.caption) == tuned


def _even_diverges(labels, point, seed):
    rate = float(point.get("optimizer.lr", labels.get("learning_rate", 0.1)))
    return 0.9 - 0.1 * math.log10(rate / 0.1) ** 2 + 1e-3 * seed % 7, 50 if rate >= 1 and seed % 2 == 0 else None


def test_sensitivity_of_a_best_point_on_the_edge_is_hollow():
    study = make_study([RATES])
    results = make_results(
        study, lambda labels, point, seed: (1 - float(labels["learning_rate"]) / 2 + seed / 1e3, None)
    )
    drawing = one(study, results, kind="sensitivity")
    (star,) = lines(drawing.figure.axes[0], "*")
    assert star.get_markerfacecolor() == "white"
    assert "best at 0.001 (at the edge)" in drawing.alternative
    # Nobody said whether more or less of another scalar is better.
    other = one(study, results, kind="sensitivity", metric="val/loss")
    assert not lines(other.figure.axes[0], "*")
    assert "star" not in other.caption
    assert "best" not in other.alternative


def test_envelope_ends_where_the_first_seed_diverges():
    study = make_study([OPTIMIZERS, RATES])
    drawing = one(study, make_results(study), kind="envelope")
    axes = drawing.figure.axes[0]
    limits = [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]]
    assert limits == [0.1] * 3
    assert "SGD: stable up to 0.1" in legend_of(drawing.figure)
    assert [list(line.get_xdata()) for line in lines(axes, "X")] == [[1.0]] * 3


def test_transfer_tells_optimum_value_and_spread():
    def truth(labels, point, seed):
        best = 0.1 if labels["optimizer"] == "Muon" else 0.1 / float(labels["width"])
        distance = math.log10(float(labels["learning_rate"]) / best)
        return 0.9 + 0.01 * float(labels["width"]) - 0.02 * distance**2 + seed / 1e4, None

    study = make_study([OPTIMIZERS, WIDTHS, RATES])
    results = make_results(study, truth)
    drawing = one(study, results, kind="transfer")
    rates, accuracies, spreads = drawing.figure.axes
    optima = [line.get_ydata() for line in lines(rates)]
    # The parabola through three points of a parabola is that parabola.
    assert optima[2] == pytest.approx([0.1, 0.1, 0.1])
    assert optima[0] == pytest.approx([0.1, 0.05, 0.025], rel=1e-6)
    middle = accuracies.lines[2].get_ydata()
    assert spreads.patches[2].get_height() == pytest.approx(numpy.std(middle, ddof=1))
    for text in (drawing.caption, drawing.alternative):
        assert "Best learning rate at width 1, 2 and 4, and its shift from the first to the last: SGD 0.1" in text
        assert "SGD 0.1, 0.05 and 0.025 (−2.0 octaves); Adam 0.1, 0.05 and 0.025 (−2.0 octaves); Muon" in text
        assert text.endswith("Muon 0.1, 0.1 and 0.1 (+0.0 octaves).")


@pytest.mark.parametrize(
    ("best", "words"),
    [
        ((0.01, 0.1, 1.0), "0.01, 0.1 and 1 at the edge (at least +6.6 octaves)."),
        ((0.001, 0.01, 0.01), "0.001 at the edge, 0.01 and 0.01 (at least +3.3 octaves)."),
        ((0.1, 0.01, 0.001), "0.1, 0.01 and 0.001 at the edge (at most −6.6 octaves)."),
        ((1.0, 0.1, 0.1), "1 at the edge, 0.1 and 0.1 (at most −3.3 octaves)."),
        ((1.0, 0.1, 1.0), "1 at the edge, 0.1 and 1 at the edge (shift not known)."),
        ((0.001, 0.1, 1.0), "0.001 at the edge, 0.1 and 1 at the edge (at least +10.0 octaves)."),
        ((0.01, 1.0, 0.01), "0.01, 1 at the edge and 0.01 (+0.0 octaves)."),
    ],
)
def test_transfer_from_or_to_an_edge_is_a_bound(best, words):
    study = make_study([WIDTHS, RATES], seeds=1)
    at = dict(zip(WIDTHS.alternatives, best, strict=True))

    def truth(labels, point, seed):
        return 0.9 - 0.02 * math.log10(float(labels["learning_rate"]) / at[labels["width"]]) ** 2, None

    assert one(study, make_results(study, truth), kind="transfer").caption.endswith(words)


def test_profile_has_a_step_line_for_each_alternative():
    study = make_study()
    drawing = one(study, make_results(study), kind="profile")
    assert legend_of(drawing.figure)[0] == "SGD: 1.00"
    assert drawing.figure.axes[0].lines[0].get_ydata()[0] == 1.0
    assert "5 seeds" in drawing.caption


def test_scatter_takes_differences_of_scalars():
    study = make_study()
    results = make_results(study)
    axes = one(study, results, kind="scatter").figure.axes[0]
    points = sorted(tuple(point) for line in axes.lines for point in line.get_xydata())
    expected = sorted(
        (r.final["sharpness/batch"], r.final["train/accuracy"] - r.final["val/accuracy"]) for r in results
    )
    assert numpy.array(points) == pytest.approx(numpy.array(expected))
    assert axes.get_ylabel() == "training accuracy −\nvalidation accuracy (%)"


def test_a_logarithmic_axis_of_few_decades_has_plain_numbers():
    study = make_study()
    results = make_results(study)
    for place, result in enumerate(results):
        result.final["sharpness/batch"] = 2.0 * 1.3 ** (place % 14)  # a factor of 30: wide, and less than two decades
    axes = one(study, results, kind="scatter").figure.axes[0]
    axes.figure.draw_without_rendering()
    assert axes.get_xscale() == "log"
    assert {"2", "5", "10", "20", "50"} <= {label.get_text() for label in axes.get_xticklabels()}
    assert not any(label.get_text() for label in axes.get_xticklabels(minor=True))


NEEDS_FILES = {"layers", "trajectories", "gallery"}  # of runs; they are drawn in test_artists.py


@pytest.mark.parametrize("kind", sorted(FIGURES.keys() - NEEDS_FILES))
def test_every_kind_draws_a_study_of_two_axes_twice_the_same(kind):
    study = make_study([OPTIMIZERS, WIDTHS], tuned=True)
    shown = []
    for _ in range(2):
        drawings = draw(study, make_results(study), NOWHERE, {"kind": kind})
        for drawing in drawings:
            assert drawing.title
            assert drawing.caption.endswith(".")
            assert drawing.alternative.endswith(".")
            assert drawing.figure is not None
        shown.append([(drawing.title, drawing.caption, drawing.alternative) for drawing in drawings])
    assert shown[0] == shown[1] != []


@pytest.mark.parametrize("kind", FIGURES)
def test_every_kind_describes_its_options(kind):
    text = inspect.getdoc(FIGURES[kind]) or ""
    assert len(text.splitlines()[0]) > 20
    study, results, folder, *options = inspect.signature(FIGURES[kind]).parameters
    assert (study, results, folder) == ("study", "results", "folder")
    for option in options:
        assert f"\n    {option}: " in text


@pytest.mark.parametrize("kind", FIGURES)
def test_nothing_to_draw_is_told(kind):
    options = {"file": "figures/a.png"} if kind == "gallery" else {}
    for results in ([], [replace(make_result({"optimizer": "SGD"}, {}, 0), status="failed", history={}, final={})]):
        with pytest.raises(NothingToDraw, match=r"^[A-Z].*\.$"):
            draw(make_study(), results, NOWHERE, {"kind": kind, **options})


def test_words_and_numbers():
    assert [number(value) for value in (0.0, 0.5, 1234.5, 123456, 2e-5, math.nan, math.inf)] == [
        *("0", "0.5", "1,234", "123,456", "2e-5", "–", "∞")
    ]
    assert aligned("val/loss", [0.5, 0.25, math.nan]) == ["0.5000", "0.2500", "–"]
    assert aligned("val/accuracy", [0.5, 0.98765]) == ["50.00 %", "98.77 %"]
    assert spoken(["a", "b", "c"]) == "a, b and c"
    assert "\n" in wrapped("training accuracy minus validation accuracy")
    assert numbers_of(OPTIMIZERS) is None
    assert numbers_of(Axis("zero", {"0": {}, "0.31": {}})) == {"0": 0.0, "0.31": 0.31}
    assert is_log_spaced([1, 2, 4])
    assert not is_log_spaced([1, 2, 3])
    assert not is_log_spaced([0, 1, 100])


def test_bars_hold_means_intervals_and_every_seed():
    study = make_study()
    results = make_results(study)
    drawn = one(study, results, kind="bars").figure.axes[0]
    names = labels_of(drawn)
    marks, points = lines(drawn, "D"), lines(drawn, ".")
    spans = [line for line in lines(drawn) if len(line.get_xdata()) == 2]
    for row, (name, mark, span, seeds) in enumerate(zip(names, marks, spans, points, strict=True)):
        own = [result.final["val/accuracy"] for result in results if result.labels["optimizer"] == name]
        assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (pytest.approx(numpy.mean(own)), row)
        assert tuple(span.get_xdata()) == pytest.approx(stats.t.interval(0.95, 4, numpy.mean(own), stats.sem(own)))
        assert list(span.get_ydata()) == [row, row]
        assert sorted(seeds.get_xdata()) == sorted(own)
        assert max(abs(seeds.get_ydata() - row)) == pytest.approx(0.18)
    assert drawn.get_ylim() == (2.5, -0.5)  # the best at the top


@pytest.mark.parametrize(
    ("end", "top", "foot"), [(lambda name: 0.9, 0, False), (lambda name: {"SGD": 0.9}.get(name, 0.3), 3, True)]
)
def test_bars_stand_on_zero_where_that_tells_them_apart(end, top, foot):
    study = make_study()
    results = make_results(study, lambda labels, point, seed: (end(labels["optimizer"]) + seed / 1e4, None))
    drawn = one(study, results, kind="bars").figure.axes[0]
    assert len(drawn.patches) == top
    assert all(bar.get_x() == 0 for bar in drawn.patches) is True
    means = sorted(mark.get_xdata()[0] for mark in lines(drawn, "D"))
    assert sorted(bar.get_width() for bar in drawn.patches) == pytest.approx(means if foot else [])


@pytest.mark.parametrize(("worst", "words"), [(None, "at least 1"), (1.0, "up to 0.1"), (0.001, None)])
def test_an_envelope_says_whether_the_limit_was_seen(worst, words):
    study = make_study([RATES])

    def truth(labels, point, seed):
        rate = float(labels["learning_rate"])
        return 0.9 - rate / 10, 60 if worst is not None and rate >= worst and seed == 1 else None

    results = make_results(study, truth)
    drawing = one(study, results, kind="envelope")
    said = "none stable" if words is None else f"stable {words}"
    assert legend_of(drawing.figure)[0] == said
    assert said.capitalize() in drawing.alternative or said in drawing.alternative.lower()
    # Means over the seeds that did not diverge, and all of them as points.
    axes = drawing.figure.axes[0]
    kept = {rate: [] for rate in (1e-3, 1e-2, 1e-1, 1.0)}
    for result in results:
        if result.status == "finished":
            kept[float(result.labels["learning_rate"])].append(result.final["train/loss"])
    assert dict(zip(*axes.lines[0].get_data(), strict=True)) == pytest.approx(
        {rate: numpy.mean(own) for rate, own in kept.items()}
    )
    for line, (rate, own) in zip(axes.lines[1:5], kept.items(), strict=True):
        assert list(line.get_xdata()) == [rate] * len(own)
        assert sorted(line.get_ydata()) == pytest.approx(sorted(own))


@pytest.mark.parametrize(("seeds", "has_band"), [(2, False), (3, True), (4, True)])
def test_sensitivity_holds_means_and_intervals_from_three_seeds_on(seeds, has_band):
    study = make_study([RATES], seeds=seeds)
    results = make_results(
        study, lambda labels, point, seed: (0.9 - float(labels["learning_rate"]) / 9 - seed / 99, None)
    )
    axes = one(study, results, kind="sensitivity").figure.axes[0]
    for rate in (1e-3, 1e-2, 1e-1, 1.0):
        own = [result.final["val/accuracy"] for result in results if float(result.labels["learning_rate"]) == rate]
        (mean,) = [y for line in axes.lines if len(line.get_xdata()) == 4 for x, y in line.get_xydata() if x == rate]
        assert mean == pytest.approx(numpy.mean(own))
        ends = [y for path in axes.collections[0].get_paths() for x, y in path.vertices if x == rate]
        assert bool([end for end in ends if math.isfinite(end)]) is has_band
        if has_band:
            expected = stats.t.interval(0.95, seeds - 1, numpy.mean(own), stats.sem(own))
            assert (min(ends), max(ends)) == pytest.approx(expected)


def test_a_profile_holds_the_shares_by_how_much_slower():
    study = make_study()
    results = make_results(
        study, lambda labels, point, seed: ({"SGD": 0.98, "Adam": 0.94}.get(labels["optimizer"], 0.5), None)
    )
    axes = one(study, results, kind="profile").figure.axes[0]
    # a - (a - 0.1) exp(-step / 30) >= 0.9 at the next evaluation, for every seed alike; Muon never.
    slow, fast = (10 * math.ceil(3 * math.log((a - 0.1) / (a - 0.9))) for a in (0.94, 0.98))
    assert (slow, fast) == (100, 80)

    def share(line, ratio):
        reached = [y for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True) if x <= ratio]
        return reached[-1]

    sgd, adam, muon = axes.lines
    assert [share(line, 1.0) for line in (sgd, adam, muon)] == [1.0, 0.0, 0.0]
    assert [share(line, 1.24) for line in (sgd, adam, muon)] == [1.0, 0.0, 0.0]
    assert [share(line, 1.25) for line in (sgd, adam, muon)] == [1.0, 1.0, 0.0]
    assert axes.get_xlim()[0] == 1.0


def test_the_rank_correlation_is_that_of_the_points():
    study = make_study()
    results = make_results(study)
    pairs = [(r.final["sharpness/batch"], r.final["train/accuracy"] - r.final["val/accuracy"]) for r in results]
    found = stats.spearmanr(*zip(*pairs, strict=True))
    caption = one(study, results, kind="scatter").caption
    assert f"rank correlation is {found.statistic:.2f} (p = {number(found.pvalue)})" in caption
    assert "15 finished trials" in caption
