"""Run folders `runs/<name>/version_N`: always fresh, never shared, and found again by name."""

import os
import re
import shutil
import zipfile
from pathlib import Path

MOST_ATTEMPTS = 100

_VERSION = re.compile(r"version_(\d+)")


def check_name(name: str) -> str:
    """Return `name` if it can be a folder's name.

    Raises:
        ValueError: if it is empty or holds a path separator.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.+=,-]*", name):
        raise ValueError(f"--name must be made of letters, digits and _ . + = , -, got {name!r}")
    return name


def create_run_folder(runs_dir: Path, name: str) -> Path:
    """Make the next free `runs_dir/name/version_N`.

    Two processes that ask at the same time get two folders.

    Raises:
        OSError: if the folder cannot be made.
    """
    parent = runs_dir / check_name(name)
    number = max((number for number, _ in _versions(parent)), default=-1) + 1
    vanished = 0
    while True:
        folder = parent / f"version_{number}"
        try:
            os.makedirs(folder)
            return folder
        except FileExistsError:
            number += 1
        except FileNotFoundError:
            # Another process, whose run has failed, took back the folder of the name just now; or it can never be made.
            vanished += 1
            if vanished == MOST_ATTEMPTS:
                raise


def remove_if_empty(folder: Path) -> None:
    """Take back a run folder in which nothing was written, and the folders of its name and of all runs if empty."""
    for path in (folder, folder.parent, folder.parent.parent):
        try:
            path.rmdir()
        except OSError:  # it holds something, or another process has taken it back already
            return


def remove_run_folder(folder: Path) -> None:
    """Take back the folder of a run that failed before its first step: it holds nothing but its options."""
    for path in folder.iterdir() if folder.is_dir() else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    remove_if_empty(folder)


def newest_checkpoint(runs_dir: Path, name: str, which: str) -> Path:
    """The newest complete checkpoint `which` ("last" or "best") among the runs of `name`.

    Raises:
        FileNotFoundError: if no run of that name has one.
    """
    parent = runs_dir / check_name(name)
    for _, folder in sorted(_versions(parent), reverse=True):
        path = folder / "checkpoints" / f"{which}.ckpt"
        if path.is_file() and zipfile.is_zipfile(path):
            return path
    raise FileNotFoundError(
        f"--ckpt_path {which}: no complete checkpoint {which}.ckpt in any run under {parent}; "
        "train one first, or give the path of a checkpoint"
    )


def _versions(parent: Path) -> list[tuple[int, Path]]:
    try:
        paths = list(parent.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    matches = ((_VERSION.fullmatch(path.name), path) for path in paths)
    return [(int(match.group(1)), path) for match, path in matches if match]
