"""Entry point: finds the command, and turns every failure into one clear line and an exit code.

Heavy packages are imported only by the command that needs them, so that `steepest --help` answers at once.
"""

import os
import sys
from collections.abc import Sequence

from steepest import __version__
from steepest.errors import INTERRUPTED, Failure, fail, is_termination, report

COMMANDS = {
    "fit": "train a model on data, with any optimizer, and watch it",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "evaluate a checkpoint on the test split",
    "predict": "write a checkpoint's predictions for the test split",
    "lr_range_test": "find a good learning rate, or the largest stable one",
    "landscape": "draw the loss around a checkpoint's weights",
    "study": "answer a question with many runs: comparisons with tuning, seeds, statistics and a report",
    "stability": "largest stable learning rates and best constants on a spectrum, predicted and measured",
    "sample": "write text with a checkpoint of a language model",
    "list": "list optimizers, schedules, clippings, models, data, callbacks, configs or studies",
}


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
    # Users name their own classes by import path from where they are; at the end, so that they hide no package.
    sys.path.append(os.getcwd())
    try:
        if words[0] not in COMMANDS:
            raise ValueError(_unknown_command(words[0]))
        if words[0] == "list":
            from steepest.commands.list import run_list

            run_list(words[1:])
        elif words[0] == "stability":
            from steepest.commands.stability import run_stability

            run_stability(words[1:])
        elif words[0] == "study":
            from steepest.study.command import run_study_command

            run_study_command(words[1:])
        elif words[0] == "sample":
            from steepest.commands.sample import run_sample

            run_sample(words[1:])
        else:
            from steepest.command_line.command_line import run

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


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: steepest COMMAND [options]\n\n"
        "Train real models with any optimizer and see what the optimizer is doing while it trains.\n\n"
        f"commands:\n{rows}\n\n"
        "examples:\n"
        "  steepest fit --config digits_mlp\n"
        "  steepest fit --config digits_mlp --optimizer adamw --optimizer.lr 3e-4\n"
        "  steepest fit --optimizer.help adamw\n"
        "  steepest list optimizers\n\n"
        "`steepest COMMAND --help` lists a command's options; STEEPEST_TRACEBACK=1 adds a traceback to every error."
    )


def _unknown_command(word: str) -> str:
    import difflib

    nearest = difflib.get_close_matches(word, COMMANDS, n=1)
    meant = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown command {word!r}.{meant} Commands: {', '.join(COMMANDS)}."
