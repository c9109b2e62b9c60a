"""Checkpoints that are damaged, or belong to another run."""

import shlex
from pathlib import Path

import pytest

from tests.steepest.failures import BAD_INPUT, check, files

FIT = "fit --config tiny.yaml "


@pytest.fixture
def folder(tiny, tmp_path: Path) -> Path:
    return tmp_path


OTHER_RUNS = {
    "learning rate": ("--optimizer.lr 0.5", ["--optimizer.lr was 0.002, now 0.5"]),
    "optimizer": ("--optimizer sgd", ["--optimizer was adamw, now sgd"]),
    "schedule": ("--schedule linear", ["--schedule was None, now linear"]),
    "batch size": ("--data.batch_size 32", ["--data.batch_size was 64, now 32"]),
    "seed": ("--seed_everything 7", ["--seed_everything was 0, now 7"]),
    "width": ("--model.network.hidden 9", ["--model.network.hidden was 8, now 9"]),
    "network": ("--model.network SmallCNN", ["--model.network was SimpleMLP, now SmallCNN"]),
}


@pytest.fixture
def checkpoint(steepest, folder) -> Path:
    assert steepest("fit", "--config", "tiny.yaml").code == 0
    return folder / "runs/tiny/version_0/checkpoints/last.ckpt"


@pytest.mark.parametrize(("words", "expected"), OTHER_RUNS.values(), ids=list(OTHER_RUNS))
def test_checkpoint_of_other_options(steepest, folder, checkpoint, words, expected):
    before = files(folder)
    outcome = steepest(*shlex.split(FIT + words), "--ckpt_path", checkpoint)
    check(outcome, BAD_INPUT, [str(checkpoint), *expected, "version_0/config.yaml"])
    assert files(folder) == before


def test_evaluation_of_another_network(steepest, folder, checkpoint):
    before = files(folder)
    words = f"test --config tiny.yaml --model.network.hidden 9 --ckpt_path {checkpoint}"
    check(steepest(*words.split()), BAD_INPUT, ["--model.network.hidden was 8, now 9"])
    assert files(folder) == before


FEWER_CLASSES = """\
from steepest.datamodules import Digits


class FewerClasses(Digits):
    num_classes = 7
"""


def test_evaluation_on_data_of_another_number_of_classes(steepest, folder, checkpoint):
    (folder / "mine.py").write_text(FEWER_CLASSES)
    before = files(folder)
    words = f"test --config tiny.yaml --data mine.FewerClasses --ckpt_path {checkpoint}"
    check(steepest(*words.split()), BAD_INPUT, ["--model.network.num_classes was 10, now 7"])
    assert files(folder) == before


@pytest.mark.parametrize("size", [0, 100, -1])
def test_truncated_checkpoint(steepest, folder, checkpoint, size):
    cut = folder / "cut.ckpt"
    cut.write_bytes(checkpoint.read_bytes()[: size if size >= 0 else -200])
    before = files(folder)
    check(steepest(*shlex.split(FIT), "--ckpt_path", cut), BAD_INPUT, [str(cut), "not a complete checkpoint"])
    assert files(folder) == before


def test_corrupt_checkpoint(steepest, folder, checkpoint):
    content = bytearray(checkpoint.read_bytes())
    middle = len(content) // 2
    content[:middle] = bytes(middle)
    checkpoint.write_bytes(content)
    check(steepest(*shlex.split(FIT), "--ckpt_path", checkpoint), BAD_INPUT, ["not a complete checkpoint"])
