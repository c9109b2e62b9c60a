"""Text of one's own, from plain or Parquet files."""

from pathlib import Path
from typing import Any

from steepest.datamodules.text import Split, TextDataModule
from steepest.datamodules.tokenizers import Encoding, check_encoding


class TextFile(TextDataModule):
    """Any text: plain UTF-8 files, or Parquet files with a column `text` of lines.

    Args:
        path: The text. Validation and test take their parts off its end unless they have files of their own.
        validation_path: A validation text of its own; null for none.
        test_path: A test text of its own; null for none.
        encoding: "characters" makes every different character of all texts a token; they are held in memory. "gpt2"
            takes GPT-2's 50,257 byte pairs; the tokens are kept in the folder `tokens` beside the text and mapped.
        encoding_dir: Folder with GPT-2's `encoder.json` and `vocab.bpe`; null takes tiktoken's copy or download.
        **kwargs: See `TextDataModule`.

    Raises:
        ValueError: If a value is out of its range.
    """

    def __init__(
        self,
        path: str | Path,
        validation_path: str | Path | None = None,
        test_path: str | Path | None = None,
        encoding: Encoding = "characters",
        encoding_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_encoding(encoding)
        given: dict[Split, str | Path | None] = {"train": path, "validation": validation_path, "test": test_path}
        self._paths: dict[Split, list[Path]] = {
            split: [Path(one).expanduser()] for split, one in given.items() if one is not None
        }
        super().__init__(**kwargs)
        self.encoding = encoding
        self.encoding_dir = encoding_dir

    def sources(self) -> dict[Split, list[Path]]:
        """Return the files of the text by split."""
        return self._paths

    def has_own(self, split: Split) -> bool:
        """Whether a split has files of its own."""
        return split in self._paths
