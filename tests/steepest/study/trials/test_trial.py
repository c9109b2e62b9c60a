"""One trial: how it ends, and what is read from its files."""

import json
import math
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from steepest.study.trials.fresh import WorkerDied
from steepest.study.trials.plan import (
    LONGEST_NAME,
    Trial,
    data_words,
    device_count,
    final_trials,
    make_trial,
    needs_own_process,
    run_place,
    safe_name,
)
from steepest.study.trials.results import TrialResult, read_result, result_path
from steepest.study.trials.trial import read_curves, run_trial, with_clock
from steepest.study.trials.workers import Engine, LocalBackend
from tests.steepest.study.small_studies import environment, first_trial, numbers, trial_with

CALLBACKS = """
import os, signal
import lightning

class Failing(lightning.Callback):
    def on_train_batch_end(self, *arguments):
        raise RuntimeError("a mistake of its own\\nin two lines")

class Telling(lightning.Callback):
    def on_train_start(self, *arguments):
        # In one piece: two ranks write into one file.
        os.write(1, f"it sees {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n".encode())

class Interrupting(lightning.Callback):
    def on_train_batch_end(self, *arguments):
        raise KeyboardInterrupt

class Terminated(lightning.Callback):
    def on_train_batch_end(self, trainer, *arguments):
        if trainer.is_global_zero and not os.path.exists("terminated"):
            open("terminated", "w").close()
            os.kill(os.getpid(), signal.SIGTERM)

class Full(lightning.Callback):
    def on_train_batch_end(self, *arguments):
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("could not write") from error
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, clean_process) -> Path:
    """The working folder, with callbacks of a user's own."""
    (tmp_path / "own.py").write_text(CALLBACKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.fixture
def run(capsys) -> Callable[..., TrialResult]:
    """`run_trial` where output and warnings are what they are outside of tests."""

    def run(*arguments, **options) -> TrialResult:
        with capsys.disabled(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run_trial(*arguments, **options)

    return run


def with_callback(name: str) -> dict:
    return {"callbacks": {f"own.{name}": {}}}


def test_a_finished_trial_has_every_scalar_and_its_place(folder, run) -> None:
    study, trial = first_trial(folder)
    result = run(trial, folder / "s", data_dir=folder)
    assert (result.status, result.error, result.diverged_at, result.steps) == ("finished", None, None, 4)
    assert result == read_result(folder / "s", trial.key) or math.isnan(result.train_seconds)
    assert result.run_folder == "runs/final/optimizer=SGD/seed_0/version_0"
    run = folder / "s" / result.run_folder
    record = json.loads((run / "run.json").read_text())
    assert result.parameters == record["parameters"] > 0
    assert result.final["val/accuracy"] == record["metrics"]["val/accuracy"]
    assert [row[0] for row in result.history["train/loss"]] == [1, 2, 3, 4]
    assert result.final["train/loss"] == result.history["train/loss"][-1][2]
    assert result.value(study.metric) == result.final["val/accuracy"]
    assert result.command.startswith("steepest fit --config tiny.yaml")
    assert "runs_dir" not in result.command
    assert 0 < result.seconds < 100
    log = (folder / "s/trials" / trial.key / "output.log").read_text()
    assert log.startswith("$ steepest fit --config tiny.yaml")
    assert "validation accuracy" in log


def test_tensorboard_groups_all_trials_by_axis(folder, run) -> None:
    axes = {"optimizer": {"SGD": {"optimizer": "sgd"}, "Adam": {"optimizer": "adam"}}, "width": {"8": {}}}
    study, _ = first_trial(folder, axes=axes, seeds=1)
    trials = [
        *final_trials(study, {})[:1],
        make_trial(study, "tuning", {"optimizer": "Adam", "width": "8"}, {"optimizer.lr": 0.01}, 1000),
    ]
    results = [run(trial, folder / "s") for trial in trials]
    runs = EventMultiplexer().AddRunsFromDirectory(str(folder / "s/runs"))
    runs.Reload()
    assert sorted(name for name, tags in runs.Runs().items() if "train/loss" in tags["scalars"]) == [
        "final/optimizer=SGD/width=8/seed_0/version_0",
        "tuning/optimizer=Adam/width=8/optimizer.lr=0.01/seed_1000/version_0",
    ]
    for result in results:
        losses = runs.Scalars(result.run_folder.removeprefix("runs/"), "train/loss")
        assert [event.step for event in losses] == [row[0] for row in result.history["train/loss"]]


@pytest.mark.parametrize(
    ("changes", "status", "error", "diverged_at"),
    [
        ({"options": {"optimizer.lr": 1e30}}, "diverged", None, 2),
        ({"bound": 0.5}, "diverged", None, 1),
        ({"options": {"optimizer.momentumm": 0.9}}, "failed", "momentumm", None),
        ({"options": {"model.network.hidden": -3}}, "failed", "-3", None),
        (with_callback("Failing"), "failed", "RuntimeError: a mistake of its own in two lines", None),
    ],
)
def test_endings_are_told_apart(folder, run, changes, status, error, diverged_at) -> None:
    _, trial = first_trial(folder, **changes)
    result = run(trial, folder / "s")
    assert (result.status, result.diverged_at) == (status, diverged_at)
    if error is None:
        assert result.error is None
    else:
        assert error in result.error
        assert "\n" not in result.error
        log = (folder / "s/trials" / trial.key / "output.log").read_text()
        assert result.error.split()[-1] in log
    assert result.refused == ("options" in changes and status == "failed")
    if "callbacks" in changes:
        assert "Traceback" in log
        assert "own.py" in log


@pytest.mark.parametrize(("callback", "error"), [("Interrupting", KeyboardInterrupt), ("Full", OSError)])
def test_what_is_nobodys_result_leaves_none_and_is_cleared_away(folder, run, callback, error) -> None:
    _, trial = first_trial(folder, **with_callback(callback))
    with pytest.raises(error) as raised:
        run(trial, folder / "s")
    if callback == "Full":
        assert "no space left on device: what is finished is kept" in f"{raised.value.strerror}".lower()
        assert raised.value.filename == str(folder / "s")
    assert not result_path(folder / "s", trial.key).exists()
    runs = folder / "s/runs/final/optimizer=SGD/seed_0"
    assert [path.name for path in runs.iterdir()] == ["version_0"]
    (runs / "version_0/left.txt").write_text("of the first attempt")
    (folder / "own.py").write_text(
        CALLBACKS.replace("raise KeyboardInterrupt", "pass").replace("raise OSError", "pass #")
    )
    sys.modules.pop("own")
    result = run(trial, folder / "s")
    assert result.status == "finished"
    assert [path.name for path in runs.iterdir()] == ["version_0"]
    assert not (runs / "version_0/left.txt").exists()


def test_runs_of_another_version_of_the_study_are_kept(folder, run) -> None:
    _, trial = first_trial(folder)
    other = first_trial(folder, options={"data.batch_size": 32})[1]
    assert run(trial, folder / "s").run_folder.endswith("version_0")
    assert run(other, folder / "s").run_folder.endswith("version_1")
    assert len(list((folder / "s/runs/final/optimizer=SGD/seed_0").iterdir())) == 2


def in_folder(trial: Trial) -> TrialResult:
    """In a process that starts in the working folder."""
    return run_trial(trial, Path("s"))


@pytest.mark.slow
def test_a_trial_has_the_numbers_of_its_command(folder) -> None:
    study, trial = first_trial(folder)
    others = [
        trial_with(study, {"trainer.deterministic": True, "trainer.benchmark": True}, seed=5),
        trial_with(study, {"optimizer": "adam", "trainer.precision": "64-true"}),
    ]
    with Engine(LocalBackend(1, 1)) as engine:
        results = [result for _, result in engine.run(in_folder, [*others, trial])]
    assert [result.status for result in results] == ["finished"] * 3
    words = [sys.executable, "-m", "steepest", *results[-1].command.split()[1:], "--name", "fresh"]
    subprocess.run(words, cwd=folder, env=environment(), check=True, capture_output=True)
    fresh = with_clock(read_curves(folder / "runs/fresh/version_0/metrics.csv"))
    assert numbers(results[-1])["history"] == {
        name: [(step, value) for step, _, value in rows] for name, rows in fresh.items() if "seconds" not in name
    }
    assert "val/accuracy" in fresh
    assert len(fresh["train/loss"]) == 4


@pytest.mark.slow
def test_a_terminated_process_ends_as_a_killed_one_does(folder) -> None:
    _, trial = first_trial(folder, **with_callback("Terminated"))
    with Engine(LocalBackend(1, 1)) as engine:
        [(_, outcome)] = engine.run(in_folder, [trial])
        assert isinstance(outcome, WorkerDied)
        assert "SIGTERM" in outcome.reason
        assert read_result(folder / "s", trial.key) is None
        [(_, result)] = engine.run(in_folder, [trial])
    assert (result.status, result.steps) == ("finished", 4)


@pytest.mark.slow
@pytest.mark.ddp
def test_a_trial_on_several_processes_has_a_process_group_of_its_own(folder, monkeypatch) -> None:
    options = {"trainer.devices": 2, "trainer.strategy": "ddp"}
    study, trial = first_trial(folder, options=options, **with_callback("Telling"))
    assert needs_own_process(trial.words)
    monkeypatch.setenv("TMPDIR", str(folder))  # where GPUs are claimed
    with Engine(LocalBackend(1, 1, ["5", "6", "7"], devices=3)) as engine:
        [(_, result)] = engine.run(in_folder, [trial])
    assert (result.status, result.steps) == ("finished", 4)
    assert "it sees 5,6\n" in (folder / "s/trials" / trial.key / "output.log").read_text()
    assert math.isfinite(result.value(study.metric))
    failing = run_trial(first_trial(folder, options=options, **with_callback("Failing"))[1], folder / "s")
    assert failing.status == "failed"
    assert "a mistake of its own" in failing.error
    terminated = run_trial(first_trial(folder, options=options, **with_callback("Terminated"))[1], folder / "s")
    assert (terminated.status, terminated.error) == ("failed", "terminated")


@given(st.text(max_size=200), st.text(max_size=200))
def test_names_of_folders_are_safe_and_differ(first, second) -> None:
    names = [safe_name(f"axis={text}") for text in (first, second)]
    for name in names:
        assert re.fullmatch(r"[\w.+=,@-]+", name, flags=re.ASCII)
        assert len(name) <= LONGEST_NAME
    assert (names[0] == names[1]) == (first == second)


def test_names_of_folders_can_be_read(folder) -> None:
    study, trial = first_trial(folder, axes={"optimizer": {"Adam / fast: 1": {"optimizer": "adam"}}})
    trial = trial_with(study, {"optimizer.lr": 1e-3}, seed=7)
    runs_dir, name = run_place(trial, Path("s"))
    assert name == "seed_7"
    first, second = runs_dir.relative_to("s/runs/final").parts
    assert re.fullmatch(r"optimizer=Adam_fast_1-[0-9a-f]{8}", first)
    assert second == "optimizer.lr=0.001"


def test_the_clock_is_read_between_its_records() -> None:
    curves = {"loss": [(0, 9.0), (5, 1.0), (10, 2.0), (30, math.nan)], "time/train_seconds": [(10, 1.0), (20, 3.0)]}
    rows = with_clock(curves)["loss"]
    assert [row[:2] for row in rows] == [[0, 0.0], [5, 0.5], [10, 1.0], [30, 3.0]]
    assert math.isnan(rows[3][2])
    assert with_clock({"loss": [(3, 1.0)]}) == {"loss": [[3, None, 1.0]]}


def test_the_last_of_several_values_at_a_step_counts(tmp_path) -> None:
    (tmp_path / "m.csv").write_text("step,epoch,a,b\n4,0,1.5,\n4,0,,nan\n4,0,2.5,\n2,0,7,\n,0,9,\n")
    curves = read_curves(tmp_path / "m.csv")
    assert curves["a"] == [(2, 7.0), (4, 2.5)]
    assert math.isnan(curves["b"][0][1])
    assert read_curves(tmp_path / "none.csv") == {}


@pytest.mark.parametrize(
    ("options", "count", "own"),
    [
        ([], 1, False),
        (["--trainer.devices", "auto"], 1, False),
        (["--trainer.devices", "2"], 2, True),
        (["--trainer.devices=[0, 1, 2]"], 3, True),
        (["--trainer.devices", "1,"], 1, False),
        (["--trainer.num_nodes", "2"], 1, True),
        (["--trainer.strategy", "ddp"], 1, True),
        (["--trainer.strategy", "auto"], 1, False),
    ],
)
def test_what_needs_several_processes_is_known_beforehand(tmp_path, options, count, own) -> None:
    (tmp_path / "c.yaml").write_text("trainer: {max_epochs: 1}\n")
    words = ["--config", str(tmp_path / "c.yaml"), *options]
    assert (device_count(words), needs_own_process(words)) == (count, own)
    (tmp_path / "c.yaml").write_text("trainer: {devices: 4}\n")
    assert device_count(["--config", str(tmp_path / "c.yaml")]) == 4


def test_the_data_folder_is_given_to_data_that_have_one(tmp_path) -> None:
    assert data_words(["--data", "MNIST"], tmp_path) == ["--data.data_dir", str(tmp_path)]
    assert data_words(["--data", "Digits"], tmp_path) == []
    assert data_words(["--data", "nowhere.Data"], tmp_path) == []
    assert data_words(["--data", "MNIST"], None) == []
