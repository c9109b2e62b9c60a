import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from steepest.datamodules.token_windows import IGNORED
from steepest.datamodules.wikitext import WikiText103
from tests.datamodules.byte_pairs import TEXT, write_vocabulary
from tests.datamodules.test_text import ready


def small_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """For tests/datamodules/test_every_data_set.py: options that find the small files written here."""
    for split in ("train", "validation", "test"):
        (folder / f"{split}.txt").write_text(TEXT * 20)
    return {"data_dir": folder, "encoding_dir": str(write_vocabulary(folder / "vocabulary", monkeypatch))}


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
