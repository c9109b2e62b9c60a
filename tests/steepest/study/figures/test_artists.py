"""Numbers that figures draw, read back from their artists and compared with ones worked out by hand."""

import io
import json
import math
from dataclasses import replace

import numpy
import pytest
from matplotlib.colors import to_hex, to_rgb
from PIL import Image, ImageSequence
from scipy import stats

from steepest.study.figures import NothingToDraw
from steepest.study.figures.gallery import LARGEST, MOST
from steepest.study.figures.style import looks
from steepest.study.question.definition import Axis
from tests.steepest.study.figures.artists import all_of, labels_of, legend_of, lines, one
from tests.steepest.study.results import INF, metric, trial
from tests.steepest.study.synthetic import OPTIMIZERS, make_results, make_study, values

BLUE, VERMILION, GREEN = (look.color for look in looks(OPTIMIZERS).values())
WIDTHS = values("width", "model.network.width", [1, 2])
FOUR = Axis("optimizer", {"SGD": {}, "Adam": {}, "Muon": {}, "Lion": {}})


def data(line):
    """The points of a line."""
    return [tuple(point) for point in line.get_xydata().tolist()]


def drawn(figure):
    """The figure after its layout, when ticks have their texts."""
    figure.draw_without_rendering()
    return figure


# Targets


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


# Layers


