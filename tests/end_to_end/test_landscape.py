"""`steepest landscape`: what it draws, from which config, that it goes on after a kill, and what it refuses."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from steepest.callbacks.checkpoints import read_checkpoint
from steepest.datamodules import Digits
from steepest.diagnostics.landscape.landscape import load_surface
from tests.conftest import REPOSITORY
from tests.distributed.processes import start, wait_for
from tests.steepest.failures import BAD_INPUT, check, files

FIT = (
    "fit --config tiny.yaml --trainer.callbacks+=LossLandscape --trainer.callbacks.every_n_steps=1 "
    "--trainer.callbacks.figures=false --trainer.callbacks.resolution=3 --trainer.callbacks.probe_batches=1"
).split()
LAST, BEST = (f"runs/tiny/version_0/checkpoints/{name}.ckpt" for name in ("last", "best"))
QUICK = ["--resolution", "3", "--batches", "2"]


@pytest.fixture
def fitted(steepest, tiny, tmp_path: Path) -> Path:
    outcome = steepest(*FIT)
    assert outcome.code == 0, outcome.err
    return tmp_path


def results(folder: Path, pattern: str) -> tuple[dict[str, Any], Path]:
    (found,) = (folder / "runs/tiny/version_0/landscape").glob(pattern)
    return json.loads((found / "landscape.json").read_text()), found


def loss_of(path: Path) -> float:
    """The loss of a checkpoint on the first two training batches, by plain PyTorch."""
    state = read_checkpoint(path)["state_dict"]
    hidden, output = ([value for name, value in state.items() if name.endswith(kind)] for kind in ("weight", "bias"))
    data = Digits(batch_size=64)
    data.setup("fit")
    losses = []
    for _, (images, labels) in zip(range(2), data.train_dataloader(), strict=False):
        features = images.flatten(1)
        for index, (weight, bias) in enumerate(zip(hidden, output, strict=True)):
            features = nn.functional.linear(features.relu() if index else features, weight, bias)
        losses.append(nn.functional.cross_entropy(features, labels))
    return float(torch.stack(losses).mean())


def test_slices_without_a_config_are_those_of_the_checkpoint(steepest, fitted):
    before = files(fitted)
    outcome = steepest("landscape", "--ckpt_path", LAST, *QUICK)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    report, folder = results(fitted, "random_batch_*")
    assert f"loss {report['scalars']['landscape/batch_loss']:.4g} at the weights" in outcome.out
    assert report["scalars"]["landscape/batch_loss"] == pytest.approx(loss_of(fitted / LAST), rel=1e-5)
    assert (report["checkpoint"], report["step"], report["samples"]) == (LAST, 3, 128)
    assert {path.name for path in folder.iterdir()} == {
        *(f"{kind}.{suffix}" for kind in ("contour", "surface") for suffix in ("png", "svg")),
        *("landscape.json", "landscape.npz"),
    }
    assert str(folder.relative_to(fitted) / "contour.png") in outcome.out
    # No run of its own, and nothing of the run is changed; its event files get one more, with figures and numbers.
    new = {path for path in files(fitted) - before if not path.is_relative_to(folder.parent)}
    (written,) = new
    accumulator = EventAccumulator(str(written), {"scalars": 0, "images": 0})
    accumulator.Reload()
    assert accumulator.Tags()["images"] == [f"landscape/{folder.name}/{kind}" for kind in ("contour", "surface")]
    assert f"landscape/{folder.name}/batch_loss" in accumulator.Tags()["scalars"]


def test_all_kinds_of_directions(steepest, fitted):
    for words, pattern, check_report in (
        ("--directions trajectory", "trajectory_*", lambda report: report["trajectory"]["steps"] == [0, 1, 2, 3]),
        ("--directions eigenvectors --dimensions 1", "eigenvectors_*", lambda report: report["eigenvalues"][0] > 0),
        ("--normalization global --batch_norm running --reach 2 --seed 1", "random_running_*", lambda report:
         report["axes"][0] == [-2, 0, 2]),
    ):  # fmt: skip
        outcome = steepest("landscape", "--ckpt_path", LAST, *QUICK, *words.split())
        assert outcome.code == 0, outcome.err
        report, folder = results(fitted, pattern)
        assert check_report(report)
        assert (folder / "trajectory.gif").is_file() == (report["directions"] == "trajectory")
    assert any(name.startswith("landscape/running_") for name in report["scalars"])


def test_between_checkpoints(steepest, fitted):
    other = fitted / "other.ckpt"
    assert steepest("fit", "--config", "tiny.yaml", "--seed_everything", "1").code == 0
    shutil.copy(fitted / LAST.replace("version_0", "version_1"), other)
    # The newest run of a name: that is the second one.
    words = f"landscape --name tiny --ckpt_path last --directions checkpoints --checkpoints {LAST} --batches 2"
    outcome = steepest(*words.split(), "--resolution", "5")
    assert outcome.code == 0, outcome.err
    (path,) = (fitted / "runs/tiny/version_1/landscape").glob("checkpoints_*")
    report = json.loads((path / "landscape.json").read_text())
    assert report["axes"] == [[-0.5, 0.0, 0.5, 1.0, 1.5]]
    assert report["points"] == {"tiny/version_0/last": [pytest.approx(1.0)]}
    assert report["losses"][1] == pytest.approx(loss_of(other), rel=1e-5)
    # The first run's data order is another: on this run's batches its loss is what the second run's would be for it.
    assert report["losses"][3] != pytest.approx(report["losses"][1], rel=1e-3)
    assert {"curve.png", "curve.svg"} <= {file.name for file in path.iterdir()}


SLOW = """\
import os, time
from steepest.lightning_modules import ImageClassifier

