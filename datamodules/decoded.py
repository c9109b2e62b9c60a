"""Keeps decoded images on disk, so that they are decoded once and not in every run."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from steepest.common.atomic import cache_folders, make_cache_folder, replacing

Samples = tuple[Tensor, Tensor]
"""uint8 images of shape (samples, channels, height, width) and int64 labels of shape (samples,)."""

FOLDER = "decoded"
FORMAT = 1  # part of the digest: another number makes all kept files unknown


def is_kept(name: str, sources: Sequence[Path]) -> bool:
    """Whether the images decoded from these files are on disk. Arguments as for `keep_decoded`."""
    file_name = _file_name(name, sources)
    return any((folder / file_name).is_file() for folder in cache_folders(sources[0], FOLDER))


def keep_decoded(name: str, sources: Sequence[Path], decode: Callable[[], Samples]) -> Samples:
    """Return decoded images: kept ones if the content of the sources is still the same, otherwise newly decoded.

    They are kept in the folder `decoded` beside the sources or, if that cannot be written, in `steepest/decoded` of the
    user's cache folder (`XDG_CACHE_HOME`, by default `~/.cache`), under a name with the digest of the sources. If
    neither can be written, a line says so, and the next run decodes again. Kept files may be deleted at any time.

    Args:
        name: What the images are, such as "cifar10-train"; the beginning of the file's name.
        sources: The files they are decoded from.
        decode: Decodes them.

    Returns:
        Images and labels.

    Raises:
        OSError: If a source cannot be read.
    """
    file_name = _file_name(name, sources)
    for folder in cache_folders(sources[0], FOLDER):
        path = folder / file_name
        if path.is_file():
            try:
                return _read(path)
            except (OSError, ValueError, KeyError, EOFError, RuntimeError, BadZipFile) as error:
                rank_zero_info(f"{path} is damaged ({error}): decoding {name} again")
    rank_zero_info(f"decoding {name} from {', '.join(map(str, sources))}, once")
    samples = decode()
    failures = []
    for folder in cache_folders(sources[0], FOLDER):
        try:
            _write(folder / file_name, *samples)
            return samples
        except OSError as error:
            failures.append(f"{folder} ({error.strerror or error})")
    rank_zero_info(f"cannot keep the decoded images in {' or '.join(failures)}: the next run decodes them again")
    return samples


def _file_name(name: str, sources: Sequence[Path]) -> str:
    # By content, not by time: neither a copy of the sources nor a changed one with an old date is mistaken.
    digest = hashlib.sha256(str(FORMAT).encode())
    for source in sources:
        with source.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"{name}-{digest.hexdigest()[:16]}.npz"


def _read(path: Path) -> Samples:
    # A zip file, whose checksums find also a wrong byte in the middle; numpy leaves it open if it is not a zip file.
    with path.open("rb") as file, np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.uint8 or images.ndim != 4 or labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise ValueError("it holds no images and labels")
    return torch.from_numpy(images), torch.from_numpy(labels)


def _write(path: Path, images: Tensor, labels: Tensor) -> None:
    make_cache_folder(path.parent)
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, images=images.numpy(), labels=labels.numpy())
