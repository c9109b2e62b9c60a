from pathlib import Path
from typing import Any

import pytest

from steepest.datamodules.text_file import TextFile
from tests.datamodules.test_text import prose, ready, text_of


def small_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """For tests/datamodules/test_every_data_set.py: options that find the small files written here."""
    (folder / "text.txt").write_text(prose(2000))
    return {"path": folder / "text.txt", "test_size": 0.1}


def test_texts_of_their_own(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(prose(1000))
    for name in ("validation", "test"):
        (tmp_path / f"{name}.txt").write_text(f"{name}: " + prose(200, seed=1))
    own = {"validation_path": tmp_path / "validation.txt", "test_path": tmp_path / "test.txt"}
    data = ready(TextFile(file, **own, block_size=16, batch_size=4))
    assert text_of(data.val_dataloader(), data) == "alidation: " + prose(200, seed=1)
    assert text_of(data.test_dataloader(), data) == "est: " + prose(200, seed=1)
    assert ":" in data.tokenizer.characters  # type: ignore[attr-defined]
    assert len(data._splits["train"].values) == 1000
    with pytest.raises(ValueError, match=r"validation_size 0.1 cannot be given beside a separate validation text"):
        TextFile(file, **own, validation_size=0.1)