class Slow(ImageClassifier):
    def diagnostic_loss(self, batch):
        with open("calls", "a") as file:
            file.write("x")
        time.sleep(float(os.environ.get("SLEEP", 0)))
        return super().diagnostic_loss(batch)
"""


@pytest.mark.slow
def test_killed_it_goes_on_where_it_was(steepest, tiny, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    config = (tmp_path / tiny).read_text().replace("ImageClassifier", "slow.Slow")
    (tmp_path / tiny).write_text(config)
    assert steepest("fit", "--config", tiny).code == 0
    words = ["landscape", "--ckpt_path", LAST, "--resolution", "9", "--batches", "1", "--normalization", "layer"]
    command = [sys.executable, "-m", "steepest", *words, "--output_dir", "out"]
    process = start(tmp_path, command, SLEEP=0.1, PYTHONPATH=REPOSITORY)
    path = tmp_path / "out/landscape.npz"
    wait_for(lambda: path.is_file() and 5 <= load_surface(path).done.sum(), 120)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    done = int(load_surface(path).done.sum())
    assert 5 <= done < 81
    assert {file.suffix for file in path.parent.iterdir()} == {".npz"}

    (tmp_path / "calls").unlink()
    assert steepest(*words, "--output_dir", "out").code == 0
    assert len((tmp_path / "calls").read_text()) == 81 - done
    assert steepest(*words, "--output_dir", "whole").code == 0
    numpy.testing.assert_array_equal(load_surface(path).losses, load_surface(tmp_path / "whole/landscape.npz").losses)
    # A finished one is only drawn again.
    (tmp_path / "calls").unlink()
    assert steepest(*words, "--output_dir", "whole").code == 0
    assert not (tmp_path / "calls").exists()


def test_wrong_inputs_are_one_line_and_leave_nothing(steepest, fitted):
    state = torch.load(fitted / LAST, weights_only=True)
    key = next(iter(state["state_dict"]))
    state["state_dict"][key] = state["state_dict"][key][:3]
    torch.save(state, fitted / "other.ckpt")
    torch.save(
        {"state_dict": state["state_dict"], "global_step": 1, "pytorch-lightning_version": "2.6"}, "foreign.ckpt"
    )
    damaged = fitted / "damaged/landscape.npz"
    damaged.parent.mkdir()
    damaged.write_bytes(b"nothing")
    before = files(fitted)
    for words, expected in (
        ("", ["landscape needs --ckpt_path"]),
        ("--ckpt_path nothing.ckpt", ["no checkpoint at nothing.ckpt"]),
        ("--ckpt_path foreign.ckpt", ["foreign.ckpt has no config.yaml of its run", "give --config"]),
        ("--ckpt_path last", ["--ckpt_path last needs --config or --name"]),
        ("--ckpt_path last --name nobody", ["no complete checkpoint last.ckpt in any run under runs/nobody"]),
        (f"--ckpt_path {LAST} --resolution 0", ["resolution must be at least 3 points", "got 0"]),
        (f"--ckpt_path {LAST} --resolution many", ["--resolution: expected a whole number, got many"]),
        (f"--ckpt_path {LAST} --batches 0", ["--batches must be at least 1, got 0"]),
        (f"--ckpt_path {LAST} --directions up", ["--directions: expected one of", "random", "got up"]),
        (f"--ckpt_path {LAST} --model.network.hidden 9", ["--model.network.hidden was 8, now 9"]),
        (f"--ckpt_path {LAST} --directions checkpoints", ["needs 2 other checkpoints", "names none"]),
        (f"--ckpt_path {LAST} --directions checkpoints --checkpoints gone.ckpt", ["no checkpoint at gone.ckpt"]),
        (f"--ckpt_path {LAST} --directions checkpoints --checkpoints {LAST}", ["hold the same weights"]),
        (
            f"--ckpt_path {LAST} --directions checkpoints --checkpoints other.ckpt",
            ["belongs to another model", f"{key} has shape (3, 64) there and (8, 64) here"],
        ),
        (f"--ckpt_path {LAST} --checkpoints other.ckpt", ["--checkpoints belongs to --directions", "not to random"]),
        (f"--ckpt_path {LAST} --output_dir other.ckpt", ["--output_dir: other.ckpt is a file, not a folder"]),
        (f"--ckpt_path {LAST} --output_dir damaged", ["damaged/landscape.npz is not a loss landscape", "delete it"]),
    ):
        check(steepest("landscape", *QUICK * (not words.count("--resolution") and "--batches" not in words),
                       *words.split()), BAD_INPUT, expected)  # fmt: skip
        assert files(fitted) == before, words


def test_without_a_trajectory_checkpoints_can_stand_in(steepest, tiny, tmp_path):
    words = ["--trainer.max_epochs", "3", "--trainer.limit_train_batches", "2"]
    assert steepest("fit", "--config", tiny, *words).code == 0
    outcome = steepest("landscape", "--ckpt_path", LAST, *QUICK, "--directions", "trajectory")
    check(outcome, BAD_INPUT, ["no trajectory was recorded in runs/tiny/version_0/trajectory", "LossLandscape"])
    ends = [tmp_path / f"{epochs}.ckpt" for epochs in (1, 2)]
    for epochs, path in enumerate(ends, 1):
        assert steepest("fit", "--config", tiny, *words, "--trainer.max_epochs", epochs).code == 0
        shutil.copy(tmp_path / LAST.replace("version_0", f"version_{epochs}"), path)
    words = ["landscape", "--ckpt_path", LAST, *QUICK, "--directions", "trajectory", "--checkpoints"]
    outcome = steepest(*words, f"[{ends[1]},{ends[0]}]")
    assert outcome.code == 0, outcome.err
    report, _ = results(tmp_path, "trajectory_*")
    assert report["trajectory"]["steps"] == [2, 4, 6]
    assert sum(report["explained"]) == pytest.approx(1.0)
    shutil.copy(ends[0], tmp_path / "again.ckpt")
    check(steepest(*words, f"[{ends[0]},again.ckpt]"), BAD_INPUT, ["names two of step 2"])


def test_help_names_every_option(steepest):
    outcome = steepest("landscape", "--help")
    assert outcome.code == 0
    for option in ("ckpt_path", "directions", "checkpoints", "normalization", "resolution", "batch_norm", "output_dir"):
        assert f"--{option} " in outcome.out
    assert "Points along each axis, at least 3" in " ".join(outcome.out.split())
