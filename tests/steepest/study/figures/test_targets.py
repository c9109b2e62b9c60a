"""Numbers that targets draw, read back and compared with ones worked out by hand."""

from dataclasses import replace

import pytest

from steepest.study.figures import NothingToDraw
from steepest.study.figures.style import looks
from steepest.study.question.definition import Axis
from tests.steepest.study.figures.artists import (
    BLUE,
    FOUR,
    GREEN,
    VERMILION,
    WIDTHS,
    all_of,
    data,
    drawn,
    labels_of,
    lines,
    one,
)
from tests.steepest.study.results import metric, trial
from tests.steepest.study.synthetic import OPTIMIZERS, make_study


def crossing(label, seed, step, seconds, value=0.9, **changes):
    """A trial that reaches 0.9 at that step and second; None for never."""
    points = [[5, 0.5, 0.3], [7, 0.7, None]]
    if step is not None:
        points += [[step, seconds, value], [2 * step, 3 * step, 0.95]]
    labels = label if isinstance(label, dict) else {"optimizer": label}
    return trial(labels, seed, history={"val/accuracy": points}, **changes)


def medians(axes):
    """Place, row and color of each large mark."""
    return [(*data(mark)[0], mark.get_color()) for mark in lines(axes, "D")]


def seeds_of(axes):
    """Places of the small points, row by row."""
    for row, line in enumerate(lines(axes, ".")):
        assert set(line.get_ydata()) <= {row}
    return [sorted(line.get_xdata()) for line in lines(axes, ".")]


def of_four():
    """Means, fastest seeds, seconds and the study file would all give another order than medians of steps do."""
    steps = {"SGD": (120, 130, 140), "Adam": (60, 90, None), "Muon": (100, 110, 300), "Lion": (20, None, None)}
    seconds = {"SGD": (1, 2, 4), "Adam": (3, 6, None), "Muon": (9, 2.5, 5), "Lion": (7, None, None)}
    found = [
        crossing(name, seed, *each)
        for name in steps
        for seed, each in enumerate(zip(steps[name], seconds[name], strict=True))
    ]
    # What failed, or belongs to tuning, counts neither as fast nor as missed.
    failed = crossing("SGD", 3, 10, 0.1, status="failed")
    return [*found, failed, crossing("Adam", 3, None, None, status="failed"), crossing("Muon", 9, 1, 1, stage="tuning")]


def test_targets_are_medians_in_order_of_misses_and_steps():
    drawing = one(make_study([FOUR]), of_four(), kind="targets")
    steps, seconds = drawing.figure.axes
    assert labels_of(steps) == ["Muon", "SGD", "Adam (1 of 3 missed)", "Lion (2 of 3 missed)"]
    colors = {label: look.color for label, look in looks(FOUR).items()}
    assert medians(steps) == [(110, 0, colors["Muon"]), (130, 1, colors["SGD"]), (90, 2, colors["Adam"])]
    assert medians(seconds) == [(5, 0, colors["Muon"]), (2, 1, colors["SGD"]), (6, 2, colors["Adam"])]
    assert seeds_of(steps) == [[100, 110, 300], [120, 130, 140], [60, 90], [20]]
    assert seeds_of(seconds) == [[2.5, 5, 9], [1, 2, 4], [3, 6], [7]]
    assert [axes.get_xscale() for axes in (steps, seconds)] == ["linear", "linear"]
    assert [axes.get_xlim() for axes in (steps, seconds)] == [(0, pytest.approx(318)), (0, pytest.approx(9.54))]
    assert [axes.get_ylim() for axes in (steps, seconds)] == [(3.5, -0.5)] * 2
    assert list(steps.get_yticks()) == [0, 1, 2, 3]
    assert [axes.get_xlabel() for axes in (steps, seconds)] == [
        "optimizer steps to target",
        "training seconds to target",
    ]
    assert [tick.tick1line.get_markersize() for tick in steps.yaxis.get_major_ticks()] == [0] * 4
    assert steps.get_title("left") == ""
    assert drawing.title == "Time to validation accuracy ≥ 90 %"
    assert "first evaluation with validation accuracy ≥ 90 %, in optimizer steps" in drawing.caption
    assert "workload" not in drawing.caption
    assert drawing.alternative == (
        "Median steps to validation accuracy ≥ 90 %: "
        "Muon 110; SGD 130; Adam (1 of 3 missed) 90; Lion (2 of 3 missed) ∞."
    )
    assert drawing.wide
    assert all(line.get_markersize() > 6 and line.get_zorder() > 3 for line in lines(steps, "D"))


def test_targets_have_no_median_with_half_of_the_seeds_missed():
    results = [crossing("SGD", seed, step, 1) for seed, step in enumerate((None, None, None, None))]
    # More seeds than Muon's have reached it, and a smaller share of them.
    results += [crossing("Adam", seed, step, 2) for seed, step in enumerate((10, 20, 20, None, None, None))]
    # The last was there, and ran away later: of no use.
    results += [crossing("Muon", 0, 30, 3), crossing("Muon", 1, 40, 4), crossing("Muon", 2, 40, 4, status="diverged")]
    results += [crossing("Lion", 0, None, None, status="failed")]  # no row for what only failed
    drawing = one(make_study([FOUR]), results, kind="targets")
    steps, seconds = drawing.figure.axes
    assert labels_of(steps) == ["Muon (1 of 3 missed)", "Adam (3 of 6 missed)", "SGD (4 of 4 missed)"]
    assert (medians(steps), medians(seconds)) == ([(40, 0, GREEN)], [(4, 0, GREEN)])
    assert seeds_of(steps) == [[30, 40], [10, 20, 20], []]
    assert seeds_of(seconds) == [[3, 4], [2, 2, 2], []]
    assert "Muon (1 of 3 missed) 40; Adam (3 of 6 missed) ∞; SGD (4 of 4 missed) ∞." in drawing.alternative


