"""What follows from the choices of a command and is filled in after parsing."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import steepest.datamodules as datamodules
from steepest.lightning_modules.base import BaseModule
from steepest.parsing.words import is_given

# What a run has unless it chose others; together they cost a few percent (benchmarks/diagnostics_cost.py).
DEFAULT_CALLBACKS = (
    "GradientFlowMonitor",
    "SpectralNormTracker",
    "UpdateDynamics",
    "LearningRateTracker",
    "Checkpoints",
)

# What is chosen at the top level and belongs to the model: the option and the attribute of a BaseModule.
INJECTED = {
    "optimizer": "optimizer_factory",
    "schedule": "schedule_factory",
    "option_schedules": "option_schedules",
    "clipping": "clipping_factory",
}

# What a data set fixes about the network that is trained on it, where the network has such an argument.
DATA_FACTS = ("input_shape", "num_classes", "vocabulary_size", "block_size")

# Of these the network may have more than the data uses: rows of a table that are never looked up.
_LEAST = ("vocabulary_size", "block_size")

# What other libraries' networks (timm, torchvision) call parts of the shape, and their place in it.
SHAPE_PARTS = {"in_chans": 0, "img_size": 1, "image_size": 1}


def complete(options: Any, words: Sequence[str]) -> None:
    """Fill in, in place, the run's name and what the data says about the network.

    Args:
        options: The parsed options of one command.
        words: The command line they came from.

    Raises:
        ValueError: if an option contradicts another or what it would be filled with.
    """
    _check_seed(options.seed_everything)
    options.name = _default_name(options) if options.name is None else options.name
    _check_top_level(options)
    _give_facts_to_network(options, words)
    _keep_last_of_each_callback_of_ours(options)


def facts_of(data_path: str | None, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a data set, named by import path or short name, says about its samples.

    Args:
        data_path: The class of the data set, or None.
        options: Its options. A fact that follows from them is a property of the class; without options its place is
            held by 1.
    """
    if data_path is None:
        return {}
    data_class = _class_at(data_path) if "." in data_path else getattr(datamodules, data_path, None)
    facts = {key: getattr(data_class, key, None) for key in DATA_FACTS}
    if data_class is not None and any(isinstance(fact, property) for fact in facts.values()):
        data = None if options is None else data_class(**options)
        facts |= {
            key: 1 if data is None else getattr(data, key) for key, fact in facts.items() if isinstance(fact, property)
        }
    return {key: fact for key, fact in facts.items() if fact is not None}


def _plain(options: Any) -> dict[str, Any]:
    return options.as_dict() if hasattr(options, "as_dict") else dict(options or {})


def _class_at(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _check_seed(seed: Any) -> None:
    # True has Lightning draw one.
    if not isinstance(seed, bool) and seed is not None and not 0 <= seed < 2**32:
        raise ValueError(f"--seed_everything must lie in [0, {2**32 - 1}], got {seed}")


def _is_ours(options: Any) -> bool:
    model_class = _class_at(options.model.class_path)
    return isinstance(model_class, type) and issubclass(model_class, BaseModule)


def _default_name(options: Any) -> str:
    configs = options.get("config") or []
    return Path(str(configs[0])).stem if configs else options.model.class_path.rsplit(".", 1)[-1]


def _check_top_level(options: Any) -> None:
    if _is_ours(options):
        for key in INJECTED:
            if options.model.init_args.get(key) is not None:
                raise ValueError(
                    f"--model.{key} is not an option: choose with --{key} NAME (`{key}:` at top level in YAML)"
                )
    if options.get("clipping") is not None and options.trainer.get("gradient_clip_val"):
        raise ValueError(
            f"--clipping and --trainer.gradient_clip_val {options.trainer.gradient_clip_val} would clip the gradients "
            "twice: give one of them"
        )


def _give_facts_to_network(options: Any, words: Sequence[str]) -> None:
    network = (options.model.get("init_args") or {}).get("network")
    if options.get("data") is None or network is None or "init_args" not in network:
        return
    foreign = network.class_path.startswith("timm.") or any(key in network.init_args for key in SHAPE_PARTS)
    if not foreign and not any(key in network.init_args for key in DATA_FACTS):
        return  # nor need the data be built, which some facts follow from
    facts = facts_of(options.data.class_path, _plain(options.data.get("init_args")))
    _give_facts_to_foreign_network(network, facts, words)
    for key, fact in facts.items():
        if key not in network.init_args:
            continue
        given = network.init_args[key]
        same = tuple(given) == tuple(fact) if isinstance(given, (list, tuple)) else given == fact
        if not same and is_given(words, ("model", "network", key)):
            if key in _LEAST and given > fact:
                continue
            raise ValueError(
                f"--model.network.{key} {given} does not fit the data: {options.data.class_path.rsplit('.', 1)[-1]} "
                f"has {key} {fact}; leave the option out, it is taken from the data"
            )
        network.init_args[key] = fact


def _give_facts_to_foreign_network(network: Any, facts: dict[str, Any], words: Sequence[str]) -> None:
    shape = facts.get("input_shape")
    parts = {} if shape is None else {key: shape[place] for key, place in SHAPE_PARTS.items()}
    for key in parts:
        if key in network.init_args and not is_given(words, ("model", "network", key)):
            network.init_args[key] = parts[key]
    if network.class_path.startswith("timm."):
        # Its functions hand on what they do not name themselves; these two every network of timm takes.
        handed_on = {"num_classes": facts.get("num_classes"), "in_chans": parts.get("in_chans")}
        wanted = {key: fact for key, fact in handed_on.items() if fact is not None and key not in network.init_args}
        network["dict_kwargs"] = {**wanted, **(network.get("dict_kwargs") or {})}


def _keep_last_of_each_callback_of_ours(options: Any) -> None:
    # So that `--trainer.callbacks+=GradientFlowMonitor --trainer.callbacks.every_n_steps 10` replaces the default one,
    # and a config that is layered on top the one of the config below. Two of them could not keep their states apart.
    callbacks = options.trainer.get("callbacks")
    if not isinstance(callbacks, list):
        return
    kept: list[Any] = []
    for callback in reversed(callbacks):
        path = callback.get("class_path", "")
        if not (path.startswith("steepest.callbacks.") and any(path == other.get("class_path") for other in kept)):
            kept.insert(0, callback)
    options.trainer.callbacks = kept
