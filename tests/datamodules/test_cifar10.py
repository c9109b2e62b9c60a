import hashlib
import io
import logging
import os
import pickle
import resource
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from steepest.datamodules import decoded
from steepest.datamodules.cifar10 import CIFAR10

TRAIN, TEST = 25, 10  # a multiple of the five batches
NOWHERE = ["http://127.0.0.1:9/"]


def pixels(train: bool, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images and labels of a small set."""
    count = TRAIN if train else TEST
    generator = torch.Generator().manual_seed(2 * seed + train)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 10, (count,), generator=generator)


def batches(seed: int = 0) -> dict[str, bytes]:
    """Return the six pickled batches by name, with the keys and the protocol of the published ones."""
    files = {}
    for train, names in ((True, [f"data_batch_{i}" for i in range(1, 6)]), (False, ["test_batch"])):
        images, labels = pixels(train, seed)
        parts = zip(names, images.chunk(len(names)), labels.chunk(len(names)), strict=True)
        for name, part, classes in parts:
            content = {b"batch_label": name.encode(), b"labels": classes.tolist(), b"data": part.flatten(1).numpy()}
            files[name] = pickle.dumps(content, protocol=2)
    return files


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in {"readme.html": b"<html>", **files}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


ARCHIVE = archive(batches())


class SmallCIFAR10(CIFAR10):
    """The real code with the digest of the small archive."""

    @classmethod
    def resources(cls):
        return NOWHERE, hashlib.md5(ARCHIVE).hexdigest()


def encode(image: torch.Tensor, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, form)
    return buffer.getvalue()


def write_parquet(path: Path, images: list, labels: list, column: str = "img") -> None:
    """Write images (encoded, or None) and labels as the Hugging Face data set has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [None if image is None else {"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)]
    parquet.write_table(pyarrow.table({column: rows, "label": labels}), path)


def parquet_set(folder: Path, seed: int = 0, shards: int = 1, column: str = "img") -> Path:
    for train, split in ((True, "train"), (False, "test")):
        images, labels = pixels(train, seed)
        count = shards if train else 1
        parts = zip(images.chunk(count), labels.chunk(count), strict=True)
        for i, (part, classes) in enumerate(parts):
            path = folder / f"{split}-{i:05d}-of-{count:05d}.parquet"
            write_parquet(path, [encode(image) for image in part], classes.tolist(), column)
    return folder


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def small_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """For tests/datamodules/test_every_data_set.py: options that find the small files written here."""
    write(folder / "cifar-10-batches-py", batches())
    return {"data_dir": folder, "validation_size": 5}


def check(data: CIFAR10, seed: int = 0) -> None:
    """Check that these are the images and labels of that seed."""
    for train in (True, False):
        images, labels = data.load(train)
        expected = pixels(train, seed)
        assert images.is_contiguous()
        assert torch.equal(images, expected[0])
        assert torch.equal(labels, expected[1])
        assert labels.dtype == torch.int64


def refuse(error: type[Exception], *words: object, data: CIFAR10, train: bool = True) -> None:
    with pytest.raises(error) as raised:
        data.load(train)
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


@pytest.fixture
def user_cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "steepest/decoded"


@pytest.fixture
def lines(caplog):
    """What is said while decoding."""
    caplog.set_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero")
    return lambda: [record.getMessage() for record in caplog.records]


# The published batches


@pytest.mark.parametrize("folder", ["cifar-10-batches-py", "cifar10/cifar-10-batches-py"])
def test_batches_in_a_folder(tmp_path, folder):
    write(tmp_path / folder, batches())
    before = list(tmp_path.rglob("*"))
    data = CIFAR10(str(tmp_path), mirrors=NOWHERE)
    data.prepare_data()
    check(data)
    assert list(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("folder", [".", "cifar10"])
def test_the_archive_is_read_as_it_is(tmp_path, folder):
    write(tmp_path / folder, {"cifar-10-python.tar.gz": ARCHIVE})
    data = CIFAR10(tmp_path, mirrors=NOWHERE)
    data.prepare_data()
    assert len(list((tmp_path / folder / "decoded").iterdir())) == 2
    check(data)


def test_the_layout_is_that_of_torchvision(tmp_path):
    from torchvision import datasets

    assert [name for name, _ in datasets.CIFAR10.train_list + datasets.CIFAR10.test_list] == list(batches())
    assert datasets.CIFAR10.base_folder == "cifar-10-batches-py"
    mirrors, digest = CIFAR10.resources()
    assert [f"{mirror}/cifar-10-python.tar.gz" for mirror in mirrors] == [datasets.CIFAR10.url]
    assert len(digest) == 32


class Program:
    def __reduce__(self):
        return print, ("a pickle was run",)


DAMAGED_BATCHES = {
    "truncated": (lambda content: content[: len(content) // 2], "not a batch of CIFAR-10"),
    "empty": (lambda content: b"", "not a batch of CIFAR-10"),
    "a web page": (lambda content: b"<html>", "not a batch of CIFAR-10"),
    "a program": (lambda content: pickle.dumps(Program(), protocol=2), ".print"),
    "no labels": (lambda content: pickle.dumps({b"data": np.zeros((2, 3072), np.uint8)}, protocol=2), "labels"),
    "too few images": (
        lambda content: pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2, 3]}, protocol=2),
        "must be 3 x 3072 bytes",
    ),
    "floats": (
        lambda content: pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [1]}, protocol=2),
        "must be 1 x 3072 bytes",
    ),
}


@pytest.mark.parametrize("name", DAMAGED_BATCHES)
def test_a_damaged_batch(tmp_path, name, capsys):
    damage, word = DAMAGED_BATCHES[name]
    files = batches()
    files["data_batch_3"] = damage(files["data_batch_3"])
    folder = write(tmp_path / "cifar-10-batches-py", files)
    data = CIFAR10(tmp_path)
    refuse(ValueError, folder / "data_batch_3", "damaged", word, data=data)
    write(tmp_path, {"cifar-10-python.tar.gz": archive(files)})
    (folder / "test_batch").unlink()  # now the archive is taken
    refuse(ValueError, f"data_batch_3 in {tmp_path}", "damaged", word, data=data)
    assert capsys.readouterr().out == ""
    write(folder, batches())
    check(data)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (ARCHIVE[: len(ARCHIVE) // 2], "damaged"),
        (ARCHIVE[:200], "damaged"),
        (b"<html>", "does not unpack"),
        (archive({name: content for name, content in batches().items() if name != "data_batch_2"}), "data_batch_2"),
    ],
)
def test_a_damaged_archive(tmp_path, content, word):
    write(tmp_path, {"cifar-10-python.tar.gz": content})
    data = CIFAR10(tmp_path)
    refuse(ValueError, tmp_path / "cifar-10-python.tar.gz", word, data=data)
    write(tmp_path, {"cifar-10-python.tar.gz": ARCHIVE})
    check(data)


# Parquet files


@pytest.mark.parametrize("folder", ["cifar10", "cifar10/plain_text", "."])
def test_parquet_files_are_found(tmp_path, folder):
    parquet_set(tmp_path / folder)
    data = CIFAR10(tmp_path, mirrors=NOWHERE)
    data.prepare_data()
    check(data)


@pytest.mark.parametrize(("shards", "column"), [(5, "img"), (1, "image")])
def test_several_files_and_the_other_name_of_the_column(tmp_path, shards, column):
    parquet_set(tmp_path / "cifar10", shards=shards, column=column)
    check(CIFAR10(tmp_path))


def test_files_without_numbers(tmp_path):
    folder = parquet_set(tmp_path / "cifar10")
    for path in folder.iterdir():
        path.rename(folder / f"{path.name.partition('-')[0]}.parquet")
    check(CIFAR10(tmp_path))


def test_jpeg_and_gray_images(tmp_path):
    image = pixels(True)[0][0]
    gray = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(gray, "PNG")
    write_parquet(tmp_path / "cifar10/train.parquet", [encode(image, "JPEG"), gray.getvalue()], [3, 4])
    write_parquet(tmp_path / "cifar10/test.parquet", [encode(image)], [5])
    images, labels = CIFAR10(tmp_path).load(train=True)
    expected = np.asarray(Image.open(io.BytesIO(encode(image, "JPEG"))))
    assert torch.equal(images[0], torch.tensor(expected).permute(2, 0, 1))
    assert torch.equal(images[1], image[:1].expand(3, 32, 32))
    assert labels.tolist() == [3, 4]


def test_batches_come_before_parquet_files(tmp_path):
    write(tmp_path / "cifar-10-batches-py", batches(seed=1))
    parquet_set(tmp_path / "cifar10", seed=2)
    check(CIFAR10(tmp_path), seed=1)


def test_a_missing_part_of_several_files(tmp_path):
    folder = parquet_set(tmp_path / "cifar10", shards=5)
    (folder / "train-00002-of-00005.parquet").unlink()
    data = CIFAR10(tmp_path)
    refuse(FileNotFoundError, folder, "train-00002-of-00005.parquet", "5 files", data=data)
    write_parquet(folder / "train-00000-of-00001.parquet", [], [])
    refuse(ValueError, folder, "several sets", data=data)


DAMAGED_PARQUET = {
    "truncated": (lambda content: content[: len(content) // 2], "damaged"),
    "a hole in it": (lambda content: content[:40] + bytes(4000) + content[4040:], "damaged"),
    "empty": (lambda content: b"", "damaged"),
    "a web page": (lambda content: b"<html>", "damaged"),
}


@pytest.mark.parametrize("name", DAMAGED_PARQUET)
def test_a_damaged_parquet_file(tmp_path, name, user_cache):
    damage, word = DAMAGED_PARQUET[name]
    folder = parquet_set(tmp_path / "cifar10")
    path = folder / "train-00000-of-00001.parquet"
    path.write_bytes(damage(path.read_bytes()))
    data = CIFAR10(tmp_path)
    refuse(ValueError, path, word, data=data)
    assert not (folder / "decoded").exists()
    assert not user_cache.exists()
    parquet_set(folder)
    data.prepare_data()
    check(data)


GOOD = encode(torch.zeros(3, 32, 32, dtype=torch.uint8))
WRONG_ROWS = {
    "truncated image": (GOOD[:-30], 1, "image 1 of"),
    "corrupt image": (GOOD[:20] + b"\xff" * 40 + GOOD[60:], 1, "image 1 of"),
    "no image": (b"<html>", 1, "are not a JPEG or PNG image"),
    "empty image": (b"", 1, "are not a JPEG or PNG image"),
    "another size": (encode(torch.zeros(3, 28, 24, dtype=torch.uint8)), 1, "24 x 28 pixels instead of 32 x 32"),
    "path alone": (None, 1, "must have an image"),
    "no label": (GOOD, None, "whole number as label"),
    "label that is a word": (GOOD, "cat", "whole number as label"),
}


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_a_wrong_row(tmp_path, name):
    image, label, word = WRONG_ROWS[name]
    parquet_set(tmp_path / "cifar10")
    path = tmp_path / "cifar10/train-00000-of-00001.parquet"
    write_parquet(path, [GOOD, image], [str(label) if isinstance(label, str) else 1, label])
    refuse(ValueError, path, word, data=CIFAR10(tmp_path))


def test_other_columns(tmp_path):
    path = parquet_set(tmp_path) / "train-00000-of-00001.parquet"
    parquet.write_table(pyarrow.table({"text": ["words"]}), path)
    refuse(ValueError, path, "columns img (or image) and label, it has text", data=CIFAR10(tmp_path))


# Decoded images are kept


def test_images_are_decoded_once(tmp_path, lines):
    folder = parquet_set(tmp_path / "cifar10")
    data = CIFAR10(tmp_path)
    data.prepare_data()
    assert [line.split()[:2] for line in lines()] == [["decoding", "cifar10-train"], ["decoding", "cifar10-test"]]
    kept = {path: path.stat().st_mtime_ns for path in (folder / "decoded").iterdir()}
    assert len(kept) == 2
    data.prepare_data()
    check(CIFAR10(tmp_path))
    assert len(lines()) == 2
    assert {path: path.stat().st_mtime_ns for path in (folder / "decoded").iterdir()} == kept


def test_changed_files_are_decoded_again(tmp_path):
    folder = parquet_set(tmp_path / "cifar10")
    check(CIFAR10(tmp_path))
    dates = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    parquet_set(folder, seed=1)
    for name, date in dates.items():
        os.utime(folder / name, ns=(date, date))
    check(CIFAR10(tmp_path), seed=1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-4000] + bytes([content[-4000] ^ 1]) + content[-3999:],
        lambda content: b"",
        lambda content: b"something else",
    ],
)
def test_a_damaged_kept_file_is_made_again(tmp_path, damage, lines):
    folder = parquet_set(tmp_path / "cifar10")
    data = CIFAR10(tmp_path)
    data.prepare_data()
    good = {path: path.read_bytes() for path in (folder / "decoded").iterdir()}
    for path, content in good.items():
        path.write_bytes(damage(content))
    check(data)
    assert sum("is damaged" in line for line in lines()) == 2
    check(data)
    assert sum("is damaged" in line for line in lines()) == 2


def test_kept_arrays_that_are_no_images(tmp_path, lines):
    source = write(tmp_path, {"source": b"content"}) / "source"
    samples = pixels(True)
    decoded.keep_decoded("x", [source], lambda: samples)
    (path,) = (tmp_path / "decoded").iterdir()
    np.savez(path, images=np.zeros(3), labels=np.zeros(3))
    again = decoded.keep_decoded("x", [source], lambda: samples)
    assert torch.equal(again[0], samples[0])
    assert "no images and labels" in lines()[1]


@pytest.mark.parametrize("blocked", ["by a file", "by its mode"])
def test_beside_a_folder_that_cannot_be_written_the_users_cache_is_used(tmp_path, blocked, user_cache):
    folder = parquet_set(tmp_path / "cifar10")
    if blocked == "by a file":
        (folder / "decoded").write_text("a file, not a folder")
    else:
        folder.chmod(0o555)
    before = sorted(folder.rglob("*"))
    try:
        data = CIFAR10(tmp_path)
        data.prepare_data()
        assert len(list(user_cache.iterdir())) == 2
        check(data)
        assert sorted(folder.rglob("*")) == before
    finally:
        folder.chmod(0o755)


def test_without_a_place_to_keep_them_images_are_decoded_in_each_run(tmp_path, user_cache, lines):
    folder = parquet_set(tmp_path / "cifar10")
    (folder / "decoded").write_text("a file, not a folder")
    user_cache.parent.write_text("another file")
    check(CIFAR10(tmp_path))
    said = [line for line in lines() if "cannot keep" in line]
    assert len(said) == 2
    assert str(folder / "decoded") in said[0]
    assert str(user_cache) in said[0]
    check(CIFAR10(tmp_path))


def test_a_full_disk_leaves_nothing_half_written(tmp_path, user_cache):
    folder = parquet_set(tmp_path / "cifar10")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        check(CIFAR10(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((folder / "decoded").iterdir()) == list(user_cache.iterdir()) == []


# Downloading


def test_download(tmp_path):
    mirror = write(tmp_path / "mirror", {"cifar-10-python.tar.gz": ARCHIVE})
    data = SmallCIFAR10(tmp_path / "data", mirrors=[*NOWHERE, mirror.as_uri()])
    data.prepare_data()
    assert (tmp_path / "data/cifar-10-python.tar.gz").read_bytes() == ARCHIVE
    check(data)


def test_no_network_and_a_wrong_digest(tmp_path):
    mirror = write(tmp_path / "mirror", {"cifar-10-python.tar.gz": archive(batches(seed=1))}).as_uri()
    with pytest.raises(ConnectionError) as raised:
        SmallCIFAR10(tmp_path / "data", mirrors=[*NOWHERE, mirror]).prepare_data()
    for word in ("127.0.0.1:9/cifar-10-python.tar.gz", mirror, "digest", tmp_path / "data/cifar-10-python.tar.gz"):
        assert str(word) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert list((tmp_path / "data").iterdir()) == []


def test_missing_files_without_download(tmp_path):
    (parquet_set(tmp_path / "cifar10") / "test-00000-of-00001.parquet").unlink()
    data = CIFAR10(tmp_path, download=False)
    for action in (data.prepare_data, lambda: data.load(train=True)):
        with pytest.raises(FileNotFoundError, match="CIFAR-10 is not complete") as raised:
            action()
        assert "\n" not in str(raised.value)
        assert str(tmp_path / "cifar10") in str(raised.value)


def test_empty_mirrors_are_refused():
    with pytest.raises(ValueError, match="mirrors"):
        CIFAR10(mirrors=[])


# Batches


def test_loaders(tmp_path):
    write(tmp_path / "cifar-10-batches-py", batches())
    data = CIFAR10(tmp_path, batch_size=4, validation_size=5)
    data.setup()
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 32, 32)
    assert labels.shape == (4,)
    assert len(data.train_dataloader()) == (TRAIN - 5) // 4
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CIFAR10.mean, CIFAR10.std))
    normalized = (data.load(train=False)[0].float() / 255 - mean) / std
    torch.testing.assert_close(torch.cat(list(data.predict_dataloader())), normalized)


