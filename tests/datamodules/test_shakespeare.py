import hashlib
from pathlib import Path
from typing import Any

import pytest

from steepest.datamodules.shakespeare import ShakespeareCharacters
from tests.datamodules.test_text import prose, ready


def small_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """For tests/datamodules/test_every_data_set.py: options that find the small files written here."""
    (folder / "input.txt").write_text(prose(2000))
    return {"data_dir": folder, "test_size": 0.1}


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
    monkeypatch.setattr("steepest.datamodules.shakespeare.SHA256", hashlib.sha256(content).hexdigest())
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
