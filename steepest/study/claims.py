"""Trials are claimed: of all processes that work on a study's folder one runs each; the report is claimed likewise.

The claim is a lock that the running process holds. It ends with the process, however that ends.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from steepest.study.results import result_path


@contextmanager
def claimed(folder: Path, key: str) -> Iterator[bool]:
    """Claim a trial; gives whether it is ours, and does not wait.

    Args:
        folder: The study's folder.
        key: The trial.
    """
    path = result_path(folder, key).with_name("lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_claimed(folder: Path, key: str) -> bool:
    """Whether somebody is running a trial at this moment."""
    with claimed(folder, key) as free:
        return not free


@contextmanager
def reporting(folder: Path) -> Iterator[None]:
    """Be the only one that writes the report of a study; waits while another process does.

    Args:
        folder: The study's folder.
    """
    with FileLock(folder / "report.lock"):
        yield