def test_alternating_flip_shows_each_image_both_ways_in_two_epochs(tmp_path):
    write(tmp_path / "cifar-10-batches-py", batches())

    def epochs(seed: int) -> list[torch.Tensor]:
        options = {"batch_size": 1, "validation_size": 0, "shuffle": False, "seed": seed}
        data = CIFAR10(tmp_path, horizontal_flip="alternating", **options)
        data.setup("fit")
        loader = data.train_dataloader()
        return [torch.cat([images for images, _ in loader]) for _ in range(4)]

    first, second, third, fourth = epochs(0)
    plain = CIFAR10(tmp_path, batch_size=TRAIN, validation_size=0, shuffle=False)
    plain.setup("fit")
    images, _ = next(iter(plain.train_dataloader()))
    flipped = (first == images.flip(3)).flatten(1).all(1)
    assert 5 < flipped.sum() < 20
    assert torch.equal(first, torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images))
    assert torch.equal(second, first.flip(3))
    assert torch.equal(third, first)
    assert torch.equal(fourth, second)
    assert not torch.equal(epochs(1)[0], first)


# On the command line


FIT = """--model ImageClassifier --model.network SmallCNN --model.network.width_mult 0.1
    --data CIFAR10 --data.batch_size 5 --data.validation_size 5 --data.data_dir data --trainer.accelerator cpu
    --trainer.max_epochs 1
    --trainer.limit_train_batches 2 --trainer.enable_progress_bar false --trainer.enable_model_summary false
    --data.random_crop 4 --data.cutout 8 --test_after_fit true"""


