"""What tells the cells of a figure apart: color and marker, dashes, and the legend that says so."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from steepest.common.plotting import BLUE
from steepest.study.analysis.selection import Cell, is_log_spaced
from steepest.study.figures.style import BRIGHTEST, DASHES, Look, legend, legend_height, looks, width_of
from steepest.study.question.axes import axis_label, axis_named, cell_name, numbers_of
from steepest.study.question.definition import Study

MOST_ENTRIES = 8  # more numbers than this get a color bar instead of a legend


@dataclass(frozen=True)
class Key:
    """The cells of a figure and their looks, in the order of the study file.

    Attributes:
        study: Whose cells they are.
        names: The axes that cells have a label on; the first stands for colors. None if there is one cell only.
        looks: Of each cell.
    """

    study: Study
    names: tuple[str, ...]
    looks: dict[Cell, Look]

    @classmethod
    def of(cls, study: Study, names: Sequence[str], *cells: Iterable[Cell]) -> "Key":
        """Color and marker by a cell's first label, dashes by its others.

        Args:
            study: Whose cells they are.
            names: The axes that cells have a label on.
            cells: Those of each panel.
        """
        found = list(dict.fromkeys(cell for own in cells for cell in own))
        if not names:
            return cls(study, (), {cell: Look(BLUE, "o", "-") for cell in found})
        axis = axis_named(study, names[0])
        colors, order = looks(axis), list(axis.alternatives)
        found.sort(key=lambda cell: order.index(cell[0]))
        rest = list(dict.fromkeys(cell[1:] for cell in found))
        if len(rest) == 1:
            return cls(study, tuple(names), {cell: colors[cell[0]] for cell in found})
        dashed = {
            cell: Look(colors[cell[0]].color, colors[cell[0]].marker, DASHES[rest.index(cell[1:]) % len(DASHES)])
            for cell in found
        }
        return cls(study, tuple(names), dashed)

    def text(self, cell: Cell) -> str:
        """Name of a cell, without the labels that all cells share."""
        kept = [
            place for place in range(len(self.names)) if place == 0 or len({other[place] for other in self.looks}) > 1
        ]
        return cell_name(self.study, [self.names[place] for place in kept], [cell[place] for place in kept])

    @property
    def texts(self) -> list[str]:
        """Names of all cells."""
        return [self.text(cell) for cell in self.looks]

    def height(self, columns: int = 1) -> float:
        """Height that `add` needs below so many panels side by side, inches."""
        if not self.names or self._has_bar:
            return 0.0
        return legend_height(self.texts, width_of(columns))

    def add(self, figure: Figure) -> None:
        """Put a legend below the panels, or a color bar for many numbers beside them."""
        if not self.names:
            return
        if not self._has_bar:
            legend(
                figure, [Line2D([], [], label=self.text(cell), **look.points()) for cell, look in self.looks.items()]
            )
            return
        values = sorted((numbers_of(axis_named(self.study, self.names[0])) or {}).values())
        scale = LogNorm(values[0], values[-1]) if is_log_spaced(values) else Normalize(values[0], values[-1])
        colors = ListedColormap(colormaps["viridis"]([BRIGHTEST * step / 255 for step in range(256)]))
        label = axis_label(self.names[0])
        figure.colorbar(ScalarMappable(scale, colors), ax=figure.axes, label=label, aspect=30, pad=0.02)

    @property
    def _has_bar(self) -> bool:
        return numbers_of(axis_named(self.study, self.names[0])) is not None and len(self.looks) > MOST_ENTRIES
