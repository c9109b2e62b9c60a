"""Numbers that layers draw, read back and compared with ones worked out by hand."""

import json
import math

import numpy
import pytest
from matplotlib.colors import to_hex

from steepest.study.figures import NothingToDraw
from steepest.study.figures.style import looks
from tests.steepest.study.figures.artists import BLUE, GREEN, VERMILION, WIDTHS, all_of, data, legend_of, one
from tests.steepest.study.results import INF, trial
from tests.steepest.study.synthetic import OPTIMIZERS, make_results, make_study


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
