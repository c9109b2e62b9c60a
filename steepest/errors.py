"""How a command fails: one clear line, an exit code, and no traceback unless the fault is in code."""

import argparse
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import NoReturn

BAD_INPUT = 2
BAD_ENVIRONMENT = 1
INTERRUPTED = 130  # as shells report a process that Ctrl-C ended
TERMINATED = 143  # as they report one that SIGTERM ended, which clusters send before they take a machine away


class Failure(SystemExit):
    """The end of a command that failed.

    Args:
        message: What it printed.
        code: The exit code.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(code)
        self.message = message


def is_termination(error: BaseException) -> bool:
    """Whether this is how Lightning ends a run that received SIGTERM; left alone, its exit code would be 0."""
    return type(error).__name__ == "SIGTERMException"


def report(error: BaseException) -> None:
    """Print what went wrong in one line and leave; errors that are nobody's input keep their traceback."""
    if is_termination(error):
        fail("terminated", TERMINATED)
    code = exit_code(error)
    if code is None or is_from_users_code(error):
        raise error
    if os.environ.get("STEEPEST_TRACEBACK"):
        traceback.print_exception(error)
    fail(one_line(error), code)


def exit_code(error: BaseException) -> int | None:
    """2 for bad input, 1 for a failing environment, None for an error that needs its traceback."""
    # By name, because importing Lightning only to report a missing file would take seconds.
    name = type(error).__name__
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return BAD_INPUT
    if isinstance(error, (OSError, MemoryError)) or name in ("OutOfMemoryError", "DistBackendError", "DeadRankError"):
        return BAD_ENVIRONMENT
    if isinstance(error, (ValueError, FloatingPointError)) or name == "MisconfigurationException":
        return BAD_INPUT
    if isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned on metric"):
        return BAD_INPUT
    return None


def is_from_users_code(error: BaseException) -> bool:
    """Whether the error was raised in a class that a user brought along."""
    # A mistake in somebody's own model or data: a ValueError's message without its place would help them little.
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        if frame.f_globals.get("__name__", "").partition(".")[0] == "steepest":
            return False
        # Libraries report what they were given: whose code called them counts.
        if not _is_installed(os.path.realpath(frame.f_code.co_filename)):
            return True
    return False


def _is_installed(file: str) -> bool:
    standard_library = sysconfig.get_path("stdlib") + os.sep
    return (
        not os.path.isfile(file)
        or file.startswith(standard_library)
        or bool({"site-packages", "dist-packages"} & set(Path(file).parts))
    )


def one_line(error: BaseException) -> str:
    """The error's message with all white space folded."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror.lower()}"
    return " ".join(str(error).split()) or type(error).__name__


def fail(message: str, code: int) -> NoReturn:
    """Print `message` as the one line of an error and exit with `code`."""
    rank = int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or os.environ.get("LOCAL_RANK") or 0)
    prefix = f"steepest (rank {rank}): " if rank else "steepest: "
    sys.stdout.flush()
    print(f"{prefix}error: {message}", file=sys.stderr, flush=True)
    raise Failure(message, code)


class OneLineParser(argparse.ArgumentParser):
    """Python's parser, which ends in one line where an option is wrong."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        fail(" ".join(message.split()), BAD_INPUT)
