"""The parser: choices that do not leak options into each other, and errors of one line."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import jsonargparse._typehints as typehints
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from steepest.choices import accept_every_name
from steepest.cli import BAD_INPUT, fail
from steepest.messages import REQUIRED, explain

accept_every_name()


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

    # Set by the command line on the main parser: parsers of the commands by name.
    subcommand_parsers: Mapping[str, "Parser"] = MappingProxyType({})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line that names the option, the value and what is allowed, and exit with 2."""
        groups = self.groups or {}
        owner = next(iter(groups)) if len(groups) == 1 else None
        # A config file's unknown key is reported by the main parser; the options are those of the command's.
        parser = next(iter(self.subcommand_parsers.values()), self) if message.startswith("Subcommand") else self
        allowed = [action.dest for action in parser._actions]
        line = explain(message, owner, allowed)
        if message.startswith(REQUIRED):
            raise MissingOptionsError(line, message.removeprefix(REQUIRED).replace(" ", "").split(","))
        fail(line, BAD_INPUT)


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


def check_config_file(path: Path) -> None:
    """Refuse a config file that is missing or is not YAML with options by name, in words that name the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not hold options by name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--config: there is no file {path}")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config: {yaml_problem(path, error)}") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise ValueError(f"--config: {path} must hold options by name (`optimizer: adamw`), it holds {found}")


def yaml_problem(path: Path, error: Exception) -> str:
    """Where and why a file is no YAML."""
    mark = getattr(error, "problem_mark", None)
    place = f", line {mark.line + 1}" if mark is not None else ""
    return f"{path}{place} is not YAML: {getattr(error, 'problem', None) or error}"


def config_files(words: Sequence[str]) -> list[Path]:
    """The files given by `--config` or `-c`, in order."""
    return [Path(value) for name, value in _options(words) if name == "config"]


def given_value(words: Sequence[str], option: str) -> str | None:
    """The last value of an option on a command line, as typed."""
    return next((value for name, value in reversed(_options(words)) if name == option), None)


def chosen_class_path(words: Sequence[str], option: str) -> str | None:
    """What `option` ("data") is set to by the config files and the words after them, without parsing the rest."""
    values = [yaml.safe_load(path.read_text()).get(option) for path in config_files(words)]
    values += [_plain(value) for name, value in _options(words) if name in (option, f"{option}.class_path")]
    paths = [value.get("class_path") if isinstance(value, dict) else value for value in values]
    return next((path for path in reversed(paths) if isinstance(path, str)), None)


def is_given(words: Sequence[str], path: Sequence[str]) -> bool:
    """Whether the option `path` ("model", "network", "hidden") stands in a config file or on the command line."""
    for name, value in _options(words):
        # `--model.network.hidden 3`, or a mapping of options further up: `--model '{...}'`.
        keys = name.replace(".init_args", "").split(".")
        if keys == list(path) or (keys == list(path[: len(keys)]) and _holds(_plain(value), path[len(keys) :])):
            return True
    return any(_holds(yaml.safe_load(file.read_text()), path) for file in config_files(words))


def _options(words: Sequence[str]) -> list[tuple[str, str]]:
    """Names and values of the options on a command line, in order."""
    options = []
    for index, word in enumerate(words):
        name, separator, value = word.partition("=")
        if word.startswith("-"):
            name = "config" if name == "-c" else name.removeprefix("--").removesuffix("+")
            options.append((name, value if separator else next(iter(words[index + 1 :]), "")))
    return options


def _plain(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _holds(value: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        value = value.get("init_args", value) if isinstance(value, dict) else None
        value = value.get(key) if isinstance(value, dict) else None
    return value is not None
