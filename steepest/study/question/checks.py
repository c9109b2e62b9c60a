"""Checks that every part of a study file needs."""

import difflib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from steepest.parsing.words import yaml_problem


def check_keys(content: Mapping[str, Any], allowed: Collection[str], where: str) -> None:
    """Refuse a key that is not allowed.

    Raises:
        ValueError: naming the key, the nearest allowed one, and all of them.
    """
    for key in content:
        if key not in allowed:
            raise ValueError(f"{where}: unknown key {key!r}{meant(str(key), allowed)}; allowed: {', '.join(allowed)}")


def meant(word: str, allowed: Collection[str]) -> str:
    """A question that names the allowed word nearest to `word`, or nothing."""
    nearest = difflib.get_close_matches(word, list(allowed), n=1)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


def read_seeds(value: Any, where: str) -> tuple[int, ...]:
    """Seeds: a number n for 0 to n-1, or a list.

    Raises:
        ValueError: if there is none, one is there twice, or one is not a whole number from 0.
    """
    seeds = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    if (
        not isinstance(seeds, list)
        or not seeds
        or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        raise ValueError(f"{where} must be a number of seeds above 0, or a list of different ones, got {value!r}")
    return tuple(seeds)


def read_number(value: Any, where: str, above: float = float("-inf")) -> float:
    """A finite number above a limit.

    Raises:
        ValueError: otherwise.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < float("inf"):
        limit = f" above {above:g}" if above > float("-inf") else ""
        raise ValueError(f"{where} must be a number{limit}, got {value!r}")
    return float(value)


class _Loader(yaml.SafeLoader):
    """Takes 1e-3 for a number: YAML 1.1 wants 1.0e-3 and would make it a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not YAML, or a mapping in it names a key twice.
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
