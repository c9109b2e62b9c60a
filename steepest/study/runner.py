"""A study from its plan to its results: what is missing is run, and nothing twice."""

import difflib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from steepest.study.backends import Placement, RunOptions, note_environment, place
from steepest.study.belonging import results_of
from steepest.study.claims import claimed, is_claimed
from steepest.study.definition import Study
from steepest.study.engine import Engine, WorkerDied
from steepest.study.plan import Trial, cells, describe, final_trials, tuning_trials
from steepest.study.progress import Progress, count_of
from steepest.study.results import TrialResult, load_results, read_result, result_path
from steepest.study.trial import record_death, run_trial
from steepest.study.tuning import chosen_points, tuning_rounds

POLL = 1.0  # seconds between two looks at trials that others are running


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
