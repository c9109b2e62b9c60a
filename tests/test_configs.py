"""Every config that is shipped trains for a step, and every layer goes on top of one."""

import gzip
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.datamodules.byte_pairs import write_vocabulary

REPOSITORY = Path(__file__).resolve().parent.parent


def short(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))


@pytest.fixture
def small_mnist(tmp_path) -> Path:
    """The four files of MNIST with 300 images each: enough for a batch of every config."""
    folder = tmp_path / "small"
    folder.mkdir()
    count = 300
    for part in ("train", "t10k"):
        size = count.to_bytes(4, "big")
        images = b"\0\0\x08\x03" + size + 2 * (28).to_bytes(4, "big") + bytes(i % 251 for i in range(count * 784))
        labels = b"\0\0\x08\x01" + size + bytes(i % 10 for i in range(count))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, 1))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels, 1))
    return folder


@pytest.fixture
def small_cifar(tmp_path) -> Path:
    """CIFAR-10's batches as torchvision unpacks them, with 300 training and 60 test images."""
    folder = tmp_path / "small/cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        pixels = np.arange(60 * 3072).reshape(60, 3072) % 251
        content = {b"labels": [i % 10 for i in range(60)], b"data": pixels.astype(np.uint8)}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return tmp_path / "small"


@pytest.fixture
def small_text(tmp_path, monkeypatch) -> Path:
    """Texts of 20,000 characters under the names of all text data sets, and a vocabulary of GPT-2's size."""
    text = "".join(chr(97 + (7 * i * i + i // 5) % 26) + " " * (i % 5 == 0) for i in range(20_000))
    for name in ("input.txt", "train.txt", "validation.txt", "test.txt"):
        (tmp_path / name).write_text(text)
    write_vocabulary(tmp_path, monkeypatch)
    return tmp_path


def test_configs_are_found():
    assert REPOSITORY / "configs/digits_mlp.yaml" in CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=short)
def test_every_config_trains_for_a_step(steepest, request, path):
    words = ["fit", "--config", path, "--trainer.fast_dev_run", "true", "--trainer.enable_model_summary", "false"]
    for data, fixture in (("MNIST", "small_mnist"), ("CIFAR10", "small_cifar")):
        if data in path.read_text():
            words += ["--data.data_dir", request.getfixturevalue(fixture), "--data.validation_size", "20"]
    if "CIFAR10" in path.read_text():  # networks that take seconds for a whole batch
        words += ["--data.batch_size", "16", "--data.evaluation_batch_size", "16"]
    if "LanguageModel" in path.read_text():
        words += ["--data.batch_size", "2", "--model.network.width", "24"]  # a step of the real sizes takes minutes
    for data in ("Shakespeare", "WikiText"):
        if data in path.read_text():
            words += ["--data.data_dir", request.getfixturevalue("small_text")]
    if "WikiText" in path.read_text():
        words += ["--data.encoding_dir", request.getfixturevalue("small_text")]
    outcome = steepest(*words)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    # Every config ends with what its task is about: the test split, the validation split of data without one, or the
    # known minimum.
    without_test = {"Shakespeare": "validation loss", "ToyObjective": "gap to the minimum"}
    expected = next((shown for name, shown in without_test.items() if name in path.read_text()), "test loss")
    assert expected in outcome.out


LAYERS = sorted(
    path for folder in ("callbacks", "presets") for path in (REPOSITORY / "configs" / folder).glob("*.yaml")
)


@pytest.mark.parametrize("path", LAYERS, ids=short)
def test_every_layer_goes_on_top_of_a_config(steepest, path):
    limits = ["--trainer.fast_dev_run", "2"]
    if "strategy" in path.read_text():
        # In a process of its own: gloo leaves a thread behind, and processes forked later, without it, wait for ever.
        words = ["fit", "--config", REPOSITORY / "configs/digits_mlp.yaml", "--config", path, *limits]
        command = [sys.executable, "-m", "steepest", *map(str, words), "--trainer.devices", "1"]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        assert subprocess.run(command, env=environment, capture_output=True, timeout=200).returncode == 0
        return
    outcome = steepest("fit", "--config", REPOSITORY / "configs/digits_mlp.yaml", "--config", path, *limits)
    assert outcome.code == 0, outcome.err
