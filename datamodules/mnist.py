"""MNIST and Fashion-MNIST: 70,000 gray images of 28 x 28 pixels in ten classes."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steepest.datamodules.base import ImageDataModule
from steepest.datamodules.download import download
from steepest.datamodules.idx import read_idx


class MNIST(ImageDataModule):
    """Handwritten digits, 60,000 for training and 10,000 for testing (LeCun et al. 1998).

    The four IDX files, plain or compressed (.gz), are taken from the first of these folders that has all of them:
    `data_dir/MNIST/raw` (where torchvision keeps them), `data_dir/mnist`, `data_dir`. Otherwise those that are missing
    in the first folder are downloaded into it, with checked digests.

    Args:
        data_dir: Folder of the data sets.
        download: Whether missing files are downloaded.
        mirrors: Addresses of folders (http, https, file) that are tried in turn; null takes those of torchvision.
        validation_size: Count or fraction of the training images that is kept for validation; 0 for none.
        **kwargs: See `ImageDataModule`.

    Raises:
        ValueError: If a value is out of its range.
    """

    folders = ("MNIST/raw", "mnist", ".")

    input_shape = (1, 28, 28)
    num_classes = 10
    mean = (0.1307,)
    std = (0.3081,)

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
            raise ValueError("mirrors must name at least one address, or be null for those of torchvision; got []")
        self.data_dir = Path(data_dir).expanduser()
        self.download = download
        self.mirrors = mirrors

    @classmethod
    def resources(cls) -> tuple[list[str], dict[str, str]]:
        """Return the default mirrors, and the MD5 digest of each compressed file by its name."""
        from torchvision import datasets  # here, as it takes a second that an offline data set need not pay

        source = getattr(datasets, cls.__name__)
        return list(source.mirrors), dict(source.resources)

    def prepare_data(self) -> None:
        """Download the files that are missing.

        Raises:
            FileNotFoundError: If files are missing and `download` is false.
            OSError: If no mirror has a good copy, or the folder cannot be written.
        """
        if self._find():
            return
        folder = self._folders()[0]
        if not self.download:
            raise FileNotFoundError(self._missing())
        mirrors, digests = self.resources()
        for name, digest in digests.items():
            if _variant(folder, name) is None:
                download(name, digest, self.mirrors or mirrors, folder)

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """Read the training or the test images.

        Raises:
            FileNotFoundError: If files are missing.
            ValueError: If a file is damaged.
        """
        files = self._find()
        if not files:
            raise FileNotFoundError(self._missing())
        images, labels = files[:2] if train else files[2:]
        return read_idx(images, 3).unsqueeze(1), read_idx(labels, 1).to(torch.int64)

    def _folders(self) -> list[Path]:
        return [self.data_dir / folder for folder in self.folders]

    def _find(self) -> list[Path]:
        """Return the four files in the order of `FILES`, or nothing if no folder has them all."""
        for folder in self._folders():
            # All from one folder: MNIST and Fashion-MNIST use the same names, and halves of both would fit together.
            found = [_variant(folder, name) for name in FILES]
            files = [file for file in found if file is not None]
            if len(files) == len(FILES):
                return files
        return []

    def _missing(self) -> str:
        return (
            f"{type(self).__name__} is not complete in any of {', '.join(map(str, self._folders()))}; put "
            f"{', '.join(FILES)} into {self._folders()[0]}, or set download to true"
        )


class FashionMNIST(MNIST):
    """Articles of clothing, 60,000 for training and 10,000 for testing (arXiv:1708.07747).

    Files, folders and arguments are as for `MNIST`, with `data_dir/FashionMNIST/raw`, `data_dir/fashion-mnist` and
    `data_dir`.
    """

    folders = ("FashionMNIST/raw", "fashion-mnist", ".")
    mean = (0.2860,)
    std = (0.3530,)


FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def _variant(folder: Path, name: str) -> Path | None:
    """Return the file of that name in the folder, compressed or plain, if there is one."""
    candidates = (folder / name, folder / name.removesuffix(".gz"))
    return next((path for path in candidates if path.is_file()), None)
