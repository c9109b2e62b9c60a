"""What a figure shows, read back from its artists."""

from pathlib import Path
from typing import Any

from steepest.study.figures import draw

NOWHERE = Path("/nowhere")


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
