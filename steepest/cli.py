"""Entry point: finds the command, and turns every failure into one clear line and an exit code.

Heavy packages are imported only by the command that needs them, so that `steepest --help` answers at once.
"""

import os
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import NoReturn

from steepest import __version__

BAD_INPUT = 2
BAD_ENVIRONMENT = 1
INTERRUPTED = 130  # as shells report a process that Ctrl-C ended
TERMINATED = 143  # as they report one that SIGTERM ended, which clusters send before they take a machine away

COMMANDS = {
    "fit": "train a model on data, with any optimizer, and watch it",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "evaluate a checkpoint on the test split",
    "predict": "write a checkpoint's predictions for the test split",
    "lr_range_test": "find a learning rate, or the largest stable one, without leaving a trace",
    "landscape": "draw the loss around a checkpoint's weights",
    "study": "answer a question by many runs: comparisons with tuning, seeds, statistics and a report",
    "stability": "largest stable learning rates and best constants on a spectrum, predicted and measured",
    "sample": "write text with a checkpoint of a language model",
    "list": "list optimizers, schedules, clippings, models, data or callbacks",
}

_OUR_PACKAGES = ("callbacks", "datamodules", "diagnostics", "lightning_modules", "optim", "steepest")


class Failure(SystemExit):
    """The end of a command that failed.

    Args:
        message: What it printed.
        code: The exit code.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(code)
        self.message = message


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; returns normally on success and exits with 1, 2, 130 or 143 otherwise.

    Args:
        arguments: Words after `steepest`; None takes them from the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return
    if words[0] == "--version":
        print(f"steepest {__version__}")
        return
    # Users name their own classes by import path from where they are; at the end, so that nothing of ours is shadowed.
    sys.path.append(os.getcwd())
    try:
        _check_shadowing()
        if words[0] not in COMMANDS:
            raise ValueError(_unknown_command(words[0]))
        if words[0] == "list":
            from steepest.listing import run_list

            run_list(words[1:])
        elif words[0] == "stability":
            from steepest.stability import run_stability

            run_stability(words[1:])
        elif words[0] == "study":
            from steepest.study.command import run_study_command

            run_study_command(words[1:])
        elif words[0] == "sample":
            from steepest.sample import run_sample

            run_sample(words[1:])
        else:
            from steepest.command_line import run

            run(words)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except SystemExit as exit:
        # Lightning's answer to an interrupt in the middle of a run; a failure of ours has been said already.
        if isinstance(exit.__context__, KeyboardInterrupt) and not isinstance(exit, Failure):
            fail("interrupted", INTERRUPTED)
        if is_termination(exit):
            report(exit)
        raise
    except Exception as error:
        report(error)


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
    fail(message_of(error), code)


def message_of(error: BaseException) -> str:
    """What to print about an error, in one line."""
    message = str(error)
    if "Does not validate against" in message:
        from steepest.messages import explain

        return explain(message)
    return one_line(error)


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
    home = Path(__file__).resolve().parent.parent
    ours = tuple(str(home / package) + os.sep for package in _OUR_PACKAGES)
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        file = os.path.realpath(frame.f_code.co_filename)
        if file.startswith(ours):
            return False
        # Libraries report what they were given: whose code called them counts.
        if not _is_installed(file):
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


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: steepest COMMAND [options]\n\n"
        "Train real models with any optimizer and see what the optimizer is doing while it trains.\n\n"
        f"commands:\n{rows}\n\n"
        "examples:\n"
        "  steepest fit --config configs/digits_mlp.yaml\n"
        "  steepest fit --config configs/digits_mlp.yaml --optimizer adamw --optimizer.lr 3e-4\n"
        "  steepest fit --optimizer.help adamw\n"
        "  steepest list optimizers\n\n"
        "`steepest COMMAND --help` lists a command's options; STEEPEST_TRACEBACK=1 adds a traceback to every error."
    )


def _unknown_command(word: str) -> str:
    import difflib

    nearest = difflib.get_close_matches(word, COMMANDS, n=1)
    meant = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown command {word!r}.{meant} Commands: {', '.join(COMMANDS)}."


def _check_shadowing() -> None:
    # The folders are plain top-level packages; a file of the same name on the path would silently take their place.
    home = Path(__file__).resolve().parent.parent
    for package in _OUR_PACKAGES:
        specification = util.find_spec(package)
        origin = specification.origin if specification is not None else None
        if origin is None:
            raise ValueError(f"the package {package!r} of Steepest is not installed; run `pip install -e .` again")
        if Path(origin).resolve().parent.parent != home:
            raise ValueError(f"{origin} shadows Steepest's own package {package!r}; rename it or run from elsewhere")
