"""Numbers that panels draw, read back and compared with ones worked out by hand."""

import numpy
import pytest
from scipy import stats

from steepest.study.figures import NothingToDraw
from steepest.study.figures.style import looks
from tests.steepest.study.figures.artists import BLUE, VERMILION, WIDTHS, all_of, data, legend_of, one
from tests.steepest.study.results import trial
from tests.steepest.study.synthetic import OPTIMIZERS, make_results, make_study


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
