"""The report of a study: one page that needs no other file."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from diagnostics.artifacts import write_atomically
from steepest import __version__
from steepest.study import report_measures, report_tables, report_words
from steepest.study.belonging import results_of
from steepest.study.claims import reporting
from steepest.study.definition import Study
from steepest.study.figures.words import capital
from steepest.study.folder import load_stored
from steepest.study.plan import describe
from steepest.study.report_figures import write_figures
from steepest.study.results import TrialResult, load_results
from steepest.study.tables import reported, summary_table, write_tables

TEMPLATE = "report.html"


def write_report(folder: Path) -> Path:
    """Write tables, figures and `report.html` of a study again, from its results alone.

    Args:
        folder: The study's; it may hold any part of the results, or none.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: if the folder is none of a study.
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
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def render(content: dict[str, Any]) -> str:
    """The page. All that comes from the study is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("steepest.study").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(template).render(content) + "\n"


def content_of(folder: Path, study: Study, results: Sequence[TrialResult]) -> dict[str, Any]:
    """All that the page shows.

    Args:
        folder: The study's; figures are written there.
        study: What was asked.
        results: Tuning trials, and the final ones that count.
    """
    rows = summary_table(study, results)
    total = report_words.planned(study, results)
    record = _environment(folder)
    return {
        "title": capital(study.name.replace("_", " ")),
        "scale": study.scale,
        "question": study.question,
        "reference": study.reference,
        "answer": report_words.answer(study, rows, complete=len(results) >= total),
        "progress": report_words.progress(results, total),
        "protocol": report_words.protocol(study, results),
        "summary": report_tables.summary(study, rows),
        "comparisons": report_tables.comparisons(study, rows),
        "speeds": report_measures.speeds(study, results),
        "sensitivities": report_measures.sensitivities(study, results),
        "tuning": report_tables.tuning(study, results),
        "broken": report_tables.broken(study, results),
        "figures": write_figures(folder, study, results),
        "environment": report_tables.environment(record),
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


def _environment(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{folder / 'environment.json'} is not JSON; delete it") from error
