"""What a study would do, without doing it."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from steepest.study.backends import RunOptions
from steepest.study.belonging import results_of
from steepest.study.capacity import default_jobs, gpus_for
from steepest.study.definition import Study
from steepest.study.plan import Trial, cells, final_trials
from steepest.study.progress import in_words
from steepest.study.results import TrialResult, load_results
from steepest.study.spaces import space_of
from steepest.study.trial_words import data_words
from steepest.study.tuning import chosen_points, tuning_rounds


def print_plan(console: Console, study: Study, folder: Path, options: RunOptions) -> None:
    """Print the plan, the command of every trial, how many are still to be run, and how long that may take.

    Args:
        console: Where to print.
        study: The study.
        folder: Its folder, which need not exist.
        options: How it would be run.
    """
    stored = load_results(folder)
    results = results_of(study, stored)
    done = {result.key for result in results if not (options.retry and result.status == "failed")}
    rounds = tuning_rounds(study, {result.key: result for result in stored})
    tuning = [trial for trials in rounds for trial in trials]
    open_tuning = [trial for trial in tuning if trial.key not in done]
    chosen = None if open_tuning else chosen_points(study, results)
    # Cells that are not tuned can be told before the others.
    fixed = {} if chosen is None else chosen
    final = final_trials(study, {cell: fixed.get(cell) for cell in _tuned(study)} if _tuned(study) else {})
    waiting = len(_tuned(study)) * len(study.seeds) if chosen is None else 0
    console.print(study.question, markup=False)
    console.print(_table(study, tuning, len(final) + waiting))
    for title, trials in (("tuning", tuning), ("final", final)):
        _print_commands(console, title, trials, done, options)
    if waiting:
        console.print(f"{waiting} final trials follow, at the points that the tuning chooses")
    _print_estimate(console, study, [*tuning, *final], waiting, done, results, options)


def _tuned(study: Study) -> list[tuple[str, ...]]:
    if study.tuning is None:
        return []
    return [tuple(labels.values()) for labels in cells(study) if space_of(study.tuning, labels)]


def _table(study: Study, tuning: Sequence[Trial], finals: int) -> Table:
    table = Table(title=f"{study.name}, scale {study.scale}", title_justify="left")
    table.add_column("stage")
    for axis in study.axes:
        table.add_column(axis.name, overflow="fold")
    for name in ("points", "seeds", "trials"):
        table.add_column(name, justify="right")
    counts: dict[tuple[str, ...], int] = {}
    for trial in tuning:
        counts[trial.cell] = counts.get(trial.cell, 0) + 1
    per_point = len(study.tuning.seeds) if study.tuning is not None else 1
    for cell, count in counts.items():
        table.add_row("tuning", *cell, str(count // per_point), str(per_point), str(count))
    for labels in cells(study):
        table.add_row("final", *labels.values(), "1", str(len(study.seeds)), str(len(study.seeds)))
    blank = [""] * len(study.axes)
    table.add_section()
    table.add_row("all", *blank, "", "", str(len(tuning) + finals))
    return table


def _print_commands(console: Console, title: str, trials: Sequence[Trial], done: set[str], options: RunOptions) -> None:
    for trial in options.shard.share(trials):
        words = ["steepest", "fit", *trial.words, *data_words(trial.words, options.data_dir)]
        mark = "done  " if trial.key in done else "to do "
        console.print(f"{mark} {title} {trial.key}  {shlex.join(words)}", markup=False, soft_wrap=True)


def _print_estimate(
    console: Console,
    study: Study,
    trials: Sequence[Trial],
    waiting: int,
    done: set[str],
    results: Sequence[TrialResult],
    options: RunOptions,
) -> None:
    mine = options.shard.share(trials)
    left = len([trial for trial in mine if trial.key not in done]) + -(-waiting // options.shard.count)
    jobs = options.jobs or default_jobs(trials, gpus_for(trials))
    text = f"{left} of {len(mine) + -(-waiting // options.shard.count)} trials still to do, {jobs} at a time"
    if options.backend == "ray" and options.jobs is None:
        text += " if the cluster has the room of this machine"
    measured = [result.seconds for result in results if result.status == "finished"]
    seconds = sum(measured) / len(measured) if measured else study.seconds
    if left and seconds is not None:
        source = f"the mean of {len(measured)} finished" if measured else "by the study file"
        text += f": about {in_words(-(-left // jobs) * seconds)} ({seconds:.1f} s a trial, {source})"
    console.print(text, markup=False)
