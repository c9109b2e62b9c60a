"""Data files and folders that are damaged, missing or out of reach."""

import gzip
import resource
import shlex
from pathlib import Path

import pytest

from tests.steepest.failures import BAD_ENVIRONMENT, BAD_INPUT, check, files

FIT = "fit --config tiny.yaml "


@pytest.fixture
def folder(tiny, tmp_path: Path) -> Path:
    return tmp_path


def idx(images: int) -> dict[str, bytes]:
    """The four files of MNIST, with so many images each."""
    content = {}
    for part in ("train", "t10k"):
        size = images.to_bytes(4, "big")
        header = b"\0\0\x08\x03" + size + 2 * (28).to_bytes(4, "big")
        content[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(header + bytes(images * 28 * 28))
        content[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(b"\0\0\x08\x01" + size + bytes(images))
    return content


DAMAGES = {
    "truncated gzip": ("train-images-idx3-ubyte.gz", lambda content: content[:-20], "ends too early"),
    "corrupt gzip": ("train-images-idx3-ubyte.gz", lambda content: content[:12] + b"\xff" * 30, "damaged"),
    "not gzip": ("train-labels-idx1-ubyte.gz", lambda content: b"<html>", "not an IDX file"),
    "images in place of labels": ("t10k-labels-idx1-ubyte.gz", None, "3 dimensions instead of 1"),
    "another data type": (
        "train-labels-idx1-ubyte.gz",
        lambda content: b"\0\0\x0d" + gzip.decompress(content)[3:],
        "data type is 0x0d",
    ),
    "missing data": ("train-images-idx3-ubyte.gz", lambda content: gzip.decompress(content)[:-9], "declares"),
}


@pytest.mark.parametrize(("name", "damage", "expected"), DAMAGES.values(), ids=list(DAMAGES))
def test_damaged_file(steepest, folder, name, damage, expected):
    content = idx(20)
    content[name] = content["t10k-images-idx3-ubyte.gz"] if damage is None else damage(content[name])
    (folder / "data").mkdir()
    for file, data in content.items():
        (folder / "data" / file).write_bytes(data)
    before = files(folder)
    words = "--data MNIST --data.validation_size 5 --data.batch_size 5 --data.data_dir data --test_after_fit true"
    outcome = steepest(*shlex.split(FIT + words + " --trainer.limit_train_batches 1"))
    if name.startswith("train"):
        check(outcome, BAD_INPUT, [f"data/{name}", "damaged", expected])
        assert files(folder) == before
    else:  # the run itself went well, and is kept
        assert expected in outcome.err
        assert outcome.code == BAD_INPUT
        assert (folder / "runs/tiny/version_0/checkpoints/last.ckpt").is_file()


def test_no_network(steepest, folder):
    words = "--data MNIST --data.data_dir nowhere --data.mirrors [http://127.0.0.1:9/]"
    outcome = steepest(*shlex.split(FIT + words))
    expected = ["cannot download train-images-idx3-ubyte.gz", "127.0.0.1:9", "put it at nowhere/MNIST/raw"]
    check(outcome, BAD_ENVIRONMENT, expected)
    assert not [path for path in files(folder) if path.is_file() and path.parent != folder]


def test_data_folder_that_cannot_be_made(steepest, folder):
    words = "--data MNIST --data.data_dir tiny.yaml/data --data.mirrors [http://127.0.0.1:9/]"
    check(steepest(*shlex.split(FIT + words)), BAD_ENVIRONMENT, ["cannot write tiny.yaml/data", "data_dir"])
    assert not (folder / "runs").exists()


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder in which nobody can write")
def test_folder_of_runs_that_cannot_be_written(steepest, folder):
    check(steepest(*shlex.split(FIT + "--runs_dir /sys/kernel/runs")), BAD_ENVIRONMENT, ["/sys/kernel/runs"])


def test_full_disk(steepest, folder):
    # No file may grow beyond what the event file and the config need, as on a disk that is almost full.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        outcome = steepest(*shlex.split(FIT + "--model.network.hidden 500"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    check(outcome, BAD_ENVIRONMENT, ["too large"])
    assert not list((folder / "runs").rglob("*.ckpt*"))
    assert '"status": "failed"' in (folder / "runs/tiny/version_0/run.json").read_text()