def test_targets_below_a_loss_are_reached_from_above():
    falls = [[10, 1, 2.0], [20, 2, 0.75], [30, 3, 0.5], [40, 4, 0.1]]
    results = [trial({"optimizer": "SGD"}, history={"val/loss": falls, "val/accuracy": [[10, 1, 0.99]]})]
    study = make_study(metric=metric(name="val/loss", mode="min", target=0.5, label="validation loss"))
    drawing = one(study, results, kind="targets")
    assert [medians(axes) for axes in drawing.figure.axes] == [[(30, 0, BLUE)], [(3, 0, BLUE)]]
    assert drawing.title == "Time to validation loss ≤ 0.5"


@pytest.mark.parametrize(
    ("slowest", "scale", "texts"),
    [
        (300, "linear", {"0", "100", "200", "300"}),
        (310, "log", {"10", "20", "50", "100", "200"}),
        (990, "log", {"10", "20", "50", "100", "200", "500", "1000"}),
        (1000, "log", {"$\\mathdefault{10^{1}}$", "$\\mathdefault{10^{2}}$", "$\\mathdefault{10^{3}}$"}),
    ],
)
def test_targets_far_apart_have_a_logarithmic_axis(slowest, scale, texts):
    results = [crossing("SGD", 0, 10, 3), crossing("SGD", 1, 20, 4), crossing("SGD", 2, slowest, 5)]
    steps, seconds = drawn(one(make_study(), results, kind="targets").figure).axes
    assert (steps.get_xscale(), seconds.get_xscale()) == (scale, "linear")
    low, high = steps.get_xlim()
    shown = zip(steps.get_xticks(), steps.get_xticklabels(), strict=True)
    assert {text.get_text() for place, text in shown if low <= place <= high} == texts
    assert not any(text.get_text() for text in steps.get_xticklabels(minor=True))


def test_targets_without_a_clock_have_steps_alone():
    results = [crossing("SGD", seed, step, None) for seed, step in enumerate((10, 20, 60))]
    steps, seconds = one(make_study(), results, kind="targets").figure.axes
    assert (medians(steps), medians(seconds)) == ([(20, 0, BLUE)], [])
    assert seeds_of(seconds) == [[]]


TASKS = Axis("task", {"easy": {}, "hard": {}, "lost": {}})


def of_tasks():
    """Adam is faster on one task and slower on the other; the third has only failed."""
    times = {("easy", "SGD"): 40, ("easy", "Adam"): 20, ("hard", "SGD"): 300, ("hard", "Adam"): None}
    found = [crossing({"task": task, "optimizer": name}, 0, time, 7) for (task, name), time in times.items()]
    return [*found, crossing({"task": "lost", "optimizer": "SGD"}, 0, 5, 5, status="failed")]


def test_targets_have_a_row_of_panels_for_each_workload():
    study = make_study([TASKS, OPTIMIZERS], workloads=("task",))
    drawing = one(study, of_tasks(), kind="targets")
    panels = drawing.figure.axes
    assert [axes.get_title("left") for axes in panels] == ["easy", "", "hard", ""]
    assert labels_of(panels[0]) == ["Adam", "SGD"]
    assert labels_of(panels[2]) == ["SGD", "Adam (1 of 1 missed)"]
    assert [medians(axes) for axes in panels[::2]] == [[(20, 0, VERMILION), (40, 1, BLUE)], [(300, 0, BLUE)]]
    assert [axes.get_xlabel() for axes in panels] == ["", "", "optimizer steps to target", "training seconds to target"]
    # Each has a range of its own.
    assert [axes.get_xlim()[1] for axes in panels] == pytest.approx([42.4, 7.42, 318, 7.42])
    assert "seconds inside training steps, a row of panels for each workload: the large mark" in drawing.caption
    assert drawing.alternative.endswith("easy: Adam 20; SGD 40. hard: SGD 300; Adam (1 of 1 missed) ∞.")


@pytest.mark.parametrize(
    ("options", "axis"), [({}, FOUR), ({"by": None}, FOUR), ({"by": "width"}, WIDTHS), ({"by": "optimizer"}, FOUR)]
)
def test_colors_of_targets_stand_for_an_axis(options, axis):
    names = [(name, width) for name in ("SGD", "Adam") for width in ("1", "2")]
    results = [
        crossing({"optimizer": name, "width": width}, 0, 10 * place, 1) for place, (name, width) in enumerate(names, 1)
    ]
    steps = one(make_study([FOUR, WIDTHS]), results, kind="targets", **options).figure.axes[0]
    assert labels_of(steps) == [f"{name}, width {width}" for name, width in names]
    own = looks(axis)
    expected = [own[name if axis is FOUR else width].color for name, width in names]
    assert [color for *_, color in medians(steps)] == expected


def test_targets_without_any_target_or_trial_are_refused():
    study = make_study()
    with pytest.raises(NothingToDraw, match="has no target"):
        all_of(replace(study, metric=metric(target=None)), of_four(), kind="targets")
    with pytest.raises(NothingToDraw, match="No trial has come to an end"):
        all_of(study, [crossing("SGD", 0, 10, 1, status="failed")], kind="targets")
