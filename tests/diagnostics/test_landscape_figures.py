import math

import numpy
import pytest
from PIL import Image

from diagnostics.artifacts import render
from diagnostics.landscape import Surface, grid_axis
from diagnostics.landscape_figures import animation, draw

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
