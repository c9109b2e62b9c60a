"""Reads the pickled batches in which CIFAR-10 and CIFAR-100 are published (https://www.cs.toronto.edu/~kriz/cifar.html)."""

import codecs
import pickle
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

PIXELS = 3 * 32 * 32


def read_batches(files: Sequence[Path]) -> tuple[Tensor, Tensor]:
    """Read batches that lie unpacked in a folder.

    Args:
        files: The batches, in order; at least one.

    Returns:
        uint8 images of shape (samples, 3, 32, 32) and int64 labels of shape (samples,).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is damaged.
    """
    batches = []
    for path in files:
        with path.open("rb") as file:
            batches.append(_read(file, str(path), path))
    return _join(batches)


def read_archive(archive: Path, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Read batches out of a compressed archive, without unpacking it to disk.

    Args:
        archive: The file cifar-10-python.tar.gz.
        names: Names of the batches, in order; at least one.

    Returns:
        As `read_batches`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the archive is damaged or lacks a batch.
    """
    batches: dict[str, tuple[Tensor, Tensor]] = {}
    with archive.open("rb") as content:
        try:
            with tarfile.open(fileobj=content, mode="r|gz") as members:
                for member in members:
                    name = member.name.rpartition("/")[2]
                    file = members.extractfile(member) if name in names else None
                    if file is not None:
                        batches[name] = _read(file, f"{name} in {archive}", archive)
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise _damaged(str(archive), f"it does not unpack ({error})", archive) from None
    missing = [name for name in names if name not in batches]
    if missing:
        raise _damaged(str(archive), f"it lacks {', '.join(missing)}", archive)
    return _join([batches[name] for name in names])


class _Unpickler(pickle.Unpickler):
    """Unpickles arrays and plain Python objects alone: an ordinary pickle can run any program."""

    ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,
        # The same function under its names in numpy 1, with which the batches were written, and 2.
        **{
            (module, "_reconstruct"): np.empty(0).__reduce__()[0]
            for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        },
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.ALLOWED[module, name]


def _read(file: IO[bytes], what: str, path: Path) -> tuple[Tensor, Tensor]:
    try:
        batch = _Unpickler(file, encoding="bytes").load()  # written by Python 2, whose strings are bytes
        data, labels = batch[b"data"], torch.tensor(batch[b"labels"], dtype=torch.int64)
    except OSError:
        raise  # the medium or the archive, not the batch
    except Exception as error:  # damaged pickles raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _damaged(what, f"it is not a batch of CIFAR-10 ({reason})", path) from None
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (len(labels), PIXELS):
        raise _damaged(what, f"its data must be {len(labels)} x {PIXELS} bytes, as it has {len(labels)} labels", path)
    return torch.tensor(data).view(-1, 3, 32, 32), labels


def _join(batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def _damaged(what: str, why: str, path: Path) -> ValueError:
    return ValueError(
        f"{what} is damaged: {why}; delete it and run again to download it, or put a good copy of {path.name} there"
    )
