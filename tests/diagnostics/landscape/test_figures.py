import math

import numpy
import pytest
from PIL import Image

from steepest.diagnostics.common.artifacts import render
from steepest.diagnostics.landscape.figures import animation, draw
from steepest.diagnostics.landscape.landscape import Surface, grid_axis

LABELS = ("first", "second")


def surface(values) -> Surface:
    axes = (grid_axis(-1, 1, 9), grid_axis(-2, 1, 7))
    losses = values(*numpy.meshgrid(*axes, indexing="ij"))
    return Surface(axes, losses, numpy.ones_like(losses, dtype=bool), "")


SURFACES = {
    "bowl": lambda a, b: a**2 + 3 * b**2 + 0.5,
    "decades": lambda a, b: 10 ** (3 * a),
    "hole": lambda a, b: numpy.where(a + b > 1, math.inf, numpy.where(a + b < -2, math.nan, a**2 + 1)),
    "constant": lambda a, b: 0 * a + 0.7,
    "negative": lambda a, b: a - 5,
}


@pytest.mark.parametrize("values", SURFACES.values(), ids=list(SURFACES))
def test_every_surface_can_be_drawn(values) -> None:
    drawn = draw(surface(values), LABELS, "title", "batch norm: batch statistics", [(0, (0.9, 0.8)), (5, (0, 0))])
    assert set(drawn) == {"contour", "surface"}
    for figure in drawn.values():
        axes = figure.axes[0]
        assert axes.get_xlabel() == "first"
        assert "batch norm: batch statistics" in [text.get_text() for text in axes.texts]
        assert render(figure).std() > 10


def test_the_trajectory_and_other_weights_are_drawn_where_they_are() -> None:
    walk = [(0, (0.9, -1.5)), (10, (0.2, 0.3)), (20, (0.0, 0.0))]
    axes = draw(surface(SURFACES["bowl"]), LABELS, "", "", walk, {"run/best": (0.4, 0.5)})["contour"].axes[0]
    lines = {str(line.get_label()): line.get_xydata() for line in axes.lines}
    numpy.testing.assert_array_equal(lines["trajectory"], [place for _, place in walk])
    numpy.testing.assert_array_equal(lines["step 0"], [[0.9, -1.5]])
    numpy.testing.assert_array_equal(lines["run/best"], [[0.4, 0.5]])
    numpy.testing.assert_array_equal(lines["the weights"], [[0.0, 0.0]])


def test_the_color_bar_tells_losses_apart_that_differ_little() -> None:
    figure = draw(surface(lambda a, b: 2.28 + 0.02 * a), LABELS, "", "")["contour"]
    render(figure)
    labels = [text.get_text() for text in figure.axes[1].get_yticklabels()]
    assert len(labels) > 3
    assert len(set(labels)) == len(labels)


def test_a_curve_shows_its_values_and_gaps() -> None:
    axis = grid_axis(-1, 1, 9)
    losses = numpy.where(axis > 0.8, math.inf, axis**2 + 1)
    flat = Surface((axis,), losses, numpy.ones(9, dtype=bool), "")
    (figure,) = draw(flat, LABELS, "", "", [(0, (0.5,)), (1, (0.0,))], {"end": (0.5,)}).values()
    line = next(line for line in figure.axes[0].lines if line.get_label() == "loss")
    numpy.testing.assert_array_equal(line.get_ydata()[:-1], losses[:-1])
    assert math.isnan(line.get_ydata()[-1])
    assert render(figure).std() > 10


@pytest.mark.parametrize("length", [1, 3, 120])
def test_the_animation_walks_from_start_to_end(tmp_path, length) -> None:
    walk = [(10 * index, (0.9 - 0.9 * index / max(1, length - 1), -0.5)) for index in range(length)]
    path = tmp_path / "figures" / "walk.gif"
    animation(path, surface(SURFACES["bowl"]), LABELS, "Training", walk)
    with Image.open(path) as image:
        assert image.format == "GIF"
        assert image.n_frames == min(length, 41)  # type: ignore[attr-defined]
        assert image.info["loop"] == 0
        heads = []
        for frame in {0, image.n_frames - 1}:  # type: ignore[attr-defined]
            image.seek(frame)
            pixels = numpy.asarray(image.convert("RGB")).astype(int)
            vermilion = numpy.abs(pixels - [0xD5, 0x5E, 0x00]).sum(-1) < 12
            heads.append(float(numpy.argwhere(vermilion)[:, 1].mean()))
    # The marker keeps its color and moves from right to left.
    assert length == 1 or heads[0] > heads[-1] + 100
    assert [file.name for file in path.parent.iterdir()] == ["walk.gif"]


def test_the_relief_carries_the_walk_and_the_weights() -> None:
    walk = [(0, (0.8, 0.8)), (10, (-0.3, 1.0)), (20, (0.0, 0.0))]
    flat = surface(lambda a, b: 2 * a + b + 5)  # linear: what stands between the points is known
    axes = draw(flat, LABELS, "", "", walk)["surface"].axes[0]
    path, weights = ([numpy.asarray(part, dtype=float) for part in line.get_data_3d()] for line in axes.lines)
    numpy.testing.assert_allclose(path, [[0.8, -0.3, 0.0], [0.8, 1.0, 0.0], [7.4, 5.4, 5.0]])
    numpy.testing.assert_allclose(weights, [[0.0], [0.0], [5.0]])
    wide = draw(surface(SURFACES["decades"]), LABELS, "", "", walk)["surface"].axes[0]
    assert wide.get_zlabel() == "log10 of the loss"
    heights = numpy.asarray(wide.lines[0].get_data_3d()[2], dtype=float)
    numpy.testing.assert_allclose(heights, [2.4, -0.9, 0.0], atol=1e-9)


def test_a_curve_carries_the_walk_and_other_weights_on_it() -> None:
    axis = grid_axis(-1, 1, 9)
    line_of = Surface((axis,), 3 * axis + 4, numpy.ones(9, dtype=bool), "")
    (figure,) = draw(line_of, LABELS, "", "", [(0, (0.6,)), (1, (0.1,))], {"end": (-0.7,)}).values()
    lines = {str(line.get_label()): line.get_xydata() for line in figure.axes[0].lines}
    numpy.testing.assert_allclose(lines["the weights"], [[0.0, 4.0]])
    numpy.testing.assert_allclose(lines["end"], [[-0.7, 1.9]])
    numpy.testing.assert_allclose(lines["trajectory, projected"], [[0.6, 5.8], [0.1, 4.3]])
    assert figure.axes[0].get_xlim() == (-1, 1)


@pytest.mark.parametrize("name", ["negative", "decades"])
def test_contours_span_the_losses(name) -> None:
    drawn = surface(SURFACES[name])
    axes = draw(drawn, LABELS, "", "")["contour"].axes[0]
    levels = axes.collections[0].levels
    assert (levels[0], levels[-1]) == pytest.approx((drawn.losses.min(), drawn.losses.max()))
    steps = numpy.diff(numpy.log(levels) if name == "decades" else levels)
    numpy.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    assert (axes.get_xlim(), axes.get_ylim()) == ((-1, 1), (drawn.axes[1][0], drawn.axes[1][-1]))
