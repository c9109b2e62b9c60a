import random
from pathlib import Path

import pytest
import torch

from steepest.datamodules import TextFile, TinyText
from steepest.datamodules.token_windows import IGNORED


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


def test_tiny_text_needs_no_files():
    data = ready(TinyText(block_size=32, batch_size=8), "test")
    assert 50 < data.vocabulary_size < 150
    assert len(data._splits["train"].values) > 20_000
    inputs, targets = next(iter(data.train_dataloader()))
    assert inputs.shape == targets.shape == (8, 32)


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
