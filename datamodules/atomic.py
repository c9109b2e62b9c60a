"""Files that are complete or not there, also when a run is killed while it writes or several processes write."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a hidden name beside `path` to write to; the file gets its own name when the block ends without an error.

    Args:
        path: The file to write; its folder must exist.

    Yields:
        Path of the partial file, which is deleted if the block raises.

    Raises:
        OSError: If the file cannot be put in place.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
