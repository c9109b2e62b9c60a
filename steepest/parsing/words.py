"""What the words of a command line and the config files among them say, read without parsing the rest.

Nothing here imports jsonargparse, which takes a second.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def config_files(words: Sequence[str]) -> list[Path]:
    """The files given by `--config` or `-c`, in order."""
    return [Path(value) for name, value in _options(words) if name == "config"]


def read_config(path: Path) -> dict[str, Any]:
    """The options in a config file, by name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not YAML or does not hold options by name.
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
    return content


def yaml_problem(path: Path, error: Exception) -> str:
    """Where and why a file is not YAML."""
    mark = getattr(error, "problem_mark", None)
    place = f", line {mark.line + 1}" if mark is not None else ""
    return f"{path}{place} is not YAML: {getattr(error, 'problem', None) or error}"


def given_value(words: Sequence[str], option: str) -> str | None:
    """The last value of an option on a command line, as typed."""
    return next((value for name, value in reversed(_options(words)) if name == option), None)


def chosen_class_path(words: Sequence[str], option: str) -> str | None:
    """What `option` ("data") is set to by the config files and the words after them."""
    values = [read_config(path).get(option) for path in config_files(words)]
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
    return any(_holds(read_config(file), path) for file in config_files(words))


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
