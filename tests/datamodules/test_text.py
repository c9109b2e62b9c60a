import hashlib
import random
import re
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from datamodules import ShakespeareCharacters, TextFile, TinyText, WikiText103
from datamodules.token_windows import IGNORED
from tests.datamodules.byte_pairs import TEXT, write_vocabulary


def prose(characters: int, seed: int = 0) -> str:
    words = random.Random(seed)
    text = " ".join(
        words.choice(["to", "be", "or", "not", "that\n", "is", "the", "question"]) for _ in range(characters)
    )
    return text[:characters]


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(prose(1000))
    return path


def ready(data, stage: str = "fit"):
    data.prepare_data()
    data.setup(stage)
    return data


def text_of(loader, data) -> str:
    """What the targets of an evaluation say."""
    return "".join(data.tokenizer.decode(row[row != IGNORED].tolist()) for _, targets in loader for row in targets)


def test_splits_are_the_parts_of_the_text_in_order(file):
    data = ready(TextFile(file, block_size=16, batch_size=4, validation_size=0.1, test_size=77))
    text = prose(1000)
    assert text_of(data.val_dataloader(), data) == text[823 + 1 : 923]
    assert text_of(data.test_dataloader(), data) == text[923 + 1 :]
    assert text_of(data.predict_dataloader(), data) == text[923 + 1 :]
    seen = {row.item() for inputs, _ in data.train_dataloader() for row in inputs.flatten()}
    assert seen == set(data.tokenizer.encode(text[:823]).tolist())
    assert data.characters_per_token("train") == 1
    assert data.vocabulary_size == len(set(text))


def test_texts_of_their_own(tmp_path, file):
    for name in ("validation", "test"):
        (tmp_path / f"{name}.txt").write_text(f"{name}: " + prose(200, seed=1))
    own = {"validation_path": tmp_path / "validation.txt", "test_path": tmp_path / "test.txt"}
    data = ready(TextFile(file, **own, block_size=16, batch_size=4))
    assert text_of(data.val_dataloader(), data) == "alidation: " + prose(200, seed=1)
    assert text_of(data.test_dataloader(), data) == "est: " + prose(200, seed=1)
    assert ":" in data.tokenizer.characters  # type: ignore[attr-defined]
    assert len(data._splits["train"].values) == 1000
    with pytest.raises(ValueError, match=r"validation_size 0.1 does not go with a validation text of its own"):
        TextFile(file, **own, validation_size=0.1)


def test_order_is_the_same_after_a_restart_and_differs_between_seeds(file):
    def order(seed: int) -> list[list[int]]:
        data = ready(TextFile(file, block_size=16, batch_size=4, seed=seed))
        return [row.tolist() for inputs, _ in data.train_dataloader() for row in inputs]

    assert order(1) == order(1)
    assert order(1) != order(2)
    data = ready(TextFile(file, block_size=16, batch_size=4, shuffle=False))
    inputs = torch.cat([inputs for inputs, _ in data.train_dataloader()])
    assert data.tokenizer.decode(inputs.flatten().tolist()) == prose(1000)[: inputs.numel()]


def test_without_validation_there_is_no_loader(file):
    data = ready(TextFile(file, block_size=16, validation_size=0, drop_last=False))
    assert data.val_dataloader.__qualname__ == "DataHooks.val_dataloader"
    with pytest.raises(ValueError, match="TextFile has no test text: set test_size"):
        data.test_dataloader()


