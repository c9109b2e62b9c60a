"""The figures of a report: drawn, written, and put into the page itself."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from diagnostics.artifacts import save_figure, write_atomically
from steepest.study.definition import Study
from steepest.study.figures import Drawing, NothingToDraw, draw
from steepest.study.figures.style import style
from steepest.study.results import TrialResult

LARGEST_SVG = 300_000  # bytes; a larger one is shown as PNG
FALLBACK: tuple[Mapping[str, Any], ...] = ({"kind": "curves"}, {"kind": "bars"})
TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".gif": "image/gif"}


@dataclass(frozen=True)
class Picture:
    """An image of the page.

    Attributes:
        title: Stands above it.
        source: Its content as a data URL.
        alternative: For those who do not see it.
        width: In CSS pixels, for the room that it takes.
        height: Likewise.
    """

    title: str
    source: str
    alternative: str
    width: int
    height: int


@dataclass(frozen=True)
class Block:
    """One figure of the page.

    Attributes:
        kind: Of the figure.
        title: Stands above it.
        caption: Stands below it.
        pictures: One, or several side by side.
        wide: Whether it takes the whole width.
        reason: Why there is nothing; empty if there is something.
    """

    kind: str
    title: str
    caption: str = ""
    pictures: tuple[Picture, ...] = ()
    wide: bool = False
    reason: str = ""


def write_figures(folder: Path, study: Study, results: Sequence[TrialResult]) -> list[Block]:
    """Draw the study's figures into `figures/`, and return them for the page.

    Args:
        folder: Of the study; what other figures an earlier report has left in `figures/` is removed.
        study: Names the figures; without any there are curves and bars.
        results: Its trials.
    """
    written: set[str] = set()
    blocks = []
    for place, entry in enumerate(study.figures or FALLBACK, 1):
        name = f"{place:02}_{entry['kind']}"
        try:
            drawings = draw(study, results, folder, entry)
        except (NothingToDraw, ValueError) as error:
            blocks.append(
                Block(entry["kind"], str(entry.get("title") or entry["kind"].capitalize()), reason=str(error))
            )
            continue
        files = [name if len(drawings) == 1 else f"{name}_{number}" for number in range(1, len(drawings) + 1)]
        written |= set(files)
        pictures = [_write(folder / "figures", file, own) for file, own in zip(files, drawings, strict=True)]
        blocks += _blocks(entry["kind"], drawings, pictures)
    for path in (folder / "figures").glob("*"):
        # A hidden one is a file that is being written.
        if path.suffix in TYPES and path.stem not in written and not path.name.startswith("."):
            path.unlink(missing_ok=True)
    return blocks


def _blocks(kind: str, drawings: Sequence[Drawing], pictures: Sequence[Picture]) -> list[Block]:
    blocks: list[Block] = []
    groups: dict[str, list[int]] = {}
    for place, drawing in enumerate(drawings):
        groups.setdefault(drawing.group or f"{place}", []).append(place)
    for places in groups.values():
        first = drawings[places[0]]
        own = tuple(pictures[place] for place in places)
        wide = first.wide or len(own) > 1
        blocks.append(Block(kind, first.group or first.title, first.caption, own, wide))
    return blocks


def _write(folder: Path, name: str, drawing: Drawing) -> Picture:
    if drawing.figure is not None:
        with style():
            save_figure(drawing.figure, folder, name)
        inches = drawing.figure.get_size_inches()
        path = folder / f"{name}.svg"
        if path.stat().st_size > LARGEST_SVG:
            path = path.with_suffix(".png")
        return _picture(drawing, path.read_bytes(), path.suffix, round(96 * inches[0]), round(96 * inches[1]))
    content = drawing.image or b""
    write_atomically(folder / f"{name}{drawing.suffix}", lambda path: path.write_bytes(content))
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
    # Images of runs have 150 dots an inch, animations are made for screens.
    share = 1.0 if drawing.suffix == ".gif" else 96 / 150
    return _picture(drawing, content, drawing.suffix, round(width * share), round(height * share))


def _picture(drawing: Drawing, content: bytes, suffix: str, width: int, height: int) -> Picture:
    source = f"data:{TYPES[suffix]};base64,{base64.b64encode(content).decode('ascii')}"
    return Picture(drawing.title, source, drawing.alternative, width, height)
