"""The parser: choices that do not leak options into each other, and errors of one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import jsonargparse._typehints as typehints
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from steepest.cli import BAD_INPUT, fail
from steepest.messages import explain


class Parser(LightningArgumentParser):
    """Lightning's parser with one-line errors."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line that names the option, the value and what is allowed, and exit with 2."""
        fail(explain(message), BAD_INPUT)
        raise AssertionError("not reached")


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
