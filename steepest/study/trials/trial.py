"""One trial: a run of `steepest fit`, and its result."""

import contextlib
import csv
import errno
import json
import math
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy

from steepest.errors import BAD_INPUT, INTERRUPTED, exit_code, is_from_users_code, is_termination, one_line
from steepest.run.ranks import ENDS_WITH_PARENT
from steepest.study.trials.plan import Trial, data_words, device_count, needs_own_process, run_place
from steepest.study.trials.results import TrialResult, result_path, write_result
from steepest.study.trials.workers import claimed_gpus

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ERROR = re.compile(
    r"steepest.*?: error: (?P<line>.+)|(?:\[rank\d+\]: )?(?P<exception>(?:\w+\.)*\w+(?:Error|Exception): .+)"
)
_LEAST_SPACE = 2**20  # bytes; with less, whatever a run stumbles over is the disk's fault


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        error: The error in one line, or None.
        diverged: Whether the error is that of a loss or gradient that is not finite.
        bad_input: Whether the command said that what it was given is wrong.
    """

    error: str | None = None
    diverged: bool = False
    bad_input: bool = False


def run_trial(trial: Trial, study_folder: Path, data_dir: Path | None = None) -> TrialResult:
    """Run a trial in this process (in one of its own if it forms a process group), and write its result.

    Output goes into `trials/<key>/output.log`. What an interrupted attempt left in the run's folder is removed first.

    Args:
        trial: The trial.
        study_folder: The study's folder.
        data_dir: Folder of data that lie in files; None takes the run's own default.

    Raises:
        KeyboardInterrupt: if the run is interrupted; then there is no result.
        OSError: if the disk is full; then there is no result either.
    """
    start = time.perf_counter()
    runs_dir, name = run_place(trial, study_folder)
    shared = [*trial.words, *data_words(trial.words, data_dir)]
    words = ["fit", *shared, "--runs_dir", str(runs_dir), "--name", name]
    log = result_path(study_folder, trial.key).with_name("output.log")
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        remove_attempts(runs_dir / name, words)
        log.write_text(f"$ {shlex.join(['steepest', *words])}\n", encoding="utf-8")
        if needs_own_process(trial.words):
            ending = _run_apart(words, log)
        else:
            ending = _run_here(words, log)
        if ending.error is not None and shutil.disk_usage(study_folder).free < _LEAST_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        folder = next(reversed(runs_of(runs_dir / name, words)), None)
        result = _result(trial, shlex.join(["steepest", "fit", *shared]), study_folder, folder, ending, start)
        write_result(study_folder, result)
    except OSError as error:
        if error.errno in _FULL:
            _say_full(error, study_folder)
        raise
    return result


def record_death(trial: Trial, study_folder: Path, data_dir: Path | None, reason: str) -> TrialResult:
    """Write the result of a trial whose process was killed: failed, with what its run had logged until then."""
    runs_dir, name = run_place(trial, study_folder)
    shared = [*trial.words, *data_words(trial.words, data_dir)]
    words = ["fit", *shared, "--runs_dir", str(runs_dir), "--name", name]
    folder = next(reversed(runs_of(runs_dir / name, words)), None)
    command = shlex.join(["steepest", "fit", *shared])
    result = _result(trial, command, study_folder, folder, Ending(reason), time.perf_counter())
    write_result(study_folder, result)
    return result


def _run_here(words: Sequence[str], log: Path) -> Ending:
    # Before the output goes into the file: handlers of logging keep the `sys.stderr` that is there at their import.
    from steepest.command_line.command_line import run

    with output_into(log):
        sys.path.append(os.getcwd())
        try:
            run(words)
        except KeyboardInterrupt:
            raise
        except SystemExit as exit:
            if isinstance(exit.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from exit
            if is_termination(exit):
                # Lightning has caught the signal; now it ends this process, as any other in which no result is left.
                os.kill(os.getpid(), signal.SIGTERM)
            line = getattr(exit, "message", None) or f"ended with exit code {exit.code}"
            return Ending(line, bad_input=exit.code == BAD_INPUT)
        except Exception as error:
            if full := _full_disk(error):
                raise full from error
            traceback.print_exc()
            line, code = one_line(error), exit_code(error)
            if is_from_users_code(error):
                code = None
            if code is None:
                line = f"{type(error).__name__}: {line}"
            return Ending(line, diverged=isinstance(error, FloatingPointError), bad_input=code == BAD_INPUT)
    return Ending()


def _run_apart(words: Sequence[str], log: Path) -> Ending:
    environment = {**os.environ, ENDS_WITH_PARENT: str(os.getpid()), "STEEPEST_TRACEBACK": "1"}
    if gpus := claimed_gpus():  # this process sees the first of them only
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[: device_count(words)])
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "steepest", *words], env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            code = process.wait()
        finally:
            process.kill()
            process.wait()
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code == 0:
        return Ending()
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    killed = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    diverged = any("FloatingPointError" in line for line in lines)
    return Ending(_last_error(lines) or killed, diverged, bad_input=code == BAD_INPUT)


def _last_error(lines: Sequence[str]) -> str | None:
    """What a command, or the traceback of one of its ranks, said last about why it ended."""
    errors = (_ERROR.match(line) for line in lines)
    return next((match["line"] or match["exception"] for match in reversed(list(errors)) if match), None)


def _full_disk(error: BaseException | None) -> OSError | None:
    """The error of a full disk (or quota) behind another one, if there is one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in _FULL:
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _say_full(error: OSError, study_folder: Path) -> None:
    reason = os.strerror(error.errno or errno.ENOSPC)
    said = f"{reason}: what is finished is kept; make room, and go on with `steepest study resume {study_folder}`"
    raise OSError(error.errno, said, str(study_folder)) from error


