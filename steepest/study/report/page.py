"""The report of a study: one page that needs no other file."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from steepest import __version__
from steepest.common.atomic import replacing
from steepest.common.plotting import DOTS_PER_INCH
from steepest.diagnostics.common.artifacts import save_figure
from steepest.study.analysis.summary import reported, summary_table
from steepest.study.analysis.wording import capital
from steepest.study.figures import Drawing, NothingToDraw, draw
from steepest.study.figures.style import style
from steepest.study.question.definition import Study
from steepest.study.report import sentences, tables
from steepest.study.report.exports import write_tables
from steepest.study.trials.folder import load_stored
from steepest.study.trials.plan import describe
from steepest.study.trials.results import TrialResult, load_results
from steepest.study.trials.runner import reporting
from steepest.study.trials.tuning import results_of

TEMPLATE = "report.html"
LARGEST_SVG = 300_000  # bytes; a larger one is shown as PNG
FALLBACK: tuple[Mapping[str, Any], ...] = ({"kind": "curves"}, {"kind": "bars"})
# Of the files in `figures/`, by suffix.
TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".gif": "image/gif"}


def write_report(folder: Path) -> Path:
    """Write tables, figures and `report.html` of a study again, from its results alone.

    Args:
        folder: The study's; it may hold any part of the results, or none.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: if the folder is not that of a study.
        ValueError: if a file in it was changed and cannot be read.
    """
    study = load_stored(folder)
    path = folder / "report.html"
    with reporting(folder):
        results = results_of(study, load_results(folder))
        write_tables(folder, study, results)
        # Final trials of an earlier choice stay in the tables; a figure shows what the tuning chooses now.
        current = [result for result in results if result.stage == "tuning"] + reported(study, results)
        text = render(content_of(folder, study, current))
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    return path


def render(content: dict[str, Any]) -> str:
    """The page. All that comes from the study is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("steepest.study.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(template).render(content) + "\n"


def content_of(folder: Path, study: Study, results: Sequence[TrialResult]) -> dict[str, Any]:
    """All that the page shows.

    Args:
        folder: The study's; figures are written there.
        study: What was asked.
        results: Tuning trials, and the final ones that count.
    """
    rows = summary_table(study, results)
    total = sentences.planned(study, results)
    record = _environment(folder)
    return {
        "title": capital(study.name.replace("_", " ")),
        "scale": study.scale,
        "question": study.question,
        "reference": study.reference,
        "answer": sentences.answer(study, rows, complete=len(results) >= total),
        "progress": sentences.progress(results, total),
        "protocol": sentences.protocol(study, results),
        "summary": tables.summary(study, rows),
        "comparisons": tables.comparisons(study, rows),
        "speeds": tables.speeds(study, results),
        "sensitivities": tables.sensitivities(study, results),
        "tuning": tables.tuning(study, results),
        "broken": tables.broken(study, results),
        "figures": write_figures(folder, study, results),
        "environment": tables.environment(record),
        "hosts": sorted({result.host for result in results}),
        "seconds": sum(result.seconds for result in results),
        "last": max((result.finished_at for result in results), default="").replace("T", " ").replace("+00:00", " UTC"),
        "trials": [
            {
                "name": describe(result.labels, result.point),
                "stage": result.stage,
                "seed": result.seed,
                "status": result.status,
                "command": result.command,
                "folder": result.run_folder,
            }
            for result in results
        ],
        "version": __version__,
    }


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


def _environment(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{folder / 'environment.json'} is not JSON; delete it") from error


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
    with replacing(folder / f"{name}{drawing.suffix}") as partial:
        partial.write_bytes(content)
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
    # Animations are made for screens.
    share = 1.0 if drawing.suffix == ".gif" else 96 / DOTS_PER_INCH
    return _picture(drawing, content, drawing.suffix, round(width * share), round(height * share))


def _picture(drawing: Drawing, content: bytes, suffix: str, width: int, height: int) -> Picture:
    source = f"data:{TYPES[suffix]};base64,{base64.b64encode(content).decode('ascii')}"
    return Picture(drawing.title, source, drawing.alternative, width, height)