def test_shakespeare_is_downloaded_once_with_checked_digest(tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    content = prose(2000).encode()
    (mirror / "input.txt").write_bytes(content)
    options = {"data_dir": tmp_path / "data", "mirrors": [mirror.as_uri()], "block_size": 8, "batch_size": 4}
    data = ShakespeareCharacters(**options)
    assert data.vocabulary_size == 65  # before the file is there
    with pytest.raises(ConnectionError, match="SHA-256 digest"):
        data.prepare_data()
    assert not (tmp_path / "data/tinyshakespeare/input.txt").exists()
    monkeypatch.setattr("datamodules.shakespeare.SHA256", hashlib.sha256(content).hexdigest())
    ready(data)
    (mirror / "input.txt").unlink()
    again = ready(ShakespeareCharacters(**options))
    assert again.vocabulary_size == len(set(prose(2000)))
    assert len(again._splits["train"].values) == 1800
    with pytest.raises(FileNotFoundError, match=r"input.txt is in none of .*nowhere"):
        ShakespeareCharacters(data_dir=tmp_path / "nowhere", download=False).prepare_data()


def test_nanogpts_split_of_shakespeare(tmp_path):
    (tmp_path / "input.txt").write_bytes(b"ab\n" * (1_115_394 // 3))
    data = ready(ShakespeareCharacters(data_dir=tmp_path))
    assert [len(data._splits[split].values) for split in ("train", "validation", "test")] == [1_003_854, 111_540, 0]


def test_tiny_text_needs_no_files():
    data = ready(TinyText(block_size=32, batch_size=8), "test")
    assert 50 < data.vocabulary_size < 150
    assert len(data._splits["train"].values) > 20_000
    inputs, targets = next(iter(data.train_dataloader()))
    assert inputs.shape == targets.shape == (8, 32)


@pytest.mark.parametrize("kind", ["txt", "parquet"])
def test_wikitext_from_local_files(tmp_path, monkeypatch, kind):
    folder = tmp_path / "data" / "wikitext-103"
    folder.mkdir(parents=True)
    texts = {split: f"{split}\n{TEXT}\n" * 5 for split in ("train", "validation", "test")}
    for split, text in texts.items():
        if kind == "txt":
            (folder / f"{'valid' if split == 'validation' else split}.txt").write_bytes(text.encode())
        else:
            rows = re.findall(".*\n", text)
            for part, some in enumerate((rows[:7], rows[7:])):
                parquet.write_table(pa.table({"text": some}), folder / f"{split}-0000{part}-of-00002.parquet")
    vocabulary = write_vocabulary(tmp_path / "vocabulary", monkeypatch)
    options = {"data_dir": tmp_path / "data", "encoding_dir": str(vocabulary), "block_size": 8, "batch_size": 2}
    data = WikiText103(**options)
    assert (data.vocabulary_size, data.block_size) == (50257, 8)
    with pytest.raises(FileNotFoundError, match=r"call prepare_data\(\) first"):
        data.setup()
    ready(data)
    tokens = {split: data.tokenizer.encode(text).tolist() for split, text in texts.items()}
    assert data._splits["train"].values.tolist() == tokens["train"]
    assert data.characters_per_token("train") == len(texts["train"]) / len(tokens["train"])
    targets = torch.cat([targets.flatten() for _, targets in data.val_dataloader()])
    assert targets[targets != IGNORED].tolist() == tokens["validation"][1:]
    (folder / "test.txt").unlink(missing_ok=True)
    for path in folder.glob("test-*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"WikiText-103 is not complete in any of .* set download to true"):
        WikiText103(**options, download=False).prepare_data()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"evaluation_batch_size": 0}, "evaluation_batch_size must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"validation_size": 1.5}, r"validation_size must be a count or a fraction in \[0, 1\), got 1.5"),
        ({"test_size": -1}, "test_size must be a count or a fraction"),
        ({"encoding": "words"}, "encoding 'words' is unknown; allowed: characters, gpt2"),
    ],
)
def test_wrong_options(file, options, message):
    with pytest.raises(ValueError, match=message):
        TextFile(file, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 2000}, "block_size 2000 needs 2001 tokens, the training text has only 900"),
        ({"block_size": 100, "batch_size": 40}, "a batch of 40 samples .* is larger than the data set of 8"),
        ({"validation_size": 600, "test_size": 400}, "validation_size 600 and test_size 400 leave no training text"),
    ],
)
def test_a_text_that_does_not_suffice(file, options, message):
    with pytest.raises(ValueError, match=message):
        ready(TextFile(file, **options)).train_dataloader()


def test_a_missing_text(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no text file .*none.txt"):
        TextFile(tmp_path / "none.txt").vocabulary_size  # noqa: B018
