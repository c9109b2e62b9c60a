"""`steepest study`: run a study, go on with it, write its report."""

import argparse
import contextlib
import io
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from steepest.errors import BAD_ENVIRONMENT, BAD_INPUT, INTERRUPTED, Failure, OneLineParser, exit_code, fail, one_line
from steepest.shipped import STUDIES, find
from steepest.study.analysis.summary import unjudged_end
from steepest.study.figures import check_figures
from steepest.study.question.definition import Study
from steepest.study.question.reading import load_study
from steepest.study.question.spaces import space_of
from steepest.study.trials.folder import folder_of, load_stored, store_study
from steepest.study.trials.plan import Trial, cells, data_words, describe, final_trials, parse_shard, tuning_trials
from steepest.study.trials.results import TrialResult, load_results
from steepest.study.trials.runner import Progress, count_of, in_words, run_study
from steepest.study.trials.tuning import chosen_points, results_of, tuning_rounds
from steepest.study.trials.workers import RunOptions, default_jobs, gpus_for

_EXAMPLES = """\
examples:
  steepest study run optimizer_comparison --dry_run
  steepest study run optimizer_comparison --scale smoke
  steepest study resume studies/optimizer_comparison/smoke --retry
  steepest study report studies/optimizer_comparison/smoke
"""


def run_study_command(words: Sequence[str]) -> None:
    """Run one of the commands below `steepest study`.

    Args:
        words: The command and its options, see `steepest study --help`.
    """
    options = _parser().parse_args(words)
    if options.command == "report":
        folder = Path(options.folder)
        load_stored(folder)
        _write_report(folder)
        return
    running = RunOptions(
        jobs=options.jobs,
        backend=options.backend,
        address=options.address,
        shard=parse_shard(options.shard),
        data_dir=None if options.data_dir is None else Path(options.data_dir).absolute(),
        retry=options.retry,
    )
    if running.data_dir is not None and not running.data_dir.is_dir():
        raise FileNotFoundError(f"--data_dir: there is no folder {options.data_dir}")
    if options.command == "resume":
        folder = Path(options.folder)
        study = load_stored(folder)
    else:
        study = load_study(find(options.study, STUDIES), options.scale)
        check_figures(study)  # before anything runs, not after hours at the report
        folder = folder_of(Path(options.studies_dir), study)
        check_commands(study, running.data_dir)
    if options.dry_run:
        print_plan(Console(soft_wrap=True, highlight=False), study, folder, running)
        return
    if options.command == "run":
        store_study(folder, study)
        # From here on only what is stored counts: the files it came from may change while trials are running.
        study = load_stored(folder)
    _run(study, folder, running, options.report)


def _run(study: Study, folder: Path, options: RunOptions, report: bool) -> None:
    folder = folder.absolute()
    try:
        missing = run_study(study, folder, options, Progress(study.metric.label))
    except KeyboardInterrupt:
        fail(f"interrupted; run `steepest study resume {shlex.quote(_shown(folder))}` to go on", INTERRUPTED)
    results = results_of(study, load_results(folder))
    if missing:
        lacking = count_of(missing, "tuning trial")
        print(
            f"this share is done; {lacking} of other shares are missing: run the same command again when they are there"
        )
        return
    _print_counts(results)
    if report:
        _write_report(folder)
    print(f"results {_shown(folder / 'trials')}")
    print(f"runs    {_shown(folder / 'runs')}  (tensorboard --logdir {shlex.quote(_shown(folder / 'runs'))})")
    failed = [result for result in results if result.status == "failed"]
    if failed:
        logs = _shown(folder / "trials" / "*" / "output.log") if len(failed) > 1 else _shown(_log(folder, failed[0]))
        fail(
            f"{len(failed)} of {len(results)} trials failed, the first with: {failed[0].error}; their output is in "
            f"{logs}; `steepest study resume {shlex.quote(_shown(folder))} --retry` runs them again",
            BAD_INPUT if all(result.refused for result in failed) else BAD_ENVIRONMENT,
        )


def _write_report(folder: Path) -> None:
    from steepest.study.analysis.summary import print_summary, summary_table
    from steepest.study.report.page import write_report

    study = load_stored(folder)
    results = results_of(study, load_results(folder))
    print_summary(Console(soft_wrap=True), study, summary_table(study, results))
    if early := unjudged_end(study, results):
        print(f"warning: {early}")
    print(f"report  {_shown(write_report(folder))}")


