"""A study from its plan to its results: what is missing is run, and nothing twice."""

import difflib
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from steepest.study.question.definition import Study
from steepest.study.trials.fresh import WorkerDied
from steepest.study.trials.plan import Trial, cells, describe, final_trials, tuning_trials
from steepest.study.trials.results import TrialResult, load_results, read_result, result_path
from steepest.study.trials.trial import record_death, run_trial
from steepest.study.trials.tuning import chosen_points, results_of, tuning_rounds
from steepest.study.trials.workers import Engine, Placement, RunOptions, note_environment, place

POLL = 1.0  # seconds between two looks at trials that others are running


class Progress:
    """Prints as trials end; where the output is not a terminal there are lines only.

    Args:
        label: Name of the metric in the lines.
        console: Where to print; by default standard output.

    Attributes:
        jobs: Trials at a time, by which the time left is divided.
    """

    def __init__(self, label: str, console: Console | None = None) -> None:
        self.label = label
        self.console = Console(soft_wrap=True, highlight=False) if console is None else console
        self.jobs = 1
        self._total = 0
        self._seconds: list[float] = []
        columns = (TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
        self._bar = Bar(*columns, console=self.console, transient=True) if self.console.is_terminal else None
        self._task: Any = None if self._bar is None else self._bar.add_task("trials", total=None, left="")

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def expect(self, trials: int) -> None:
        """So many trials are still to come."""
        self._total = len(self._seconds) + trials
        self._draw()

    def finished(self, result: TrialResult, value: float) -> None:
        """A trial has ended.

        Args:
            result: Its result.
            value: Its metric.
        """
        self._seconds.append(result.seconds)
        self._total = max(self._total, len(self._seconds))
        number = f"{len(self._seconds):>{len(str(self._total))}}/{self._total}"
        left = "" if self._bar is not None or not self.left() else f", {self.left()}"
        stage = "tuning: " if result.stage == "tuning" else ""
        what = f"{stage}{describe(result.labels, result.point)}, seed {result.seed}"
        self.say(f"{number}  {what}: {self._outcome(result, value)} ({result.seconds:.1f} s{left})")
        self._draw()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def left(self) -> str:
        """The time left in words, from the mean of the trials so far; empty before the first and after the last one."""
        remaining = self._total - len(self._seconds)
        if not self._seconds or remaining <= 0:
            return ""
        mean = sum(self._seconds) / len(self._seconds)
        return f"{in_words(mean * math.ceil(remaining / self.jobs))} left"

    def _outcome(self, result: TrialResult, value: float) -> str:
        if result.status == "diverged":
            return f"diverged at step {result.diverged_at}"
        if result.status == "failed":
            return f"failed: {result.error}"
        return f"{self.label} {value:.6g}"

    def _draw(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, total=self._total, completed=len(self._seconds), left=self.left())


def count_of(number: int, what: str) -> str:
    """A number of things: 1 trial, 2 trials."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def in_words(seconds: float) -> str:
    """A time as people say it: 40 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


@dataclass(frozen=True)
class Task:
    """What a process needs to run a trial.

    Attributes:
        trial: The trial.
        folder: The study's folder.
        data_dir: Folder of data that lie in files.
        directory: Where relative paths begin, and users' own classes are found.
    """

    trial: Trial
    folder: Path
    data_dir: Path | None
    directory: str


def run_claimed(task: Task) -> TrialResult | None:
    """Run a trial, unless it has a result by now; None if another process is running it."""
    os.chdir(task.directory)
    with claimed(task.folder, task.trial.key) as ours:
        if not ours:
            return None
        result = read_result(task.folder, task.trial.key)
        return result or run_trial(task.trial, task.folder, task.data_dir)


def run_study(study: Study, folder: Path, options: RunOptions, progress: Progress) -> int:
    """Run all trials that have no result yet: first those that choose options, then the final ones.

    Args:
        study: The study, as it is stored in the folder.
        folder: Its folder.
        options: How.
        progress: Told about every trial.

    Returns:
        Number of trials of other shards without which the final ones cannot be known, or 0 when this share is done.

    Raises:
        ValueError: if no trial logs the study's metric, or `steepest fit` refuses the first trial; what was run
            until then is kept.
        OSError: if the disk is full or a cluster is out of reach.
    """
    return _StudyRun(study, folder, options, progress).run()


class _StudyRun:
    def __init__(self, study: Study, folder: Path, options: RunOptions, progress: Progress) -> None:
        self.study, self.folder, self.options, self.progress = study, folder, options, progress
        self.results = {result.key: result for result in load_results(folder)}
        self._logs_metric = False
        for result in self._own():
            self._check_metric(result)

    def run(self) -> int:
        study, share = self.study, self.options.shard.share
        tuning = tuning_trials(study)
        # How many final trials there are is known before their points; any point will do to see what they need.
        finals = len(cells(study)) * len(study.seeds)
        missing = self._missing(share(tuning))
        likely = [*missing, *final_trials(study, {})]
        placement = place(likely, max(len(missing), finals // self.options.shard.count), self.options)
        self.progress.jobs = placement.backend.jobs
        with Engine(placement.backend) as engine, self.progress:
            run = partial(self._stage, engine, placement)
            number = 0
            # What a round is made of is known when those before it are done, and is the same for all shards.
            while number < len(rounds := tuning_rounds(study, self.results)):
                self.progress.expect(len(self._missing(share(rounds[number]))) + finals // self.options.shard.count)
                run(rounds[number])
                if missing := self._missing(rounds[number]):
                    return len(missing)
                number += 1
            chosen = chosen_points(study, self._own())
            for cell in [cell for cell, point in chosen.items() if point is None]:
                self.progress.say(f"{', '.join(cell)}: no tuning trial came to its end, so there are no final ones")
            final = final_trials(study, chosen)
            self.progress.expect(len(self._missing(share(final))))
            run(final)
        return 0

    def _own(self) -> list[TrialResult]:
        return results_of(self.study, list(self.results.values()))

    def _missing(self, trials: Sequence[Trial]) -> list[Trial]:
        """Those without a result, also without one that another process has written meanwhile."""
        for trial in trials:
            if trial.key not in self.results and (result := read_result(self.folder, trial.key)) is not None:
                self.results[trial.key] = result
        return [trial for trial in trials if trial.key not in self.results]

    def _stage(self, engine: Engine, placement: Placement, trials: Sequence[Trial]) -> None:
        mine = self.options.shard.share(trials)
        self._forget_failed(mine)
        missing = self._missing(mine)
        if missing:
            note_environment(self.folder, placement, self.options)
        while missing:
            directory = os.getcwd()
            tasks = [Task(trial, self.folder, self.options.data_dir, directory) for trial in missing]
            elsewhere = []
            for task, outcome in engine.run(run_claimed, tasks):
                if outcome is None:
                    elsewhere.append(task.trial)
                else:
                    result = self._lasting(task, outcome)
                    self._take(result)
                    self._check_options(result, first=missing[0])
            missing = self._wait_for(elsewhere)

    def _forget_failed(self, trials: Sequence[Trial]) -> None:
        """With `--retry`; without it those that were refused, as their options or data may have been put right."""
        self._missing(trials)
        for trial in trials:
            result = self.results.get(trial.key)
            if result is not None and (result.refused or (self.options.retry and result.status == "failed")):
                result_path(self.folder, trial.key).unlink(missing_ok=True)
                del self.results[trial.key]

    def _lasting(self, task: Task, outcome: TrialResult | WorkerDied) -> TrialResult:
        if not isinstance(outcome, WorkerDied):
            return outcome
        written = read_result(self.folder, task.trial.key)
        return written or record_death(task.trial, self.folder, task.data_dir, outcome.reason)

    def _take(self, result: TrialResult) -> None:
        self.results[result.key] = result
        self.progress.finished(result, result.value(self.study.metric))
        self._check_metric(result)

    def _wait_for(self, trials: Sequence[Trial]) -> list[Trial]:
        """Wait until others have run these trials; those whose process gave up are handed back."""
        waiting = list(trials)
        if waiting:
            self.progress.say(f"waiting for another process, which is running {count_of(len(waiting), 'trial')}")
        while waiting:
            for trial in list(waiting):
                result = read_result(self.folder, trial.key)
                if result is not None:
                    self._take(result)
                    waiting.remove(trial)
            free = [trial for trial in waiting if not is_claimed(self.folder, trial.key)]
            if free:
                return self._missing(waiting)
            time.sleep(POLL)
        return []

    def _check_options(self, result: TrialResult, first: Trial) -> None:
        """What is wrong with the first trial is often wrong with all; later ones are failures among others."""
        if result.key == first.key and result.refused and all(each.refused for each in load_results(self.folder)):
            raise ValueError(f"{self.study.name}, {describe(result.labels, result.point)}: {result.error}")

    def _check_metric(self, result: TrialResult) -> None:
        if self._logs_metric or result.status != "finished":
            return
        name = self.study.metric.name
        if name in result.final:
            self._logs_metric = True
            return
        known = sorted(result.final)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:10]
        raise ValueError(
            f"no trial logs the metric {name!r}; the nearest that are logged: {', '.join(near) or 'none'} "
            f"({len(known)} in all, see {self.folder / result.run_folder / 'metrics.csv'})"
        )


@contextmanager
def claimed(folder: Path, key: str) -> Iterator[bool]:
    """Claim a trial; gives whether it is ours, and does not wait.

    Args:
        folder: The study's folder.
        key: The trial.
    """
    path = result_path(folder, key).with_name("lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_claimed(folder: Path, key: str) -> bool:
    """Whether somebody is running a trial at this moment."""
    with claimed(folder, key) as free:
        return not free


@contextmanager
def reporting(folder: Path) -> Iterator[None]:
    """Be the only one that writes the report of a study; waits while another process does.

    Args:
        folder: The study's folder.
    """
    with FileLock(folder / "report.lock"):
        yield