def _result(
    trial: Trial, command: str, study_folder: Path, folder: Path | None, ending: Ending, start: float
) -> TrialResult:
    curves = {} if folder is None else read_curves(folder / "metrics.csv")
    record = {} if folder is None else read_record(folder)
    diverged_at = None if folder is None else divergence_step(folder)
    steps = int(record.get("global_step", 0))
    if diverged_at is None and ending.diverged:
        diverged_at = steps
    status = "diverged" if diverged_at is not None else "finished" if ending.error is None else "failed"
    clock = curves.get(CLOCK)
    return TrialResult(
        key=trial.key,
        stage=trial.stage,
        labels=dict(trial.labels),
        point=dict(trial.point),
        seed=trial.seed,
        command=command,
        status=status,
        error=ending.error,
        diverged_at=diverged_at,
        steps=steps,
        train_seconds=clock[-1][1] if clock else math.nan,
        seconds=round(time.perf_counter() - start, 3),
        parameters=record.get("parameters"),
        final=last_values(curves, record),
        history=with_clock(curves),
        run_folder="" if folder is None else folder.relative_to(study_folder).as_posix(),
        host=socket.gethostname(),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        refused=status == "failed" and steps == 0 and ending.bad_input,
    )


@contextlib.contextmanager
def output_into(path: Path) -> Iterator[None]:
    """Let everything this process and those it starts print, errors too, go into a file.

    It acts on the file descriptors, so that C libraries, data loaders' workers and handlers of logging that hold an
    earlier `sys.stderr` are included.
    """
    _flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    try:
        with path.open("ab") as file:
            for number in kept:
                os.dup2(file.fileno(), number)
        yield
    finally:
        # A full disk shows itself here too; the descriptors come back nevertheless.
        try:
            _flush()
        finally:
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


CLOCK = "time/train_seconds"

Curve = list[tuple[int, float]]


def read_curves(file: Path) -> dict[str, Curve]:
    """Step and value of every scalar in a `metrics.csv`, in the order of the steps; empty without the file.

    Of several values at one step, such as a run's record and its end, the last counts.
    """
    curves: dict[str, dict[int, float]] = {}
    if not file.is_file():
        return {}
    with file.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if not row.get("step"):
                continue
            step = int(float(row["step"]))
            for name, text in row.items():
                if name not in ("step", "epoch") and text:
                    curves.setdefault(name, {})[step] = float(text)
    return {name: sorted(curve.items()) for name, curve in curves.items()}


def with_clock(curves: Mapping[str, Curve]) -> dict[str, list[list[Any]]]:
    """Every scalar as rows of step, training seconds and value; the clock is read between its own records.

    Before its first record the clock is taken to run evenly from 0; without a clock the seconds are None.
    """
    clock = curves.get(CLOCK)
    if not clock:
        return {name: [[step, None, value] for step, value in curve] for name, curve in curves.items()}
    steps, seconds = zip(*((0, 0.0), *(record for record in clock if record[0] > 0)), strict=True)
    return {
        name: [[step, float(numpy.interp(step, steps, seconds)), value] for step, value in curve]
        for name, curve in curves.items()
    }


def last_values(curves: Mapping[str, Curve], record: Mapping[str, Any]) -> dict[str, float]:
    """The last value of every scalar; those that only the record of the run has, such as of a test, come from there."""
    last = {name: float(value) for name, value in record.get("metrics", {}).items()}
    return last | {name: curve[-1][1] for name, curve in curves.items()}


def read_record(run_folder: Path) -> dict[str, Any]:
    """The run's `run.json`, empty if there is none."""
    return _json(run_folder / "run.json")


def divergence_step(run_folder: Path) -> int | None:
    """The step at which the run's loss ran away, if it did."""
    step = _json(run_folder / "divergence.json").get("step")
    return None if step is None else int(step)


def runs_of(parent: Path, command: Sequence[str]) -> list[Path]:
    """The runs under one name that were started by exactly this command, the newest last."""
    text = shlex.join(["steepest", *command])
    return [folder for folder in _versions(parent) if read_record(folder).get("command") == text]


def remove_attempts(parent: Path, command: Sequence[str]) -> None:
    """Delete the runs of a command that left no result, and those that did not come to say whose they are."""
    unsaid = [folder for folder in _versions(parent) if not (folder / "run.json").is_file()]
    for folder in [*runs_of(parent, command), *unsaid]:
        shutil.rmtree(folder)


def _versions(parent: Path) -> list[Path]:
    folders = [path for path in parent.glob("version_*") if path.name.removeprefix("version_").isdigit()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("version_")))


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}
