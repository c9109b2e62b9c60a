"""Studies of real runs that take a second each, and their commands in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from steepest.study.question.definition import Study
from steepest.study.question.reading import load_study
from steepest.study.trials.plan import Trial, final_trials, make_trial
from steepest.study.trials.results import TrialResult, load_results

REPOSITORY = Path(__file__).resolve().parents[3]

BASE = {
    "model": {
        "class_path": "ImageClassifier",
        "init_args": {"network": {"class_path": "SimpleMLP", "init_args": {"hidden": 8}}},
    },
    "data": {"class_path": "Digits", "init_args": {"batch_size": 64}},
    "optimizer": "sgd",
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 1,
        "limit_train_batches": 4,
        "limit_val_batches": 1,
        "log_every_n_steps": 1,
        "callbacks": [],
    },
}
QUESTION = {
    "question": "Does the optimizer matter within four steps?",
    "base": ["tiny.yaml"],
    "axes": {"optimizer": {"SGD": {"optimizer": "sgd"}, "Adam / fast": {"optimizer": "adam", "optimizer.lr": 0.01}}},
    "seeds": 2,
    "metric": {"name": "val/accuracy", "label": "validation accuracy"},
}
TUNED = {
    "axes": {"optimizer": {"SGD": {"optimizer": "sgd"}, "Adam": {"optimizer": "adam"}}},
    "tuning": {"method": "grid", "seeds": [1000], "space": {"optimizer.lr": {"log": [0.001, 0.1], "points": 2}}},
}


def write_study(folder: Path, **changes: Any) -> Path:
    """A study of four final trials, with changes by key; returns its file."""
    (folder / "tiny.yaml").write_text(yaml.safe_dump(BASE))
    path = folder / "question.yaml"
    path.write_text(yaml.safe_dump({**QUESTION, **changes}, sort_keys=False))
    return path


def first_trial(folder: Path, **changes: Any) -> tuple[Study, Trial]:
    """The study and the first of its final trials."""
    study = load_study(write_study(folder, **changes))
    return study, final_trials(study, {})[0]


def trial_with(study: Study, options: dict[str, Any], seed: int = 0) -> Trial:
    """The first cell's trial with further options."""
    labels = {axis.name: next(iter(axis.alternatives)) for axis in study.axes}
    return make_trial(study, "final", labels, options, seed)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def start(folder: Path, *words: object) -> subprocess.Popen:
    """`steepest study WORDS` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "steepest", "study", *map(str, words)],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests may run where interrupts are ignored, and what is ignored is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish(process: subprocess.Popen, timeout: float = 250) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    with ended(process):
        out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def study_command(folder: Path, *words: object) -> tuple[int, str, str]:
    """Run `steepest study WORDS` to its end."""
    return finish(start(folder, *words))


@contextmanager
def ended(process: subprocess.Popen) -> Iterator[None]:
    """Leave no process of the group behind."""
    try:
        yield
    finally:
        if process.poll() is None:
            kill_group(process)


def kill_group(process: subprocess.Popen) -> None:
    """What nobody can prepare for."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def wait_for(condition: Any, timeout: float = 120.0) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def numbers(result: TrialResult) -> dict[str, Any]:
    """What a repetition of the trial must give again, to the bit: all but times, places and commands."""
    content = asdict(result)
    final = {name: value for name, value in content["final"].items() if "seconds" not in name}
    history = {
        name: [(step, value) for step, _, value in rows]
        for name, rows in content["history"].items()
        if "seconds" not in name
    }
    kept = ("key", "stage", "labels", "point", "seed", "status", "error", "diverged_at", "steps", "parameters")
    return {**{name: content[name] for name in kept}, "final": final, "history": history}


def results(folder: Path, study: str = "studies/question/smoke") -> dict[str, TrialResult]:
    """All results by key."""
    return {result.key: result for result in load_results(folder / study)}
