"""What a figure shows, read back from its artists."""

from pathlib import Path
from typing import Any

from steepest.study.figures import draw
from steepest.study.figures.style import looks
from steepest.study.question.definition import Axis
from tests.steepest.study.synthetic import OPTIMIZERS, values

NOWHERE = Path("/nowhere")
BLUE, VERMILION, GREEN = (look.color for look in looks(OPTIMIZERS).values())
WIDTHS = values("width", "model.network.width", [1, 2])
FOUR = Axis("optimizer", {"SGD": {}, "Adam": {}, "Muon": {}, "Lion": {}})


def all_of(study, results, folder=NOWHERE, **entry) -> list[Any]:
    """The drawings of a figure, each with its texts, and with a figure or an image."""
    drawings = draw(study, results, folder, entry)
    for drawing in drawings:
        assert drawing.title
        assert drawing.caption.endswith(".")
        assert drawing.alternative.endswith(".")
        assert (drawing.figure is None) != (drawing.image is None)
    return list(drawings)


def one(study, results, folder=NOWHERE, **entry) -> Any:
    """The only drawing of a figure."""
    (drawing,) = all_of(study, results, folder, **entry)
    assert drawing.figure is not None
    return drawing


def labels_of(axes):
    """Labels of the rows."""
    return [text.get_text() for text in axes.get_yticklabels()]


def legend_of(figure):
    """Texts of the legends."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def lines(axes, marker="None"):
    """Lines with that marker."""
    return [line for line in axes.lines if line.get_marker() == marker]


def data(line):
    """The points of a line."""
    return [tuple(point) for point in line.get_xydata().tolist()]


def drawn(figure):
    """The figure after its layout, when ticks have their texts."""
    figure.draw_without_rendering()
    return figure
