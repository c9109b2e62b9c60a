"""CIFAR-10: 60,000 color images of 32 x 32 pixels in ten classes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from steepest.datamodules.base import ImageDataModule
from steepest.datamodules.cifar_batches import read_archive, read_batches
from steepest.datamodules.decoded import is_kept, keep_decoded
from steepest.datamodules.download import download
from steepest.datamodules.parquet_images import parquet_files, read_parquet_images


class CIFAR10(ImageDataModule):
    """Photographs of ten kinds of animals and vehicles, 50,000 for training and 10,000 for testing (Krizhevsky 2009).

    They are taken from the first of these that is complete: the folder `cifar-10-batches-py` or the archive
    `cifar-10-python.tar.gz` (what torchvision keeps) in `data_dir` or `data_dir/cifar10`, or Parquet files of the
    Hugging Face data set (`train-00000-of-00001.parquet`, `test-00000-of-00001.parquet`) in `data_dir/cifar10`,
    `data_dir/cifar10/plain_text` or `data_dir`. Otherwise the archive (170 MB) is downloaded, with checked digest.

    Images of an archive or of Parquet files are decoded once and kept, 184 MB, in the folder `decoded` beside them, or
    in the user's cache folder if that cannot be written.

    Mean and standard deviation are those of all pixels of the training images (not the smaller mean of the deviations
    inside each image, 0.20, that is often seen).

    Args:
        data_dir: Folder of the data sets.
        download: Whether a missing archive is downloaded.
        mirrors: Addresses of folders (http, https, file) that are tried in turn; null takes that of torchvision.
        validation_size: Count or fraction of the training images that is kept for validation; 0 for none.
        **kwargs: See `ImageDataModule`.

    Raises:
        ValueError: If a value is out of its range.
    """

    input_shape = (3, 32, 32)
    num_classes = 10
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)

    def __init__(
        self,
        data_dir: str | Path = "data",
        download: bool = True,
        mirrors: list[str] | None = None,
        validation_size: int | float = 5000,
        **kwargs: Any,
    ) -> None:
        super().__init__(validation_size=validation_size, **kwargs)
        if mirrors is not None and not mirrors:
            raise ValueError("mirrors must name at least one address, or be null for that of torchvision; got []")
        self.data_dir = Path(data_dir).expanduser()
        self.download = download
        self.mirrors = mirrors

    @classmethod
    def resources(cls) -> tuple[list[str], str]:
        """Return the default mirrors and the MD5 digest of the archive."""
        from torchvision import datasets  # here, as it takes a second that an offline data set need not pay

        return [datasets.CIFAR10.url.rpartition("/")[0]], datasets.CIFAR10.tgz_md5

    def prepare_data(self) -> None:
        """Download the archive if the images are missing, and decode what has to be decoded.

        Raises:
            FileNotFoundError: If the images are missing and `download` is false.
            OSError: If no mirror has a good copy, or the folder cannot be written.
            ValueError: If a file is damaged.
        """
        if self._find() is None:
            if not self.download:
                raise FileNotFoundError(self._missing())
            mirrors, digest = self.resources()
            download(ARCHIVE, digest, self.mirrors or mirrors, self.data_dir)
        # One process per machine does this, so that the others find the images decoded.
        for train in (True, False):
            files = self._files(train)
            if _is_encoded(files) and not is_kept(_name(train), files):
                self.load(train)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Read the training or the test images.

        Raises:
            FileNotFoundError: If files are missing.
            ValueError: If a file is damaged.
        """
        files = self._files(train)
        if not _is_encoded(files):
            return read_batches(files)

        def decode() -> tuple[Tensor, Tensor]:
            if files[0].name == ARCHIVE:
                return read_archive(files[0], BATCHES[train])
            return read_parquet_images(files, height=32, width=32)

        return keep_decoded(_name(train), files, decode)

    def _files(self, train: bool) -> list[Path]:
        found = self._find()
        if found is None:
            raise FileNotFoundError(self._missing())
        return found[train]

    def _find(self) -> dict[bool, list[Path]] | None:
        """Return the files of the training set (True) and of the test set, all of one kind from one folder."""
        return next((files for files in self._candidates() if files[True] and files[False]), None)

    def _candidates(self) -> Iterator[dict[bool, list[Path]]]:
        here, own = self.data_dir, self.data_dir / "cifar10"
        for folder in (here, own):
            batches = {train: [folder / FOLDER / name for name in names] for train, names in BATCHES.items()}
            if all(path.is_file() for paths in batches.values() for path in paths):
                yield batches
        for folder in (here, own):
            if (folder / ARCHIVE).is_file():
                yield {train: [folder / ARCHIVE] for train in BATCHES}
        for folder in (own, own / "plain_text", here):
            yield {True: parquet_files(folder, "train"), False: parquet_files(folder, "test")}

    def _missing(self) -> str:
        own = self.data_dir / "cifar10"
        return (
            f"CIFAR-10 is not complete in {self.data_dir}; put {ARCHIVE} there, or train-00000-of-00001.parquet and "
            f"test-00000-of-00001.parquet into {own}, or set download to true"
        )


ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"
BATCHES = {True: [f"data_batch_{i}" for i in range(1, 6)], False: ["test_batch"]}


def _is_encoded(files: list[Path]) -> bool:
    """Whether the images have to be decoded or decompressed, which takes seconds."""
    return files[0].name == ARCHIVE or files[0].suffix == ".parquet"


def _name(train: bool) -> str:
    return f"cifar10-{'train' if train else 'test'}"
