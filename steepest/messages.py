"""The parser's error messages in one line: the option, what was wrong, and what is allowed."""

import re
from collections.abc import Sequence

from optim.registry import OPTIMIZERS, SCHEDULES, unknown_name

REQUIRED = "the following arguments are required:"

_LONGEST = 500
_NO_REASON = ("Expected", "Not a valid", "Does not validate", "a class path", "a dict")
_KEY = re.compile(r'Parser key "([^"]+)"')
_UNKNOWN_OPTION = re.compile(r"(?:Option|does not accept option) '([^']+)'(?: is not accepted)?")
_BAD_PATH = re.compile(r"Expected a dot import path string: (\S+)")
_IMPORT_PROBLEM = re.compile(r"Problem with given class_path '([^']+)':\s*(.+)")
_WRONG_CLASS = re.compile(r"Expected '([^']+)' to be a subclass of <class '(\w+)'>")
_NO_ATTRIBUTE = re.compile(r"((?:module|No module named) .+?)(?:\.? Got value: (\S+)|$)", re.MULTILINE)
_EXPECTED = re.compile(r"Expected an? (<class '[^']+'>|typing\.Literal\[[^\]]*\]|tuple with \d+ elements)")
_GIVEN = re.compile(r"(?:Got value|Given value): (.+)")
_IMPORT_CLASS = re.compile(r"does not correspond to a subclass of (\w+)")


def explain(message: str, owner: str | None = None, allowed: Sequence[str] = ()) -> str:
    """Say in one line what a user can act on.

    Args:
        message: What jsonargparse reports, often many lines about every type a value was tried as.
        owner: The class whose options were being read (an optimizer, a network, ...), or None for the command itself.
        allowed: The options there are.
    """
    of_owner = f" of {owner}" if owner else ""
    if match := _UNKNOWN_OPTION.search(message):
        name = match.group(1).removesuffix(".class_path")
        options = _options(allowed)
        return _shortened(unknown_name(f"option{of_owner}", name, options), options)
    if message.startswith("unrecognized arguments:"):
        return _unrecognized(message.split(":", 1)[1].split(), allowed)
    if message.startswith(REQUIRED):
        missing = message.removeprefix(REQUIRED).strip().split(".", 1)[-1]
        return f"--{missing}{of_owner} is required: give it on the command line or in a --config file"
    key = match.group(1) if (match := _KEY.search(message)) else ""
    if match := _BAD_PATH.search(message):
        return _unknown_choice(key, match.group(1))
    if match := _IMPORT_PROBLEM.search(message):
        return f"--{key}: cannot import {match.group(1)}: {match.group(2)}"
    if match := _WRONG_CLASS.search(message):
        return _not_registered(key, match.group(1))
    if match := _IMPORT_CLASS.search(message):
        return f"--{key}: {_given(message)} is not a {match.group(1)}"
    if "expects a function or a callable class" in message and (match := _NO_ATTRIBUTE.search(message)):
        return f"--{key}: {match.group(1).split(': ')[-1]}"
    if reason := _reason(message):
        return reason
    expected = list(dict.fromkeys(filter(None, map(_type_name, _EXPECTED.findall(message)))))
    if expected:
        return f"--{key}{of_owner}: expected {' or '.join(expected)}, got {_given(message)}"
    if key == "config":
        return " ".join(message.split(":", 1)[1].split())
    return " ".join(message.split())[:_LONGEST]


def _options(allowed: Sequence[str]) -> list[str]:
    return [option for option in allowed if option not in ("help", "config", "print_config") and ".help" not in option]


def _unrecognized(words: list[str], allowed: Sequence[str]) -> str:
    options = [f"--{option}" for option in _options(allowed)]
    word = words[0].split("=")[0]
    if not word.startswith("-"):
        return f"unexpected word {word!r}; options begin with -- and have one value"
    return _shortened(unknown_name("option", word, options), options)


def _shortened(text: str, options: list[str]) -> str:
    # All options of the trainer would fill the screen.
    return text.split(" Allowed:")[0] + " See --help for all." if len(options) > 20 else text


def _unknown_choice(key: str, name: str) -> str:
    kind = key.rsplit(".", 1)[-1]
    choices = _choices(kind)
    if not choices:
        return f"--{key}: {name!r} is not an import path, such as package.module.Class"
    text = unknown_name(kind.removesuffix("s"), name, choices)
    return text if kind in ("optimizer", "schedule") else f"{text[:-1]}, or an import path."


def _not_registered(key: str, path: str) -> str:
    allowed = ", ".join(_choices(key))
    hint = "; wrap a class by --optimizer external --optimizer.algorithm " + path if key == "optimizer" else ""
    return f"--{key}: {path} is not a registered {key}. Allowed: {allowed}{hint}"


def _choices(kind: str) -> list[str]:
    import callbacks
    import datamodules
    import lightning_modules
    from lightning_modules import networks

    return {
        "optimizer": OPTIMIZERS.names(),
        "schedule": SCHEDULES.names(),
        "model": [name for name in lightning_modules.__all__ if name != "BaseModule"],
        "network": list(networks.__all__),
        "data": list(datamodules.__all__),
        "callbacks": [*callbacks.__all__, "EarlyStopping"],
    }.get(kind, [])


def _reason(message: str) -> str | None:
    # A value of the right shape that a constructor refused: its own words stand among the types that were tried.
    if "Does not validate against" not in message:
        return None
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        if line.strip().startswith("- ") and not text.startswith(_NO_REASON):
            return text
    return None


def _type_name(text: str) -> str | None:
    if text.startswith("<class '"):
        name = text[8:-2].rsplit(".", 1)[-1]
        plain = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
        return None if name == "NoneType" else plain.get(name, "a list" if name == "Sequence" else name)
    if text.startswith("typing.Literal["):
        return "one of " + text[len("typing.Literal[") : -1]
    return "a " + text


def _given(message: str) -> str:
    match = _GIVEN.search(message)
    return match.group(1)[:80] if match else "another value"
