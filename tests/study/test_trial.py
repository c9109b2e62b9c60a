"""One trial: how it ends, what is read from its files, and that a process that runs several changes none of them."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from steepest.study.engine import Engine, LokyBackend, WorkerDied
from steepest.study.isolation import isolated
from steepest.study.plan import final_trials, make_trial
from steepest.study.results import TrialResult, read_result, result_path
from steepest.study.run_files import read_curves, with_clock
from steepest.study.trial import run_trial
from steepest.study.trial_words import LONGEST_NAME, data_words, device_count, needs_own_process, run_place, safe_name
from tests.study.small_studies import environment, first_trial, numbers, trial_with

DISTURBING = '''
import os, random, signal, warnings
import lightning, numpy, torch

class Disturbing(lightning.Callback):
    """Leaves in its process whatever a run may leave there."""

    def on_train_end(self, trainer, pl_module):
        random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
        os.environ.update(PL_GLOBAL_SEED="77", PL_SEED_WORKERS="1", LEFT="behind")
        warnings.simplefilter("error")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        torch.use_deterministic_algorithms(True)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(2)
        torch.autograd.set_detect_anomaly(True)
        torch.set_float32_matmul_precision("medium")
        os.chdir("/")

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
'''


@pytest.fixture
def folder(tmp_path, monkeypatch, clean_process) -> Path:
    """The working folder, with callbacks of a user's own."""
    (tmp_path / "own.py").write_text(DISTURBING)
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
        DISTURBING.replace("raise KeyboardInterrupt", "pass").replace("raise OSError", "pass #")
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


@pytest.mark.slow
def test_a_reused_process_gives_the_numbers_of_a_fresh_one(folder) -> None:
    study, _ = first_trial(folder, **with_callback("Disturbing"))
    quiet, trial = first_trial(folder)
    disturbing = trial_with(study, {"trainer.deterministic": True, "trainer.benchmark": True}, seed=5)
    tasks = [disturbing, trial_with(quiet, {"optimizer": "adam", "trainer.precision": "64-true"}), trial]
    with Engine(LokyBackend(1, 1)) as engine:
        outcomes = list(engine.run(lambda task: (run_trial(task, folder / "s"), os.getpid()), tasks))
    assert len({pid for _, (_, pid) in outcomes}) == 1
    reused = outcomes[-1][1][0]
    assert [result.status for _, (result, _) in outcomes] == ["finished"] * 3
    words = [sys.executable, "-m", "steepest", *reused.command.split()[1:], "--name", "fresh"]
    subprocess.run(words, cwd=folder, env=environment(), check=True, capture_output=True)
    fresh = with_clock(read_curves(folder / "runs/fresh/version_0/metrics.csv"))
    assert numbers(reused)["history"] == {
        name: [(step, value) for step, _, value in rows] for name, rows in fresh.items() if "seconds" not in name
    }
    assert "val/accuracy" in fresh
    assert len(fresh["train/loss"]) == 4


@pytest.mark.slow
def test_a_terminated_process_ends_as_a_killed_one_does(folder) -> None:
    _, trial = first_trial(folder, **with_callback("Terminated"))
    with Engine(LokyBackend(1, 1)) as engine:
        [(_, outcome)] = engine.run(lambda trial: run_trial(trial, folder / "s"), [trial])
        assert isinstance(outcome, WorkerDied)
        assert "SIGTERM" in outcome.reason
        assert read_result(folder / "s", trial.key) is None
        [(_, result)] = engine.run(lambda trial: run_trial(trial, folder / "s"), [trial])
    assert (result.status, result.steps) == ("finished", 4)


@pytest.mark.slow
@pytest.mark.ddp
def test_a_trial_on_several_processes_has_a_process_group_of_its_own(folder, monkeypatch) -> None:
    options = {"trainer.devices": 2, "trainer.strategy": "ddp"}
    study, trial = first_trial(folder, options=options, **with_callback("Telling"))
    assert needs_own_process(trial.words)
    monkeypatch.setenv("TMPDIR", str(folder))  # where GPUs are claimed
    with Engine(LokyBackend(1, 1, ["5", "6", "7"], devices=3)) as engine:
        [(_, result)] = engine.run(lambda trial: run_trial(trial, folder / "s"), [trial])
    assert (result.status, result.steps) == ("finished", 4)
    assert "it sees 5,6\n" in (folder / "s/trials" / trial.key / "output.log").read_text()
    assert math.isfinite(result.value(study.metric))
    failing = run_trial(first_trial(folder, options=options, **with_callback("Failing"))[1], folder / "s")
    assert failing.status == "failed"
    assert "a mistake of its own" in failing.error
    terminated = run_trial(first_trial(folder, options=options, **with_callback("Terminated"))[1], folder / "s")
    assert (terminated.status, terminated.error) == ("failed", "terminated")


def test_a_command_gives_back_what_it_changes_in_the_process(folder) -> None:
    def state() -> tuple:
        return (
            dict(os.environ),
            os.getcwd(),
            list(sys.path),
            list(sys.argv),
            signal.getsignal(signal.SIGTERM),
            list(warnings.filters),
            warnings.formatwarning,
            torch.are_deterministic_algorithms_enabled(),
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.is_anomaly_enabled(),
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.benchmark,
            torch.is_grad_enabled(),
        )

    sys.path.insert(0, str(folder))
    from own import Disturbing  # type: ignore[import-not-found]

    python_random, numpy_random = __import__("random").getstate(), numpy.random.get_state()
    before = state()
    with isolated():
        Disturbing().on_train_end(None, None)
        warnings.formatwarning = lambda *arguments: ""
        sys.path.append("/nowhere")
        sys.argv.append("--more")
        torch.backends.cudnn.benchmark = True
        torch.set_grad_enabled(False)
        assert sum(a != b for a, b in zip(state(), before, strict=True)) >= 13
    assert state() == before
    __import__("random").setstate(python_random)
    numpy.random.set_state(numpy_random)


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
