"""Files that are complete or not there, also when a run is killed while it writes or several processes write."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a hidden name beside `path` to write to; the file gets its own name when the block ends without an error.

    Args:
        path: The file to create or replace; missing folders are made.

    Yields:
        Path of the partial file, with the same suffix; it is deleted if the block raises.

    Raises:
        OSError: If the file cannot be put in place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
    try:
        yield partial
        # A name that is on the disk before its content would be an empty file after a power failure.
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def cache_folders(source: Path, name: str) -> Iterator[Path]:
    """Yield where something made from a file may be kept: folder `name` beside it, then that in the user's cache."""
    yield source.parent / name
    yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steepest" / name


def make_cache_folder(folder: Path) -> None:
    """Make one of the `cache_folders`, if what it lies in may be written.

    Raises:
        OSError: If it cannot be made.
    """
    beside = folder.parent
    if beside.is_dir() and not beside.stat().st_mode & 0o222:
        # Root, whom containers make of everybody, could write all the same to what is meant to stay as it is.
        raise PermissionError(errno.EACCES, "marked as read-only")
    folder.mkdir(parents=True, exist_ok=True)