def _print_counts(results: Sequence[TrialResult]) -> None:
    counts = Counter(result.status for result in results)
    print(", ".join(f"{counts[status]} {status}" for status in ("finished", "diverged", "failed") if counts[status]))


def _log(folder: Path, result: TrialResult) -> Path:
    return folder / "trials" / result.key / "output.log"


def _shown(path: Path) -> str:
    """A path as short as it can be typed from here."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="steepest study",
        description="Answer a question with many runs, tuned with equal budgets, repeated on fresh seeds, compared "
        "with intervals and tests. Every trial is a run of `steepest fit` with a folder of its own; an interrupted "
        "study continues where it stopped, and a changed study file only adds what is missing.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="run|resume|report")
    run = commands.add_parser("run", help="run the trials of a study file that have no result yet", allow_abbrev=False)
    run.add_argument("study", metavar="STUDY", help="a study file, or a name of `steepest list studies`")
    run.add_argument("--scale", help="smoke, paper or another scale of the file (default: smoke if there is one)")
    run.add_argument("--studies_dir", default="studies", help="results go to STUDIES_DIR/NAME/SCALE (default: studies)")
    resume = commands.add_parser("resume", help="go on with the study in a folder", allow_abbrev=False)
    report = commands.add_parser("report", help="write figures, tables and report again", allow_abbrev=False)
    for command in (resume, report):
        command.add_argument("folder", metavar="FOLDER", help="the study's folder, STUDIES_DIR/NAME/SCALE")
    for command in (run, resume):
        _add_running_options(command)
    return parser


def _add_running_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, help="trials at a time (default: as many as cores, memory or GPUs allow)")
    parser.add_argument("--backend", default="local", help="local: processes of this machine (default); ray: a cluster")
    parser.add_argument("--address", help="of the Ray cluster, host:port (default: RAY_ADDRESS, or one started here)")
    parser.add_argument("--shard", metavar="i/n", help="run only the i-th of n shares, for job arrays")
    parser.add_argument("--data_dir", help="folder of data sets that lie in files")
    parser.add_argument("--dry_run", action="store_true", help="print plan, commands and time; run and write nothing")
    parser.add_argument("--retry", action="store_true", help="run failed trials again")
    parser.add_argument(
        "--report",
        type=_true_or_false,
        default=True,
        metavar="true|false",
        help="write tables, figures and report at the end (default: true)",
    )


def _true_or_false(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return text.lower() == "true"


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
        text += " if the cluster has as much room as this machine"
    measured = [result.seconds for result in results if result.status == "finished"]
    seconds = sum(measured) / len(measured) if measured else study.seconds
    if left and seconds is not None:
        source = f"the mean of {len(measured)} finished" if measured else "by the study file"
        text += f": about {in_words(-(-left // jobs) * seconds)} ({seconds:.1f} s a trial, {source})"
    console.print(text, markup=False)


def check_commands(study: Study, data_dir: Path | None = None) -> None:
    """Let `steepest fit` read the command of one trial for every alternative of every axis, without running it.

    One for each alternative, not for each combination, of which there may be a thousand: a tenth of a second a piece.

    Args:
        study: The study.
        data_dir: Folder of data that lie in files.

    Raises:
        ValueError: if it refuses one: with its line, and the alternatives that it was for.
    """
    for trial in _samples(study):
        if refusal := _refusal([*trial.words, *data_words(trial.words, data_dir)]):
            raise ValueError(f"{study.name}, {describe(trial.labels, trial.point)}: {refusal}")


def _samples(study: Study) -> Iterator[Trial]:
    tuning = tuning_trials(study)
    tuned = {trial.cell for trial in tuning}
    seen: set[tuple[str, str]] = set()
    for trial in [*tuning, *(trial for trial in final_trials(study, {}) if trial.cell not in tuned)]:
        if not trial.labels.items() <= seen:
            seen |= trial.labels.items()
            yield trial


def _refusal(words: list[str]) -> str | None:
    from steepest.command_line.command_line import run

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            run(["fit", *words, "--print_config"])
        except Failure as failure:
            return failure.message
        except SystemExit as exit:
            return None if exit.code in (0, None) else f"ended with exit code {exit.code}"
        except Exception as error:
            # Anything else is for the trial itself to say, with its traceback.
            return one_line(error) if exit_code(error) == BAD_INPUT else None
    return None