def leave_flow(folder, result, rows, names=("a", "b"), **changes):
    """Write what GradientFlowMonitor leaves: a row of norms for each measurement; a bias stands between the layers."""
    names = [each for name in names for each in (f"{name}.weight", f"{name}.bias", f"{name}.scale")]
    rows = [[each for norm in row for each in (norm, 1e6, 1e-6)] for row in rows]
    content = {
        # In another order than in the history, whose names count.
        "last": {"names": names[::-1], "roles": ["scale", "bias", "weight"] * (len(names) // 3)},
        "history": {"names": names, "steps": list(range(len(rows))), "gradient_norms": rows},
    }
    path = folder / result.run_folder / "gradient_flow.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | changes))


def flows(folder, norms):
    """A study with a run for each label, with these norms."""
    results = [trial({"optimizer": label}) for label in norms]
    for result, own in zip(results, norms.values(), strict=True):
        leave_flow(folder, result, [own])
    return make_study(), results


@pytest.mark.parametrize(
    ("when", "norms", "ratio", "words"),
    [
        # Over the run: of 1, 2 and 32 the mean is 4, of 4, 8 and 128 it is 16, and of both 8.
        ({}, [8, 3], "2.67", "geometric mean over the run and over the seeds"),
        ({"when": "run"}, [8, 3], "2.67", "geometric mean over the run and over the seeds"),
        ({"when": "first"}, [2, 6], "3", "at the first measurement and over the seeds"),
        ({"when": "last"}, [64, 2], "32", "at the last measurement and over the seeds"),
    ],
)
def test_layers_are_geometric_means(tmp_path, when, norms, ratio, words):
    results = [trial({"optimizer": "SGD"}, seed) for seed in (0, 1)]
    leave_flow(tmp_path, results[0], [[1, 4], [2, 0.25], [32, 1]])
    leave_flow(tmp_path, results[1], [[4, 9], [8, 20.25], [128, 4]])
    tuning = trial({"optimizer": "SGD"}, 2, stage="tuning")
    leave_flow(tmp_path, tuning, [[1e5, 1e5]])
    drawing = one(make_study(), [*results, tuning], tmp_path, kind="layers", **when)
    left, right = drawing.figure.axes
    (line,) = left.lines
    assert list(line.get_xdata()) == [1, 2]
    assert line.get_ydata() == pytest.approx(norms)
    assert (line.get_color(), line.get_marker()) == (BLUE, "o")
    assert [text.get_text() for text in right.texts] == [ratio]
    assert right.patches[0].get_width() == pytest.approx(max(norms) / min(norms) - 1)
    assert words in drawing.caption
    assert left.get_yscale() == "log"
    assert (left.get_xlabel(), left.get_ylabel()) == ("layer, from the input", "gradient norm of the weight")
    assert left.get_title("left") == "Gradient norm by layer"
    assert legend_of(drawing.figure) == ["SGD"]
    assert drawing.wide


def test_ratios_of_layers_are_bars_up_to_a_dashed_warning(tmp_path):
    study, results = flows(tmp_path, {"SGD": (4.0, 1.0), "Adam": (123.456, 1.0), "Muon": (1.0, 20.0)})
    drawing = one(study, list(reversed(results)), tmp_path, kind="layers")
    right = drawing.figure.axes[1]
    assert right.get_xscale() == "log"
    assert right.get_xlim() == (1.0, pytest.approx(4 * 123.456))
    assert right.get_ylim() == (2.5, -0.5)
    assert len(right.get_yticks()) == 0
    # In the order of the study file, whatever their ratios.
    assert [bar.get_x() for bar in right.patches] == [1] * 3
    assert [bar.get_x() + bar.get_width() for bar in right.patches] == pytest.approx([4, 123.456, 20])
    assert [bar.get_y() + bar.get_height() / 2 for bar in right.patches] == pytest.approx([0, 1, 2])
    assert [to_hex(bar.get_facecolor()).upper() for bar in right.patches] == [BLUE, VERMILION, GREEN]
    # Three digits; beside a short bar, and within a long one (above 4 * 123.456 / 30 = 16.5).
    assert [text.get_text() for text in right.texts] == ["4", "123", "20"]
    assert [text.get_position() for text in right.texts] == [
        (pytest.approx(4 * 1.15), 0),
        (pytest.approx(123.456 / 1.15), 1),
        (pytest.approx(20 / 1.15), 2),
    ]
    assert [(text.get_ha(), text.get_color()) for text in right.texts] == [
        ("left", "black"),
        ("right", "white"),
        ("right", "white"),
    ]
    (dashed,) = [line for line in right.lines if line.get_linestyle() == "--" and line.get_color() == "0.2"]
    assert list(dashed.get_xdata()) == [100, 100]
    # The line and the mark of the legend stand left of each bar.
    feet = [line for line in right.lines if line is not dashed]
    assert all(line.get_transform() == right.get_yaxis_transform() and not line.get_clip_on() for line in feet)
    assert [data(line) for line in feet] == [
        each for row in (0, 1, 2) for each in ([(-0.13, row), (-0.02, row)], [(-0.075, row)])
    ]
    assert [line.get_color() for line in feet] == [color for color in (BLUE, VERMILION, GREEN) for _ in range(2)]
    assert [line.get_marker() for line in feet] == ["None", "o", "None", "s", "None", "D"]
    assert right.get_xlabel() == "largest / smallest gradient norm"
    assert right.get_title("left") == "Ratio, warning above 100"
    assert legend_of(drawing.figure) == ["SGD", "Adam", "Muon"]
    assert drawing.alternative == (
        "Ratio of the largest to the smallest gradient norm of a layer: SGD 4; Adam 123.5; Muon 20."
    )


@pytest.mark.parametrize(
    ("norms", "end", "words"),
    [
        ({"SGD": (99.9, 1.0), "Adam": (5.0, 1.0)}, 400, "None is above it."),
        ({"SGD": (900.0, 9.0)}, 400, "None is above it."),  # 100 to the last digit, also by way of the logarithms
        ({"SGD": (100.1, 1.0), "Adam": (2.0, 1.0), "Muon": (1.0, 500.0)}, 2000, "Above it: SGD, Muon."),
    ],
)
def test_a_ratio_of_layers_above_the_warning_is_told(tmp_path, norms, end, words):
    drawing = one(*flows(tmp_path, norms), tmp_path, kind="layers")
    assert drawing.figure.axes[1].get_xlim() == (1, pytest.approx(end))
    assert drawing.caption.endswith(words)
    assert "above 100 (dashed)" in drawing.caption


def test_a_layer_without_gradient_has_an_infinite_ratio(tmp_path):
    study, results = flows(tmp_path, {"SGD": (2.0, 1.0), "Adam": (1000.0, 1.0)})
    leave_flow(tmp_path, results[0], [[2.0, 5.0, 0.0], [2.0, 5.0, 3.0]], names=("a", "b", "c"))
    drawing = one(study, results, tmp_path, kind="layers")
    left, right = drawing.figure.axes
    assert left.lines[0].get_ydata() == pytest.approx([2, 5, math.nan], nan_ok=True)
    # Its bar goes on to the edge, which the others set, and the sign stands within.
    assert right.get_xlim() == (1, pytest.approx(4000))
    assert right.patches[0].get_width() == pytest.approx(3999)
    assert [text.get_text() for text in right.texts] == ["∞", "1,000"]
    assert right.texts[0].get_position() == (pytest.approx(4000 / 1.2 / 1.15), 0)
    assert (right.texts[0].get_ha(), right.texts[0].get_color()) == ("right", "white")
    assert drawing.caption.endswith("Above it: SGD, Adam.")
    assert "SGD ∞; Adam 1,000." in drawing.alternative


def test_layers_leave_out_what_is_not_finite(tmp_path):
    study, results = flows(tmp_path, {"SGD": (2.0, 1.0), "Adam": (1.0, 1.0)})
    rows = [[None, 3.0, None], [2.0, INF, None], [8.0, 27.0, math.nan]]
    leave_flow(tmp_path, results[0], rows, names=("a", "b", "c"))
    leave_flow(tmp_path, results[1], [[None, None], [None, None]])
    drawing = one(study, results, tmp_path, kind="layers")
    left, right = drawing.figure.axes
    assert left.lines[0].get_ydata() == pytest.approx([4, 9, math.nan], nan_ok=True)
    assert numpy.isnan(left.lines[1].get_ydata()).all()
    assert right.patches[0].get_width() == pytest.approx(9 / 4 - 1)
    # Where nothing is known, a dash stands at the foot of the bar that is not there.
    assert [(text.get_text(), text.get_position()) for text in right.texts] == [
        ("2.25", (pytest.approx(2.25 * 1.15), 0)),
        ("–", (pytest.approx(1.15), 1)),
    ]
    assert "SGD 2.25; Adam –." in drawing.alternative


def test_layers_come_from_the_runs_that_have_them(tmp_path):
    results = [trial({"optimizer": name}, seed) for name in ("SGD", "Adam", "Muon") for seed in range(5)]
    sgd, adam, muon = results[:5], results[5:10], results[10:]
    # The first seed that left a file says how many layers there are: the fourth is another network.
    leave_flow(tmp_path, sgd[1], [[2, 5]])
    leave_flow(tmp_path, sgd[2], [[8, 5]])
    leave_flow(tmp_path, sgd[3], [[7, 7, 7]], names=("a", "b", "c"))
    # Adam's are no JSON, no measurement, no weights and no history; the last is whole.
    leave_flow(tmp_path, adam[0], [[1, 1]])
    (tmp_path / adam[0].run_folder / "gradient_flow.json").write_text("{")
    leave_flow(tmp_path, adam[1], [])
    leave_flow(tmp_path, adam[2], [[1, 1]], last={"names": ["a.weight"], "roles": ["bias"]})
    leave_flow(tmp_path, adam[3], [[1, 1]], history=None)
    leave_flow(tmp_path, adam[4], [[3, 6]])
    drawing = one(make_study(), results, tmp_path, kind="layers")
    assert [line.get_ydata().tolist() for line in drawing.figure.axes[0].lines] == [
        pytest.approx([4, 5]),
        pytest.approx([3, 6]),
    ]
    assert legend_of(drawing.figure) == ["SGD", "Adam"]
    with pytest.raises(NothingToDraw, match=r"No run has left a gradient_flow\.json"):
        all_of(make_study(), muon, tmp_path, kind="layers")


@pytest.mark.parametrize("by", [None, "optimizer", "width"])
def test_colors_of_layers_stand_for_an_axis(tmp_path, by):
    study = make_study([OPTIMIZERS, WIDTHS], seeds=1)
    results = make_results(study)
    ratios = dict(zip([tuple(result.labels.values()) for result in results], range(2, 8), strict=True))
    for result in results:
        leave_flow(tmp_path, result, [[ratios[tuple(result.labels.values())], 1.0]])
    left, right = one(study, results, tmp_path, kind="layers", by=by).figure.axes
    own = looks(WIDTHS if by == "width" else OPTIMIZERS)
    if by == "width":
        cells = [(name, width) for width in ("1", "2") for name in OPTIMIZERS.alternatives]
        texts = [f"width {width}, {name}" for name, width in cells]
    else:
        cells = [(name, width) for name in OPTIMIZERS.alternatives for width in ("1", "2")]
        texts = [f"{name}, width {width}" for name, width in cells]
    colors = [own[cell[by == "width"]].color for cell in cells]
    assert [line.get_color() for line in left.lines] == colors
    assert [line.get_ydata()[0] for line in left.lines] == pytest.approx([ratios[cell] for cell in cells])
    assert [bar.get_width() + 1 for bar in right.patches] == pytest.approx([ratios[cell] for cell in cells])
    assert sorted(legend_of(left.figure)) == sorted(texts)


# Panels


def logged(label, seed, series, **changes):
    """A trial with these values at steps 10, 20 and so on; ten steps take the first seed 1 s, the next 2 s."""
    history = {
        name: [[10 * k, k * (1.0 + seed), value] for k, value in enumerate(own, 1)] for name, own in series.items()
    }
    return trial({"optimizer": label}, seed, history=history, **changes)


def of_panels():
    """An accuracy, a loss over six decades, a norm that doubles, and a scale that grows fourfold."""
    accuracies = {"SGD": (0.2, 0.4, 0.9), "Adam": (0.1, 0.1, 0.7)}
    results = []
    for name, ends in accuracies.items():
        for seed in range(3):
            series = {
                "val/loss": [10.0 ** (seed + 1), 10.0 ** (seed - 3)] if name == "SGD" else [4.0, 2.0],
                "val/accuracy": [0.1, ends[seed]],
                "spectral/norm_max": [1.0 + seed, 4.0 + seed**2],
            }
            if name == "SGD":
                series["noise/batch_scale"] = [5.0, 20.0]
            results.append(logged(name, seed, series))
    failed = logged("SGD", 3, {"val/accuracy": [1.0, 1.0]}, status="failed")
    tuning = logged("Adam", 4, {"val/accuracy": [1.0, 1.0]}, stage="tuning")
    return [*results, failed, tuning]


def means(axes):
    """Points of the lines of means, which alone have markers."""
    return numpy.array([data(line) for line in axes.lines if line.get_marker() in ("o", "s", "D")])


def band(axes, place, x):
    """Ends of the interval of a line at a step."""
    ends = [y for path in axes.collections[place].get_paths() for each, y in path.vertices if each == pytest.approx(x)]
    return min(ends), max(ends)


def test_panels_are_means_over_steps_on_axes_of_their_own():
    names = ["val/accuracy", "train/loss", "val/loss", "noise/batch_scale", "spectral/norm_max", "no/such"]
    drawing = one(make_study(), of_panels(), kind="panels", metrics=names)
    accuracy, loss, noise, norm = drawing.figure.axes
    assert [axes.get_title("left") for axes in drawing.figure.axes] == [
        "Validation accuracy (%)",
        "Validation loss",
        "Gradient noise\nscale (samples)",
        "Largest spectral norm",
    ]
    assert [axes.get_yscale() for axes in drawing.figure.axes] == ["linear", "log", "log", "linear"]
    assert means(accuracy) == pytest.approx(numpy.array([[(10, 0.1), (20, 0.5)], [(10, 0.1), (20, 0.3)]]))
    # Of 10, 100 and 1000 the geometric mean.
    assert means(loss) == pytest.approx(numpy.array([[(10, 100), (20, 0.01)], [(10, 4), (20, 2)]]))
    assert means(noise) == pytest.approx(numpy.array([[(10, 5), (20, 20)]]))
    assert means(norm) == pytest.approx(numpy.array([[(10, 2), (20, 17 / 3)]] * 2))
    low, high = stats.t.interval(0.95, 2, 2.0, stats.sem([1.0, 2.0, 3.0]))
    assert band(loss, 0, 10) == pytest.approx((10**low, 10**high))
    assert band(accuracy, 0, 20) == pytest.approx(stats.t.interval(0.95, 2, 0.5, stats.sem([0.2, 0.4, 0.9])))
    assert [line.get_color() for line in accuracy.lines] == [BLUE, VERMILION]
    assert [line.get_color() for line in noise.lines] == [BLUE]
    assert legend_of(drawing.figure) == ["SGD", "Adam"]
    # Two below two.
    assert [axes.get_xlabel() for axes in drawing.figure.axes] == ["", "", "optimizer step", "optimizer step"]
    assert [axes.get_xlim()[0] for axes in drawing.figure.axes] == [0] * 4
    assert drawing.title == "How the runs went"
    assert drawing.caption.startswith(
        "Validation accuracy, validation loss, gradient noise scale (samples) and largest spectral norm against "
        "optimizer steps. Lines are means"
    )
    assert drawing.caption.endswith(
        "Means and intervals are of the logarithms on logarithmic axes. No trial has logged train/loss or no/such."
    )
    assert drawing.alternative == (
        "Line charts. At the end: validation accuracy: SGD 50.00 %; Adam 30.00 %. "
        "validation loss: SGD 0.01; Adam 2. gradient noise scale (samples): SGD 20. "
        "largest spectral norm: SGD 5.667; Adam 5.667."
    )
    assert drawing.wide


def test_panels_over_time_have_the_mean_of_the_clocks():
    drawing = one(make_study(), of_panels(), kind="panels", metrics=["val/accuracy", "spectral/norm_max"], x="time")
    # A step takes 0.1, 0.2 and 0.3 s.
    assert [means(axes)[..., 0].tolist() for axes in drawing.figure.axes] == [[[2, 4], [2, 4]]] * 2
    assert [axes.get_xlabel() for axes in drawing.figure.axes] == ["training time (s)"] * 2
    assert "largest spectral norm against training time (s). Lines" in drawing.caption
    assert "logarithm" not in drawing.caption
    assert drawing.caption.endswith("end in a cross.")


@pytest.mark.parametrize(
    ("count", "places"), [(1, {0}), (2, {0, 1}), (3, {1, 2}), (4, {2, 3}), (5, {2, 3, 4}), (6, {3, 4, 5})]
)
def test_the_lowest_panels_tell_what_is_across(count, places):
    names = [f"a/{place}" for place in range(count)]
    results = [logged("SGD", seed, {name: [1.0, 2.0] for name in names}) for seed in range(3)]
    drawing = one(make_study(), results, kind="panels", metrics=names)
    panels = drawing.figure.axes
    assert [axes.get_title("left") for axes in panels] == [name.capitalize() for name in names]
    assert {place for place, axes in enumerate(panels) if axes.get_xlabel() == "optimizer step"} == places
    assert drawing.wide == (count > 1)


def test_panels_are_of_the_usual_scalars_by_default():
    study = make_study(seeds=1)
    drawing = one(study, make_results(study), kind="panels")
    assert [axes.get_title("left") for axes in drawing.figure.axes] == [
        "Validation loss",
        "Validation accuracy (%)",
        "Largest spectral norm",
        "Sharpness",
        "Gradient noise\nscale (samples)",
        "Training loss",
    ]
    assert "No trial" not in drawing.caption
    with pytest.raises(NothingToDraw, match=r"No trial has logged any of a/1 and a/2\."):
        all_of(study, make_results(study), kind="panels", metrics=["a/1", "a/2"])


@pytest.mark.parametrize("by", [None, "optimizer", "width"])
def test_colors_of_panels_stand_for_an_axis(by):
    study = make_study([OPTIMIZERS, WIDTHS], seeds=3)
    axes = one(study, make_results(study), kind="panels", metrics=["val/accuracy"], by=by).figure.axes[0]
    own = [look.color for look in looks(WIDTHS if by == "width" else OPTIMIZERS).values()]
    assert [line.get_color() for line in axes.lines] == [color for color in own for _ in range(6 // len(own))]


# Trajectories

SURFACES = "steepest.lightning_modules.objectives"
STEPS = list(range(0, 101, 10))
DOTS = 96  # an inch


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Contours of a few points and animations of five frames."""
    monkeypatch.setattr("steepest.diagnostics.landscape.objective_path_figures.GRID", 24)
    monkeypatch.setattr("steepest.study.figures.trajectories.FRAMES", 5)


def leave_path(folder, result, steps, weights, gaps=None, objective="ElongatedBowl", **options):
    """Write what ObjectiveTrajectory leaves, and the config of the run."""
    run = folder / result.run_folder
    run.mkdir(parents=True, exist_ok=True)
    gaps = numpy.arange(len(steps)) if gaps is None else gaps
    numpy.savez(run / "trajectory.npz", steps=steps, weights=numpy.array(weights, float), gaps=numpy.array(gaps, float))
    chosen = {"class_path": f"{SURFACES}.{objective}"} | ({"init_args": options} if options else {})
    (run / "config.yaml").write_text(json.dumps({"model": {"init_args": {"objective": chosen}}}))


def across(row, pace, steps=STEPS):
    """A path along a row from -5 on."""
    return [(-5 + pace * step, row) for step in steps]


def of_two(folder):
    """SGD goes ahead at the top, Adam at half its pace at the foot, seen at every tenth step only."""
    results = [trial({"optimizer": "SGD"}), trial({"optimizer": "Adam"})]
    each = list(range(101))
    leave_path(folder, results[0], each, across(3, 0.1, each), [*range(100), 0.125])
    leave_path(folder, results[1], STEPS, across(-3, 0.05), [*range(10), 1234.5])
    return results


def frames_of(drawing):
    """Pixels of each frame, and how long it is shown."""
    frames, durations = [], []
    with Image.open(io.BytesIO(drawing.image)) as image:
        assert image.format == "GIF"
        for frame in ImageSequence.Iterator(image):
            durations.append(frame.info["duration"])
            frames.append(numpy.asarray(frame.convert("RGB")).astype(float))
    return frames, durations


def has_color(frame, figure, point, color, tolerance=60):
    """Whether a frame has that color at a point of the still figure, which is laid out alike."""
    x, y = figure.axes[0].transData.transform(point)
    around = frame[len(frame) - round(y) - 2 : len(frame) - round(y) + 1, round(x) - 1 : round(x) + 2]
    return abs(around - 255 * numpy.array(to_rgb(color))).sum(-1).min() < tolerance


def test_trajectories_are_paths_from_one_start_to_their_ends(tmp_path):
    still, moving = all_of(make_study(), of_two(tmp_path), tmp_path, kind="trajectories")
    axes = still.figure.axes[0]
    sgd, adam = (line for line in lines(axes))
    assert (data(sgd), data(adam)) == (across(3, 0.1, range(101)), across(-3, 0.05))
    assert [line.get_color() for line in (sgd, adam)] == [BLUE, VERMILION]
    ends = [line for line in axes.lines if line.get_color() in (BLUE, VERMILION) and line not in (sgd, adam)]
    assert [(line.get_marker(), line.get_color(), data(line)) for line in ends] == [
        ("o", BLUE, [(5, 3)]),
        ("s", VERMILION, [(0, -3)]),
    ]
    assert [data(line) for line in lines(axes, "*")] == [[(0, 0)]]
    assert [data(line) for line in axes.lines if line.get_color() == "white"] == [[(-5, 3)]]
    assert (axes.get_xlim(), axes.get_ylim()) == ((-6, 6), (-5, 5))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("first weight", "second weight")
    assert legend_of(still.figure) == ["SGD", "Adam"]
    assert (still.title, moving.title) == ("Whole paths", "Step by step")
    assert still.group == moving.group == "Paths over ElongatedBowl"
    assert still.caption == moving.caption
    assert still.caption.startswith("Paths of the weights over ElongatedBowl, 100 steps, from the white dot;")
    assert still.alternative == (
        "Paths of optimizers over the contours of ElongatedBowl. "
        "Loss above its minimum at the end: SGD 0.125; Adam 1,234."
    )
    assert moving.alternative == "Animation of the same paths over 100 steps."
    assert (still.image, moving.figure, moving.suffix) == (None, None, ".gif")


def test_frames_of_trajectories_lie_closer_at_the_beginning(tmp_path):
    still, moving = all_of(make_study(), of_two(tmp_path), tmp_path, kind="trajectories")
    frames, durations = frames_of(moving)
    still.figure.set_dpi(DOTS)
    drawn(still.figure)
    assert len(frames) == 5
    assert durations == [1200] * 4 + [1500]
    # Steps 100 (k / 4)^2: 0, 6, 25, 56 and 100; of Adam the last before, of every tenth.
    for frame, step, before in zip(frames, (0, 6, 25, 56, 100), (0, 0, 20, 50, 100), strict=True):
        for head, row, color in ((-5 + 0.1 * step, 3, BLUE), (-5 + 0.05 * before, -3, VERMILION)):
            assert has_color(frame, still.figure, (head, row), color)
            # Adam's line has dashes.
            trail = [has_color(frame, still.figure, (x, row), color) for x in numpy.arange(-5, head + 0.01, 0.1)]
            assert numpy.mean(trail) > 0.7
            # Marks are wider than lines, and those of earlier frames are gone.
            assert has_color(frame, still.figure, (head, row + 0.1), color)
            gone = numpy.arange(-5, head - 0.3, 0.1)
            assert not any(has_color(frame, still.figure, (x, row + 0.1), color) for x in gone)
            ahead = numpy.arange(head + 0.4, 5.5, 0.2)
            assert not any(has_color(frame, still.figure, (x, row), color) for x in ahead)
    # The number of the step above the panel differs from frame to frame.
    figure = still.figure
    top = len(frames[0]) - round(figure.axes[0].get_window_extent().y1) - 1
    titles = [frame[:top].tobytes() for frame in frames]
    assert len(set(titles)) == 5
    assert all((frame[:top] < 100).any() for frame in frames)


def test_a_short_run_has_a_frame_for_each_step(tmp_path):
    result = trial({"optimizer": "SGD"})
    leave_path(tmp_path, result, [0, 1, 2], across(3, 1, [0, 1, 2]))
    _, moving = all_of(make_study(), [result], tmp_path, kind="trajectories")
    # 2 (k / 4)^2 is 0, 0.125, 0.5, 1.125 and 2.
    frames, durations = frames_of(moving)
    assert len(frames) == 3
    assert durations == [2000, 2000, 1500]


def test_animations_of_trajectories_keep_the_colors_of_short_lines(tmp_path):
    many = Axis("optimizer", {f"number {place}": {} for place in range(8)})
    results = [trial({"optimizer": label}) for label in many.alternatives]
    for row, result in enumerate(results):
        leave_path(tmp_path, result, [0, 1], [(-5, 4 - row), (-4.8, 4 - row)])
    still, moving = all_of(make_study([many]), results, tmp_path, kind="trajectories")
    still.figure.set_dpi(DOTS)
    drawn(still.figure)
    frames, _ = frames_of(moving)
    for row, look in enumerate(looks(many).values()):
        assert has_color(frames[-1], still.figure, (-4.8, 4 - row), look.color, tolerance=4)


def test_a_large_animation_of_trajectories_has_fewer_frames(tmp_path, monkeypatch):
    results = of_two(tmp_path)
    _, whole = all_of(make_study(), results, tmp_path, kind="trajectories")
    every, _ = frames_of(whole)
    # Three frames take more than eight tenths of the bytes of five; fewer than two there never are.
    for share, count in ((1.0, 5), (0.9, 3), (0.8, 2), (1e-9, 2)):
        monkeypatch.setattr("steepest.study.figures.trajectories.LARGEST", share * len(whole.image))
        _, moving = all_of(make_study(), results, tmp_path, kind="trajectories")
        frames, durations = frames_of(moving)
        assert len(frames) == count
        assert len(moving.image) <= max(share, 0.8) * len(whole.image)
        assert durations == [6000 // count] * (count - 1) + [1500]
        assert (frames[0] == every[0]).all()
        assert (frames[-1] == every[-1]).all()


@pytest.mark.parametrize("options", [{"animate": False}, {"animate": False, "by": "optimizer"}])
def test_trajectories_without_animation_are_a_figure_alone(tmp_path, options):
    drawing = one(make_study(), of_two(tmp_path), tmp_path, kind="trajectories", **options)
    assert drawing.title == "Paths over ElongatedBowl"
    assert drawing.group == ""
    assert drawing.image is None


def test_trajectories_leave_out_what_is_not_finite(tmp_path):
    study, results = make_study(), of_two(tmp_path)
    weights = [(0, 1), (1, math.nan), (INF, 2), (2, 2), (math.nan, math.nan)]
    leave_path(tmp_path, results[0], [0, 1000, 2000, 3000, 4000], weights, [9, 8, 7, 6.5, 5])
    drawing = one(study, results, tmp_path, kind="trajectories", animate=False)
    axes = drawing.figure.axes[0]
    assert data(lines(axes)[0]) == [(0, 1), (2, 2)]
    assert data(lines(axes, "o")[-1]) == [(2, 2)]
    assert "over ElongatedBowl, 3,000 steps," in drawing.caption
    assert "at the end: SGD 6.5; Adam" in drawing.alternative


def test_trajectories_are_of_the_first_seed_that_left_one(tmp_path):
    results = [trial({"optimizer": name}, seed) for name in ("SGD", "Adam", "Muon") for seed in (0, 1, 2)]
    # The tuning trial, the first in the list, is none of them.
    tuning = trial({"optimizer": "Adam"}, 3, stage="tuning")
    leave_path(tmp_path, tuning, STEPS, across(0, 0.1))
    leave_path(tmp_path, results[1], STEPS, across(1, 0.1))
    leave_path(tmp_path, results[2], STEPS, across(2, 0.1))
    leave_path(tmp_path, results[6], STEPS, across(3, 0.1))
    drawing = one(make_study(), [tuning, *results], tmp_path, kind="trajectories", animate=False)
    assert [data(line) for line in lines(drawing.figure.axes[0])] == [across(1, 0.1), across(3, 0.1)]
    assert legend_of(drawing.figure) == ["SGD", "Muon"]


FUNCTIONS = {
    "bowl": {"model.objective": "ElongatedBowl"},
    "saddle": {"model.objective": "Saddle", "model.objective.init_args.start": [1, 1]},
}
MODELS = {"bowl": {"model": "ElongatedBowl"}, "saddle": {"model": "Saddle"}}


@pytest.mark.parametrize("functions", [FUNCTIONS, MODELS])
def test_every_function_has_a_picture_of_its_own(tmp_path, functions):
    study = make_study([OPTIMIZERS, Axis("function", functions), WIDTHS])
    names = {"bowl": "ElongatedBowl", "saddle": "Saddle"}
    results = []
    for place, (name, function, width) in enumerate(
        (name, function, width) for name in ("SGD", "Adam") for function in names for width in ("1", "2")
    ):
        results.append(trial({"optimizer": name, "function": function, "width": width}))
        leave_path(tmp_path, results[-1], [0, 5], [(0, 0), (1, place / 10)], objective=names[function])
    drawings = all_of(study, results, tmp_path, kind="trajectories", animate=False)
    # The width is no part of the function: its paths are in the same picture, with other dashes.
    assert [drawing.title for drawing in drawings] == ["Paths over bowl", "Paths over saddle"]
    assert [[data(line)[1][1] for line in lines(drawing.figure.axes[0])] for drawing in drawings] == [
        [0.0, 0.1, 0.4, 0.5],
        [0.2, 0.3, 0.6, 0.7],
    ]
    for drawing in drawings:
        paths = lines(drawing.figure.axes[0])
        assert [line.get_color() for line in paths] == [BLUE, BLUE, VERMILION, VERMILION]
        assert paths[0].get_linestyle() == paths[2].get_linestyle() != paths[1].get_linestyle()
        assert sorted(legend_of(drawing.figure)) == sorted(
            f"{name}, width {width}" for name in ("SGD", "Adam") for width in (1, 2)
        )
    assert [data(line) for line in lines(drawings[1].figure.axes[0], "*")] == [[(0, -1), (0, 1)]]
    assert drawings[1].figure.axes[0].get_xlim() == (-1.5, 1.5)
    # Colors by another axis; what they do not stand for is in the same picture still.
    by_width = all_of(study, results, tmp_path, kind="trajectories", animate=False, by="width")
    own = [look.color for look in looks(WIDTHS).values()]
    assert [[line.get_color() for line in lines(drawing.figure.axes[0])] for drawing in by_width] == [
        [own[0], own[0], own[1], own[1]]
    ] * 2


@pytest.mark.parametrize("by", [None, "function", "optimizer"])
def test_paths_over_different_functions_are_never_in_one_picture(tmp_path, by):
    functions = Axis("function", FUNCTIONS)
    study = make_study([functions, OPTIMIZERS])
    results = [trial({"function": place, "optimizer": name}) for place in FUNCTIONS for name in ("SGD", "Adam")]
    for place, result in enumerate(results):
        objective = {"bowl": "ElongatedBowl", "saddle": "Saddle"}[result.labels["function"]]
        leave_path(tmp_path, result, [0, 5], [(0, 0), (1, place / 10)], objective=objective)
    drawings = all_of(study, results, tmp_path, kind="trajectories", animate=False, by=by)
    assert [drawing.title for drawing in drawings] == ["Paths over bowl", "Paths over saddle"]
    paths = [lines(drawing.figure.axes[0]) for drawing in drawings]
    assert [[data(line)[1][1] for line in own] for own in paths] == [[0.0, 0.1], [0.2, 0.3]]
    assert [drawing.figure.axes[0].get_xlim()[1] for drawing in drawings] == [6, 1.5]
    colors = [[line.get_color() for line in own] for own in paths]
    bowl, saddle = (look.color for look in looks(functions).values())
    assert colors == ([[bowl] * 2, [saddle] * 2] if by == "function" else [[BLUE, VERMILION]] * 2)
    if by is None:
        animated = all_of(study, results, tmp_path, kind="trajectories")
        assert [drawing.group for drawing in animated] == ["Paths over bowl"] * 2 + ["Paths over saddle"] * 2
        assert [drawing.suffix for drawing in animated] == [".png", ".gif"] * 2


def test_the_function_of_trajectories_has_its_arguments(tmp_path):
    result = trial({"optimizer": "SGD"})
    leave_path(tmp_path, result, [0, 1], [(1, 1), (0, 0)], objective="Quadratic", eigenvalues=[1, 2], start=[3, 2])
    drawing = one(make_study(), [result], tmp_path, kind="trajectories", animate=False)
    assert drawing.figure.axes[0].get_xlim() == pytest.approx((-3.9, 3.9))


def test_trajectories_that_cannot_be_drawn_are_refused(tmp_path):
    results = [trial({"optimizer": "SGD"})]
    with pytest.raises(NothingToDraw, match=r"has left a trajectory\.npz"):
        all_of(make_study(), results, tmp_path, kind="trajectories")
    # Three weights have no picture.
    leave_path(tmp_path, results[0], [0, 1], [(1, 1, 1), (0, 0, 0)], objective="Quadratic", eigenvalues=[1, 2, 3])
    with pytest.raises(NothingToDraw, match="of a function of two weights"):
        all_of(make_study(), results, tmp_path, kind="trajectories")
    leave_path(tmp_path, results[0], [0, 1], [(1, 1), (0, 0)], objective="Nobody")
    with pytest.raises(NothingToDraw, match=r"cannot be built again: .*Nobody"):
        all_of(make_study(), results, tmp_path, kind="trajectories")


# Gallery


def leave_image(folder, result, content, file="figures/a_map.png"):
    """Write an image of a run; any bytes will do, or so many zeros."""
    path = folder / result.run_folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else bytes(content))


@pytest.mark.parametrize("file", ["figures/a_map.png", "deep/in/a_map.gif"])
def test_gallery_has_the_bytes_of_one_image_of_each_cell(tmp_path, file):
    study = make_study([OPTIMIZERS, WIDTHS], seeds=2)
    results = make_results(study)
    for place, result in enumerate(results[1:]):  # the first seed of the first cell has left none
        leave_image(tmp_path, result, b"image %d" % place, file)
        leave_image(tmp_path, result, b"another", "figures/b_map.png")
    tuning = replace(results[0], stage="tuning", run_folder="tuning")
    leave_image(tmp_path, tuning, b"of tuning", file)
    drawings = all_of(study, [tuning, *reversed(results[6:]), *results[:6]], tmp_path, kind="gallery", file=file)
    # In the order of the study file; of each cell the first of the results.
    assert [(drawing.title, drawing.image) for drawing in drawings] == [
        ("SGD, 1, seed 1", b"image 0"),
        ("SGD, 2, seed 0", b"image 1"),
        ("Adam, 1, seed 0", b"image 3"),
        ("Adam, 2, seed 1", b"image 6"),
        ("Muon, 1, seed 1", b"image 8"),
        ("Muon, 2, seed 1", b"image 10"),
    ]
    for drawing in drawings:
        assert (drawing.suffix, drawing.group, drawing.figure) == (file[-4:], "A map", None)
        assert drawing.caption == "A map of one seed of each cell, as the run has drawn it."
    assert drawings[0].alternative == "A map of SGD, 1, seed 1."
    named = all_of(study, results, tmp_path, kind="gallery", file=file, title="Maps")
    assert {drawing.group for drawing in named} == {"Maps"}
    assert named[0].title == "SGD, 1, seed 1"


def test_gallery_leaves_out_empty_and_too_large_images(tmp_path):
    study = make_study(seeds=3)
    results = make_results(study)
    sgd, adam, muon = results[:3], results[3:6], results[6:]
    leave_image(tmp_path, sgd[0], b"")
    leave_image(tmp_path, sgd[1], LARGEST + 1)
    leave_image(tmp_path, sgd[2], LARGEST)
    for result in adam:
        leave_image(tmp_path, result, b"")
    (tmp_path / muon[0].run_folder / "figures/a_map.png").mkdir(parents=True)
    leave_image(tmp_path, muon[1], b"1")
    entry = {"kind": "gallery", "file": "figures/a_map.png"}
    assert [(drawing.title, len(drawing.image)) for drawing in all_of(study, results, tmp_path, **entry)] == [
        ("SGD, seed 2", 4_000_000),
        ("Muon, seed 1", 1),
    ]
    with pytest.raises(NothingToDraw, match=r"No run has left figures/a_map\.png of at most 4 MB\."):
        all_of(study, adam, tmp_path, **entry)


def test_gallery_has_room_for_so_many_cells(tmp_path):
    study = make_study([Axis("optimizer", {f"number {place}": {} for place in range(30)})], seeds=1)
    results = make_results(study, lambda *_: (0.9, None))
    for result in results:
        leave_image(tmp_path, result, b"1")
    entry = {"kind": "gallery", "file": "figures/a_map.png"}
    assert MOST == 24
    # Cells without a trial yet do not count.
    assert len(all_of(study, results[:24], tmp_path, **entry)) == 24
    with pytest.raises(NothingToDraw, match="There are 25 cells, and room for 24 images; choose some by `only`"):
        all_of(study, results[:25], tmp_path, **entry)
    only = {"optimizer": [f"number {place}" for place in range(6, 30)]}
    assert len(all_of(study, results, tmp_path, **entry, only=only)) == 24
