"""A figure of every trial, side by side."""

from collections.abc import Sequence
from pathlib import Path

from steepest.study.analysis.drawing import Drawing, NothingToDraw
from steepest.study.analysis.selection import grouped, of_stage
from steepest.study.analysis.wording import capital
from steepest.study.figures.style import figure_kind
from steepest.study.question.definition import Study
from steepest.study.trials.results import TrialResult

SUFFIXES = (".png", ".gif")
MOST = 24
LARGEST = 4_000_000  # bytes of one image: a report goes by mail


@figure_kind
def gallery(study: Study, results: Sequence[TrialResult], folder: Path, file: str) -> list[Drawing]:
    """An image that every run has left, of one seed of each cell.

    Args:
        study: What was asked.
        results: What came out.
        folder: Of the study.
        file: The image in a run's folder, such as `figures/loss_landscape_contour.png`; PNG or GIF.
    """
    cells = grouped(study, of_stage(results, "final"), [axis.name for axis in study.axes])
    if len(cells) > MOST:
        raise NothingToDraw(f"There are {len(cells)} cells, and room for {MOST} images; choose some by `only`.")
    name = Path(file).stem.replace("_", " ")
    drawings = []
    for cell, members in cells.items():
        found = next((result for result in members if _is_usable(folder / result.run_folder / file)), None)
        if found is None:
            continue
        title = ", ".join(cell)
        drawings.append(
            Drawing(
                title=f"{title}, seed {found.seed}",
                caption=f"{capital(name)} of one seed of each cell, as the run has drawn it.",
                alternative=f"{capital(name)} of {title}, seed {found.seed}.",
                image=(folder / found.run_folder / file).read_bytes(),
                suffix=Path(file).suffix,
                group=capital(name),
            )
        )
    if not drawings:
        raise NothingToDraw(f"No run has left {file} of at most {LARGEST // 1_000_000} MB.")
    return drawings


def check_file(study: Study, file: str) -> None:
    """Check the name of the image.

    Raises:
        ValueError: if it is not a PNG or GIF.
    """
    if Path(file).suffix not in SUFFIXES:
        raise ValueError(f"{study.path}: file of a figure of gallery must end in {' or '.join(SUFFIXES)}, got {file!r}")


def _is_usable(path: Path) -> bool:
    return path.is_file() and 0 < path.stat().st_size <= LARGEST