def test_a_run(steepest, tmp_path):
    parquet_set(tmp_path / "data/cifar10", shards=5)
    words = "--data.horizontal_flip alternating --data.crop_padding reflect"
    outcome = steepest("fit", *FIT.split(), *words.split())
    assert outcome.code == 0, outcome.err
    assert "test accuracy" in outcome.out


WRONG_COMMANDS = {
    "--data.horizontal_flip sometimes": (2, ["horizontal_flip", "sometimes", "alternating"]),
    "--data.crop_padding mirror": (2, ["crop_padding", "mirror", "reflect"]),
    "--data.crop_padding reflect --data.random_crop 32": (2, ["random_crop must be below 32", "got 32"]),
    "--data.cutout -1": (2, ["cutout must be at least 0", "-1"]),
    "--data.data_dir empty --data.download false": (2, ["CIFAR-10 is not complete in empty", "cifar-10-python.tar.gz"]),
    "--data.data_dir empty --data.mirrors [http://127.0.0.1:9/]": (1, ["cannot download", "empty/cifar-10-python.tar"]),
    "--data.data_dir truncated": (2, ["truncated/cifar10/train-00000-of-00001.parquet is damaged"]),
}


@pytest.mark.parametrize("words", WRONG_COMMANDS)
def test_a_wrong_command_ends_with_one_line(steepest, tmp_path, words):
    parquet_set(tmp_path / "data/cifar10")
    path = parquet_set(tmp_path / "truncated/cifar10") / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    code, expected = WRONG_COMMANDS[words]
    outcome = steepest("fit", *FIT.split(), *words.split())
    assert outcome.code == code, outcome.err
    error = [line for line in outcome.err.splitlines() if line.startswith("steepest: error: ")]
    assert len(error) == 1
    assert all(word in error[0] for word in expected), error
