"""The parser: names and import paths of Steepest, and errors of one line."""

from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from steepest.compat import class_path_by_name, import_object, option_names, replace_lookup
from steepest.errors import BAD_INPUT, fail
from steepest.former_names import looked_into, present_path
from steepest.optim.registry import REGISTRIES, choice_of
from steepest.parsing.messages import NO_TYPE_FITS, REQUIRED, explain


class MissingOptionsError(SystemExit):
    """Options without a default that were not given; a SystemExit because jsonargparse swallows other errors.

    Args:
        message: The line to end with if nobody can supply them.
        names: The options.
    """

    def __init__(self, message: str, names: list[str]) -> None:
        super().__init__(BAD_INPUT)
        self.message = message
        self.names = names


class Parser(LightningArgumentParser):
    """Lightning's parser with one-line errors."""

    # Set by the command line on the main parser: the parser of its one command.
    command_parser: "Parser | None" = None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line that names the option, the value and what is allowed, and exit with 2."""
        groups = self.groups or {}
        owner = next(iter(groups)) if len(groups) == 1 else None
        # A config file's unknown key is reported by the main parser; the options are those of the command's.
        parser = self.command_parser or self if message.startswith("Subcommand") else self
        line = explain(message, owner, option_names(parser))
        if message.startswith(REQUIRED):
            raise MissingOptionsError(line, message.removeprefix(REQUIRED).replace(" ", "").split(","))
        fail(line, BAD_INPUT)

    def instantiate_classes(self, cfg: Any, **options: Any) -> Any:
        """Build what was chosen; Lightning calls `instantiate`, the parser's method, by this former name.

        Raises:
            ValueError: if a class refuses its options, in one line.
        """
        try:
            return self.instantiate(cfg, **options)
        except ValueError as error:
            if NO_TYPE_FITS in str(error):
                raise ValueError(explain(str(error))) from error
            raise


def _class_path_of_entry(cls: Any, name: str) -> str:
    for registry in REGISTRIES:
        if "." not in name and registry.marker in (cls if isinstance(cls, tuple) else (cls,)):
            try:
                found = registry.find(name)
                choice = None if found is None else registry.choice(found)
            except ValueError as error:  # jsonargparse would bury it among the types that it tried
                fail(str(error), BAD_INPUT)
                raise
            if choice is not None:
                return f"{choice.__module__}.{choice.__name__}"
    return class_path_by_name(cls, name)


def _entry_at(path: str, *arguments: Any, **options: Any) -> Any:
    try:
        found = import_object(present_path(path) if isinstance(path, str) else path, *arguments, **options)
    except ValueError as error:
        if str(path).startswith("steepest.optim.registry."):
            fail(str(error), BAD_INPUT)
        raise
    except (ImportError, AttributeError) as error:
        raise type(error)(f"{error}{looked_into(path)}") from error
    return choice_of(found)


replace_lookup(_class_path_of_entry, _entry_at)
