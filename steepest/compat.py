"""What the application uses of Lightning and jsonargparse that they do not promise to keep, in one place.

No other module of `steepest/` uses private names of theirs (callbacks have `callbacks/compat.py`). Two classes override
private methods where the classes are, because there is no public method to override:

| class | method | why |
| --- | --- | --- |
| `CommandLine` | `LightningCLI._parse_ckpt_path` | it would let options stored in a checkpoint win over given ones |
| `CommandLine` | `LightningCLI._run_subcommand` | it is the one place around the whole command, its hooks included |
| `Trainer` | `Trainer._run_stage` | all is set up and the fit loop would begin: other work can take its place |

All of it holds for Lightning 2.6 and jsonargparse 4.49 to 4.53. `tests/steepest/test_compat.py` says what has changed
when it no longer does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jsonargparse._actions as actions
import jsonargparse._typehints as typehints
from jsonargparse import ArgumentParser, Namespace
from lightning import Trainer
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

# jsonargparse's own, whatever stands in their place later.
class_path_by_name = typehints.resolve_class_path_by_name
import_object = typehints.import_object


def replace_lookup(class_path: Callable[..., str], imported: Callable[..., Any]) -> None:
    """Have all parsers of the process find names and import paths by other functions.

    jsonargparse knows classes by their own names only, and has nothing to register another name. The functions may ask
    its own, `class_path_by_name` and `import_object`.

    Args:
        class_path: Takes a base class (or several) and a short name, and gives an import path.
        imported: Takes an import path and whatever else jsonargparse passes on, and gives the object.
    """
    typehints.resolve_class_path_by_name = class_path
    typehints.import_object = actions.import_object = imported


@contextmanager
def isolated_choices() -> Iterator[None]:
    """While parsing, a newly chosen class takes its own defaults.

    jsonargparse keeps the options that the previous choice happens to share with the new one: after a configured AdamW,
    `--optimizer sgd` would silently train with AdamW's learning rate (its issue 460, open).
    """
    original = typehints.discard_init_args_on_class_path_change

    def discard_all(parser_or_action: Any, previous: Any, value: Any) -> None:
        if previous and "init_args" in previous and previous["class_path"] != value["class_path"]:
            previous["init_args"] = Namespace()

    typehints.discard_init_args_on_class_path_change = discard_all
    try:
        yield
    finally:
        typehints.discard_init_args_on_class_path_change = original


def option_names(parser: ArgumentParser) -> list[str]:
    """The options that a parser knows; neither jsonargparse nor argparse lists them."""
    return [action.dest for action in parser._actions]


def accept_untyped(option: Any) -> None:
    """Have an option of a class type take classes whose arguments have no annotations.

    `add_subclass_arguments(fail_untyped=False)` does it for a class, nothing public for a function that makes one.

    Args:
        option: What `add_argument` returned.
    """
    option.sub_add_kwargs["fail_untyped"] = False


class ScriptLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher of ranks that repeat the command, which has no public class to derive from."""

    def start_ranks(self) -> None:
        """Start the other ranks as `launch` does, without its thread that kills everything when one of them dies."""
        self._call_children_scripts()


def repeats_command(trainer: Trainer) -> bool:
    """Whether the trainer starts its processes by repeating the command; launchers have no public names."""
    return isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher)


def forks(trainer: Trainer) -> bool:
    """Whether the trainer forks or spawns its processes from this one; launchers have no public names."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def replace_launcher(trainer: Trainer, launcher: ScriptLauncher) -> None:
    """Let a launcher start the trainer's processes; a strategy makes its own and takes no other."""
    trainer.strategy._launcher = launcher


class _QuietSignals(_SignalConnector):
    def __init__(self, trainer: Trainer, is_noted: Callable[[], bool]) -> None:
        super().__init__(trainer)
        self._is_noted = is_noted

    def _sigterm_notifier_fn(self, *_: Any) -> None:
        if self._is_noted():
            self.received_sigterm = True


def only_note_sigterm(trainer: Trainer, is_noted: Callable[[], bool]) -> None:
    """Have a trainer note SIGTERM, which then ends the run at the end of the batch, and do no more about it.

    Lightning hands the signal on, and from within the handler begins a collective amid those that are under way: now
    and then the ranks wait for each other for ever. No option leaves that out.

    Args:
        trainer: The trainer, before it runs.
        is_noted: Whether this process notes the signal, asked when it comes.
    """
    trainer._signal_connector = _QuietSignals(trainer, is_noted)
