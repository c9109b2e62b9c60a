"""WikiText-103: verified good and featured articles of Wikipedia."""

from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from steepest.common.atomic import replacing
from steepest.datamodules.parquet_images import parquet_files
from steepest.datamodules.text import Split, TextDataModule
from steepest.datamodules.tokenizers import Encoding

REPOSITORY, CONFIGURATION = "Salesforce/wikitext", "wikitext-103-raw-v1"
NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train.txt", "wiki.train.raw", "wiki.train.tokens"),
    "validation": ("validation.txt", "valid.txt", "wiki.valid.raw", "wiki.valid.tokens"),
    "test": ("test.txt", "wiki.test.raw", "wiki.test.tokens"),
}


class WikiText103(TextDataModule):
    """Over 100 million words of Wikipedia with long dependencies (arXiv 1609.07843), in GPT-2's byte pairs.

    The texts of all three splits are taken from the first of `data_dir/wikitext-103-raw-v1`, `data_dir/wikitext-103`,
    `data_dir/wikitext`, `data_dir` that has them: Parquet files of the Hugging Face data set
    (`train-00000-of-00002.parquet` or `train.parquet`, `validation-...`, `test-...`), or plain ones (`train.txt`,
    `validation.txt` or `valid.txt`, `test.txt`; also `wiki.train.raw` and so on). Otherwise the data set (300 MB) is
    downloaded into the first by the library `datasets`. The tokens are kept beside the texts, 240 MB, and mapped into
    memory.

    Args:
        data_dir: Folder of the data sets.
        download: Whether a missing data set is downloaded.
        encoding_dir: Folder with GPT-2's `encoder.json` and `vocab.bpe`; null takes tiktoken's copy or download.
        **kwargs: See `TextDataModule`; `validation_size` and `test_size` do not go with texts of their own.

    Raises:
        ValueError: If a value is out of its range.
    """

    encoding: Encoding = "gpt2"

    def __init__(
        self, data_dir: str | Path = "data", download: bool = True, encoding_dir: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.data_dir = Path(data_dir).expanduser()
        self.download = download
        self.encoding_dir = encoding_dir

    def prepare_data(self) -> None:
        """Download the data set if it is missing, and encode it if that was not done before.

        Raises:
            FileNotFoundError: If files are missing and `download` is false.
            OSError: If it cannot be downloaded, or the files cannot be written anywhere.
            ValueError: If a file is damaged.
        """
        if self._find() is None and self.download:
            _download(self._folders()[0])
        super().prepare_data()

    def sources(self) -> dict[Split, list[Path]]:
        """Return the files of the splits.

        Raises:
            FileNotFoundError: If files are missing.
        """
        found = self._find()
        if found is None:
            raise FileNotFoundError(
                f"WikiText-103 is not complete in any of {', '.join(map(str, self._folders()))}; put train.txt, "
                f"validation.txt and test.txt into {self._folders()[0]}, or set download to true"
            )
        return found

    def has_own(self, split: Split) -> bool:
        """Whether a split has files of its own: all have."""
        return True

    def _folders(self) -> list[Path]:
        names = ("wikitext-103-raw-v1", "wikitext-103", "wikitext", ".")
        return [self.data_dir / name for name in names]

    def _find(self) -> dict[Split, list[Path]] | None:
        for folder in self._folders():
            found: dict[Split, list[Path]] = {split: _files(folder, split) for split in NAMES}
            if all(found.values()):
                return found
        return None


def _files(folder: Path, split: Split) -> list[Path]:
    plain = (folder / name for name in NAMES[split])
    return parquet_files(folder, split) or [path for path in plain if path.is_file()][:1]


def _download(folder: Path) -> None:
    """Store the three splits as Parquet files, each complete or not there."""
    import datasets  # here, as it takes a second that local files need not pay

    rank_zero_info(f"downloading {REPOSITORY}, {CONFIGURATION} to {folder}")
    try:
        found = datasets.load_dataset(REPOSITORY, CONFIGURATION)
    except Exception as error:  # the library and what it is built on raise errors of many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConnectionError(
            f"cannot download {REPOSITORY}, {CONFIGURATION} ({reason}); get it elsewhere and put train.txt, "
            f"validation.txt and test.txt into {folder}"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    for split in NAMES:
        with replacing(folder / f"{split}.parquet") as partial:
            found[split].to_parquet(str(partial))
