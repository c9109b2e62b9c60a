"""The parser's error messages in one line: the option, what was wrong, and what is allowed."""

import re
from collections.abc import Sequence

from steepest.optim.registry import REGISTRIES, unknown_name

# How messages of the parser begin, or what is in them.
REQUIRED = "the following arguments are required:"
NO_TYPE_FITS = "Does not validate against"

_LONGEST = 500  # characters of a message that has none of the forms below
_REGISTRIES = {registry.kind: registry for registry in REGISTRIES}
_NO_REASON = ("Expected", "Not a valid", NO_TYPE_FITS, "a class path", "a dict")
_KEY = re.compile(r'Parser key "([^"]+)"')
_UNKNOWN_OPTION = re.compile(r"(?:Option|does not accept option) '([^']+)'(?: is not accepted)?")
_BAD_PATH = re.compile(r"Expected a dot import path string: (\S+)")
_IMPORT_PROBLEM = re.compile(r"Problem with given class_path '([^']+)':\s*(.+)")
_WRONG_CLASS = re.compile(r"Expected '([^']+)' to be a subclass of <class '(\w+)'>")
_PLAIN_FUNCTION = re.compile(r"Expected '([^']+)' to be a function that returns <class '(?:\w+\.)*Registered(\w+)'>")
_NO_ATTRIBUTE = re.compile(r"((?:module|No module named) .+?)(?:\.? Got value: (\S+)|$)", re.MULTILINE)
_EXPECTED = re.compile(r"Expected an? (<class '[^']+'>|typing\.Literal\[[^\]]*\]|tuple with \d+ elements)")
_NO_CHOICE = re.compile(r"Expected an import path or a subclass spec, but got (.+?)\. Got value")
_OPTION_OF_NOTHING = re.compile(
    r"Dict must include a class_path and optionally init_args, but got NestedArg\(key='(\w+)'"
)
_GIVEN = re.compile(r"(?:Got value|Given value): (.+)")
_IMPORT_CLASS = re.compile(r"does not correspond to a subclass of (\w+)")
# Types as people call them; nothing for one that need not be said.
_TYPES = {
    "<class 'NoneType'>": "",
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'tuple'>": "a list",
    "<class 'list'>": "a list",
    "<class 'dict'>": "names with values",
    "<class 'collections.abc.Sequence'>": "a list",
    "tuple with 2 elements": "a list of 2",
    "tuple with 3 elements": "a list of 3",
}


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
        missing = [name.strip().split(".", 1)[-1] for name in message.removeprefix(REQUIRED).split(",")]
        if not owner:
            return f"--{', --'.join(missing)} is required: give it on the command line or in a --config file"
        return f"{owner} needs {', '.join(missing)}: give it on the command line or in a --config file"
    key = match.group(1) if (match := _KEY.search(message)) else ""
    option = f"{key}{of_owner}" if owner else f"--{key}"
    if match := _OPTION_OF_NOTHING.search(message):
        allowed = ", ".join(_choices(key))
        return f"--{key}.{match.group(1)} is an option of no {key}: choose one with --{key} NAME. Allowed: {allowed}"
    if match := _BAD_PATH.search(message):
        return _unknown_choice(key or message.split(".help:")[0].removeprefix("--"), match.group(1))
    if match := _NO_CHOICE.search(message):
        return _unknown_choice(key, match.group(1))
    if match := _IMPORT_PROBLEM.search(message):
        return f"{option}: cannot import {match.group(1)}: {match.group(2)}"
    if match := _WRONG_CLASS.search(message):
        return _wrong_class(option, *match.groups())
    if match := _PLAIN_FUNCTION.search(message):
        decorator = f"@{match.group(2).upper()}S.register"
        return (
            f"{option}: {match.group(1)} is not registered: write {decorator} above it (from steepest.optim.registry)"
        )
    if match := _IMPORT_CLASS.search(message):
        return f"{option}: {_given(message)} is not a {match.group(1)}"
    if "expects a function or a callable class" in message and (match := _NO_ATTRIBUTE.search(message)):
        return f"{option}: {match.group(1).split(': ')[-1]}"
    if reason := _reason(message):
        return reason
    expected = _expected(message)
    if expected:
        return f"{option}: expected {' or '.join(expected)}, got {_given(message)}"
    return " ".join(_KEY.sub(option, message).split())[:_LONGEST]


def _options(allowed: Sequence[str]) -> list[str]:
    own = ("help", "config", "print_config", "print_shtab")
    return [option for option in allowed if option not in own and ".help" not in option]


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
    kind = kind if kind.removesuffix("s") not in _REGISTRIES else kind.removesuffix("s")
    if kind in _REGISTRIES:
        return _REGISTRIES[kind].unknown(name)
    choices = _choices(kind)
    if key == "option_schedules":
        return f"--{key}: {name!r} must be given under `schedule`, as in '{{weight_decay: {{schedule: {name}}}}}'"
    if not choices:
        return f"--{key}: {name!r} is not an import path, such as package.module.Class"
    return f"{unknown_name(kind.removesuffix('s'), name, choices)[:-1]}, or an import path."


def _wrong_class(option: str, path: str, base: str) -> str:
    base = base.removeprefix("Registered")
    kind = base.lower()
    if kind not in _REGISTRIES or " of " in option:  # "algorithm of external" takes any class of the kind
        return f"{option}: {path} is not {'an' if base[0] in 'AEIO' else 'a'} {base}"
    hint = f"; wrap a class by --optimizer external --optimizer.algorithm {path}" if kind == "optimizer" else ""
    return f"{option}: {path} is not a registered {kind}. Allowed: {', '.join(_choices(kind))}{hint}"


def _choices(kind: str) -> list[str]:
    import steepest.callbacks as callbacks
    import steepest.datamodules as datamodules
    import steepest.lightning_modules as lightning_modules
    from steepest.lightning_modules import networks, objectives

    if kind in _REGISTRIES:
        return _REGISTRIES[kind].names()
    return {
        "model": [name for name in lightning_modules.__all__ if name != "BaseModule"],
        "network": list(networks.__all__),
        "objective": list(objectives.__all__),
        "data": list(datamodules.__all__),
        "callbacks": [*callbacks.__all__, "EarlyStopping"],
    }.get(kind, [])


def _reason(message: str) -> str | None:
    # A value of the right shape that a constructor refused: its own words stand among the types that were tried.
    if NO_TYPE_FITS not in message:
        return None
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        if line.strip().startswith("- ") and not text.startswith(_NO_REASON):
            return text
    return None


def _expected(message: str) -> list[str]:
    """What was expected, without repetition; all choices of a Union in one list."""
    found = list(dict.fromkeys(_EXPECTED.findall(message)))
    choices = [text[len("typing.Literal[") : -1] for text in found if text.startswith("typing.Literal[")]
    types = [_TYPES.get(text, text.strip("<>")) for text in found if not text.startswith("typing.Literal[")]
    names = [name for name in dict.fromkeys(types) if name]
    return [f"one of {', '.join(choices)}", *names] if choices else names


def _given(message: str) -> str:
    match = _GIVEN.search(message)
    return match.group(1)[:80] if match else "another value"
