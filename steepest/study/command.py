"""`steepest study`: run a study, go on with it, write its report."""

import argparse
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from steepest.cli import BAD_ENVIRONMENT, BAD_INPUT, INTERRUPTED, fail
from steepest.one_line_parser import OneLineParser
from steepest.study.backends import RunOptions
from steepest.study.belonging import results_of
from steepest.study.definition import Study
from steepest.study.dry_run import print_plan
from steepest.study.folder import folder_of, load_stored, store_study
from steepest.study.last_evaluation import unjudged_end
from steepest.study.progress import Progress, count_of
from steepest.study.reading import load_study
from steepest.study.rehearsal import check_commands
from steepest.study.results import TrialResult, load_results
from steepest.study.runner import run_study
from steepest.study.shard import parse_shard

_EXAMPLES = """\
examples:
  steepest study run configs/studies/optimizer_comparison.yaml --dry_run
  steepest study run configs/studies/optimizer_comparison.yaml --scale smoke
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
        study = load_study(Path(options.study), options.scale)
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
            f"this share is done; {lacking} of other shares are missing: the same command goes on when they are there"
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
    from steepest.study.report import write_report
    from steepest.study.tables import print_summary, summary_table

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
        description="Answer a question by many runs: tuned with equal budgets, repeated on fresh seeds, compared with "
        "intervals and tests. Every trial is a run of `steepest fit` with a folder of its own; an interrupted study "
        "goes on where it stopped, and a changed study file only adds what is missing.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="run|resume|report")
    run = commands.add_parser("run", help="run the trials of a study file that have no result yet", allow_abbrev=False)
    run.add_argument("study", metavar="STUDY.yaml", help="the study file")
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
    parser.add_argument("--backend", default="loky", help="loky: processes of this machine (default); ray: a cluster")
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
