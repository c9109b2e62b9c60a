"""Options described once: sets that several optimizers share, and how they become the flat options of a factory.

A registered factory takes a set as one parameter, `own: LionOptions`. Who calls it gives the fields by their names,
`lion(model, betas=(0.9, 0.98))`, and the command line and the help show them one by one.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, dataclass_transform, get_type_hints

from steepest.optim.core.roles import ParameterRule
from steepest.optim.core.rounding import Rounding

Parameter = inspect.Parameter

# Texts of a factory with sets whose docstring does not say its own.
ARGUMENTS = {
    "module": "The model; its trainable parameters are optimized.",
    "lr": "Learning rate, at least 0.",
    "weight_decay": "Weight decay of matrices, embeddings and the output layer, at least 0.",
}
ENDINGS = {
    "Returns": "    A `torch.optim.Optimizer`.",
    "Raises": "    ValueError: if an option is out of range or nothing is trainable.",
}
_HEADING = re.compile(r"^(Args|Attributes|Returns|Raises|Examples?|Notes?):\n", re.MULTILINE)
_ENTRY = re.compile(r"^    (?=\w)", re.MULTILINE)


@dataclass_transform(frozen_default=True)
@dataclass(frozen=True)
class Options:
    """A set of options: an immutable dataclass, also without a decorator, whose docstring has all fields as Attributes.

    Lists become tuples, so that groups of equal options are equal however they were written. `vars(options)` are the
    options by name.
    """

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))

    @classmethod
    def parameters(cls, defaults: "Options | None" = None) -> list[Parameter]:
        """The fields as parameters of a function, with the values of `defaults`, or else the class's."""
        values, types = vars(defaults or cls()), get_type_hints(cls)
        return [
            Parameter(field.name, Parameter.KEYWORD_ONLY, default=values[field.name], annotation=types[field.name])
            for field in fields(cls)
        ]

    @classmethod
    def texts(cls) -> dict[str, str]:
        """What the docstrings of the class and its bases say of each field."""
        found: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            found |= entries(sections(base.__doc__).get("Attributes", ""))
        return found


class GroupOptions(Options):
    """What every optimizer takes that reads the roles of parameters off a module.

    Attributes:
        rules: Exceptions for chosen parameters, such as another rate, decay or algorithm (`ParameterRule` in
            optim/core/roles.py); the last that sets something wins.
        layer_decay: Learning-rate factor per layer from the output to the input, in (0, 1]; None for none.
    """

    rules: Sequence[ParameterRule] = ()
    layer_decay: float | None = None


class SharedOptions(GroupOptions):
    """What every `Composite` takes.

    Attributes:
        rounding: How 16-bit parameters take up a step: "nearest", "kahan" or "stochastic" (optim/core/rounding.py).
    """

    rounding: Rounding = "nearest"


ALL_ALIKE = GroupOptions()


def flat(factory: Callable[..., Any]) -> Callable[..., Any]:
    """A factory function whose sets of options are options one by one, with types, defaults and help.

    Args:
        factory: A function; its parameters annotated with a subclass of `Options` are sets. Their defaults are those of
            the class, or of an instance given as the parameter's default.

    Returns:
        The function itself if it has no sets; else one that builds them from the options it is given.

    Raises:
        ValueError: if two options have one name, or one has no help.
    """
    try:
        signature = inspect.signature(factory, eval_str=True)
    except NameError:  # an annotation that only type checkers know
        signature = inspect.signature(factory)
    sets: dict[str, Options] = {}
    parameters: list[Parameter] = []
    texts = dict(ARGUMENTS)
    for name, parameter in signature.parameters.items():
        kind = parameter.annotation
        if not (isinstance(kind, type) and issubclass(kind, Options)):
            parameters.append(parameter)
            continue
        sets[name] = kind() if parameter.default is Parameter.empty else parameter.default
        parameters += kind.parameters(sets[name])
        texts |= kind.texts()
    if not sets:
        return factory

    def flattened(*arguments: Any, **given: Any) -> Any:
        built = {
            name: replace(default, **{option: given.pop(option) for option in vars(default) if option in given})
            for name, default in sets.items()
        }
        return factory(*arguments, **given, **built)

    parameters.sort(key=lambda parameter: parameter.kind)
    flat_signature = signature.replace(parameters=parameters)
    doc = completed(factory, list(flat_signature.parameters), texts)
    return shaped(flattened, factory.__name__, factory.__module__, flat_signature, doc)


def shaped(
    function: Callable[..., Any], name: str, module: str, signature: inspect.Signature, doc: str
) -> Callable[..., Any]:
    """Let a function that takes any arguments look like one with a signature and help; returns it."""
    function.__name__ = function.__qualname__ = name
    function.__module__ = module
    function.__doc__ = doc
    function.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    function.__annotations__ = {key: parameter.annotation for key, parameter in signature.parameters.items()}
    function.__annotations__["return"] = signature.return_annotation
    return function


def completed(factory: Callable[..., Any], options: Sequence[str], texts: Mapping[str, str]) -> str:
    """The docstring of a factory with all options under Args, and with what every optimizer returns and raises.

    Args:
        factory: What its docstring says goes first.
        options: In the order of the help.
        texts: Of the options that the docstring leaves out.

    Raises:
        ValueError: if an option has no text.
    """
    own = sections(factory.__doc__)
    texts = {**texts, **entries(own.pop("Args", ""))}
    for option in options:
        if option not in texts:
            raise ValueError(f"option {option!r} of {factory.__name__} needs a description under Args or Attributes")
    head = own.pop("")
    arguments = "\n".join(f"    {option}: {texts[option]}" for option in options)
    parts = {"Args": arguments, **ENDINGS, **own}
    return "\n\n".join([head, *(f"{heading}:\n{body}" for heading, body in parts.items())])


def sections(doc: str | None) -> dict[str, str]:
    """The parts of a docstring in Google's style by heading; what stands before the first is under ""."""
    head, *parts = _HEADING.split(inspect.cleandoc(doc or ""))
    return {"": head.strip(), **{heading: body.rstrip() for heading, body in zip(parts[::2], parts[1::2], strict=True)}}


def entries(section: str) -> dict[str, str]:
    """The entries of a section by name."""
    split = (entry.rstrip().partition(": ") for entry in _ENTRY.split(section))
    return {name: text for name, separator, text in split if separator}
