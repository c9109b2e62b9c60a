"""YAML with numbers as people write them."""

import re
from pathlib import Path
from typing import Any

import yaml

from steepest.parsing import yaml_problem


class _Loader(yaml.SafeLoader):
    """Takes 1e-3 for a number: YAML 1.1 wants 1.0e-3 and would make it a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no YAML, or a mapping in it names a key twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_repeated_keys(yaml.compose(text, Loader=_Loader), path)
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(yaml_problem(path, error)) from error


def _refuse_repeated_keys(node: Any, path: Path) -> None:
    # YAML would keep the last one: half of an axis would vanish without a word.
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                raise ValueError(f"{path}, line {key.start_mark.line + 1}: {key.value!r} is there twice")
            seen.add(key.value)
            _refuse_repeated_keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(item, path)
