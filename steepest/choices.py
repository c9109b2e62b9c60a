"""Lets the parser find optimizers, schedules and clippings under every name people write.

jsonargparse knows a choice by the name of its class. Here it also learns aliases and other spellings, members of
families and plug-ins, which are made when they are asked for, and `my_file.my_optimizer`, the import path of a
registered function.
"""

from typing import Any

import jsonargparse._actions as actions
import jsonargparse._typehints as typehints

from optim.registry import REGISTRIES
from steepest.cli import BAD_INPUT, fail

_class_path = typehints.resolve_class_path_by_name
_object_at = typehints.import_object


def accept_every_name() -> None:
    """Teach the parser; once for the process, and again does no harm."""
    typehints.resolve_class_path_by_name = _class_path_of_entry
    typehints.import_object = actions.import_object = _entry_at


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
    return _class_path(cls, name)


def _entry_at(path: str, check_path: bool = True) -> Any:
    try:
        found = _object_at(path, check_path)
    except ValueError as error:
        if str(path).startswith("optim.registry."):
            fail(str(error), BAD_INPUT)
        raise
    choices = (registry.choice_of(found) for registry in REGISTRIES)
    return next((choice for choice in choices if choice is not None), found)
