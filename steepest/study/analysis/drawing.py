"""What a figure's function returns, and how it says that there is nothing to draw."""

from dataclasses import dataclass

from matplotlib.figure import Figure


class NothingToDraw(Exception):
    """The results lack what a figure needs; the message says what, in one sentence."""


@dataclass(frozen=True)
class Drawing:
    """One picture of a report: a figure, or a finished image.

    Attributes:
        title: A few words; stands above it.
        caption: What is drawn, and what bands and marks mean.
        alternative: What somebody who does not see it should know.
        figure: Written as PNG and SVG; None for an image.
        image: Content of a PNG or GIF file; None for a figure.
        suffix: Of the image's file.
        wide: Whether it needs more than a column.
        group: Drawings of the same group stand side by side under one caption; empty for none.
    """

    title: str
    caption: str
    alternative: str
    figure: Figure | None = None
    image: bytes | None = None
    suffix: str = ".png"
    wide: bool = False
    group: str = ""
