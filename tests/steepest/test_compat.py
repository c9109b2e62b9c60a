"""What `steepest/compat.py` relies on: each test fails with a line that says what Lightning or jsonargparse changed."""

import inspect
import re
import signal
from types import SimpleNamespace
from typing import Any

import jsonargparse._actions as actions
import jsonargparse._typehints as typehints
import jsonargparse._util as util
import pytest
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from torch.optim import SGD, Adam, Optimizer

import steepest.parsing.parser as parser_module
from steepest import compat
from steepest.command_line.command_line import CommandLine
from steepest.command_line.trainer import Trainer

SMALL: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
SMALL |= {"enable_checkpointing": False, "enable_model_summary": False}


def check_function(owner: Any, name: str, parameters: list[str], used_by: str) -> None:
    full = f"{getattr(owner, '__module__', '')}.{getattr(owner, '__qualname__', owner.__name__)}.{name}".strip(".")
    found = getattr(owner, name, None)
    assert found is not None, f"{full} is gone: see {used_by}"
    taken = list(inspect.signature(found).parameters)
    assert taken[: len(parameters)] == parameters, f"{full} takes {taken}, not {parameters}: see {used_by}"
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    rest = list(inspect.signature(found).parameters.values())[len(parameters) :]
    needed = [each.name for each in rest if each.default is each.empty and each.kind not in optional]
    assert not needed, f"{full} now needs {needed} too: see {used_by}"


@pytest.mark.parametrize(
    ("owner", "name", "parameters", "used_by"),
    [
        (util, "import_object", ["name"], "compat.replace_lookup"),
        (LightningCLI, "_parse_ckpt_path", ["self"], "CommandLine._parse_ckpt_path"),
        (LightningCLI, "_run_subcommand", ["self", "subcommand"], "CommandLine._run_subcommand"),
        (Trainer.__mro__[1], "_run_stage", ["self"], "Trainer._run_stage"),
        (_SignalConnector, "__init__", ["self", "trainer"], "compat.only_note_sigterm"),
        (_SignalConnector, "_sigterm_notifier_fn", ["self", "signum", "_"], "compat.only_note_sigterm"),
        (compat.ScriptLauncher, "_call_children_scripts", ["self"], "compat.ScriptLauncher"),
        (
            compat.ScriptLauncher,
            "__init__",
            ["self", "cluster_environment", "num_processes", "num_nodes"],
            "compat.ScriptLauncher",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_private_functions_are_there(owner, name, parameters, used_by):
    check_function(owner, name, parameters, used_by)


def test_replaced_functions_take_what_ours_take():
    for name, original in (("class_path_by_name", compat.class_path_by_name), ("import_object", compat.import_object)):
        taken = list(inspect.signature(original).parameters)
        expected = {"class_path_by_name": ["cls", "name"], "import_object": ["name"]}[name]
        assert taken[: len(expected)] == expected, f"jsonargparse's {name} takes {taken}: see compat.replace_lookup"
    for module, name, ours in (
        (typehints, "resolve_class_path_by_name", parser_module._class_path_of_entry),
        (typehints, "import_object", parser_module._entry_at),
        (actions, "import_object", parser_module._entry_at),
    ):
        assert getattr(module, name, None) is ours, f"{module.__name__}.{name} is not ours: see compat.replace_lookup"


def test_lookup_is_asked(monkeypatch):
    asked = []
    for module, name in ((typehints, "resolve_class_path_by_name"), (typehints, "import_object")):
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(actions, "import_object", actions.import_object)

    def class_path(cls: Any, name: str) -> str:
        asked.append(name)
        return "torch.optim.SGD" if name == "plain" else compat.class_path_by_name(cls, name)

    def imported(path: str, *rest: Any, **options: Any) -> Any:
        asked.append(path)
        return compat.import_object(path, *rest, **options)

    compat.replace_lookup(class_path, imported)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Optimizer, "optimizer", skip={"params"})
    value = parser.parse_args(["--optimizer=plain", "--optimizer.lr=0.1"]).optimizer
    assert "plain" in asked, "jsonargparse finds short names in another way: see compat.replace_lookup"
    assert "torch.optim.SGD" in asked, "jsonargparse imports classes in another way: see compat.replace_lookup"
    assert value.class_path == "torch.optim.SGD"


def test_another_class_takes_its_own_defaults():
    check_function(
        typehints,
        "discard_init_args_on_class_path_change",
        ["parser_or_action", "prev_val", "value"],
        "compat.isolated_choices",
    )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Optimizer, "optimizer", skip={"params"})
    words = ["--optimizer=torch.optim.Adam", "--optimizer.lr=0.5", "--optimizer=torch.optim.SGD"]
    kept = parser.parse_args(words).optimizer
    assert kept.class_path == "torch.optim.SGD"
    assert kept.init_args.lr == 0.5, "jsonargparse isolates choices by itself now: delete compat.isolated_choices"
    with compat.isolated_choices():
        isolated = parser.parse_args(words).optimizer
    default = inspect.signature(SGD).parameters["lr"].default
    assert isolated.init_args.lr == default != 0.5, "jsonargparse keeps options elsewhere: see compat.isolated_choices"
    assert parser.parse_args(words).optimizer == kept, "compat.isolated_choices does not end"
    assert inspect.signature(Adam).parameters["lr"].default != 0.5


def test_options_are_listed():
    parser = ArgumentParser()
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seed", type=int)
    names = compat.option_names(parser)
    assert {"rate", "seed"} <= set(names), "argparse lists its options in another way: see compat.option_names"


class Untyped:
    def __init__(self, size, rate: float = 0.1) -> None:
        self.size, self.rate = size, rate


def untyped(size, rate: float = 0.1) -> Untyped:
    return Untyped(size, rate)


def test_untyped_arguments_are_accepted():
    parser = ArgumentParser(exit_on_error=False)
    option = parser.add_argument("--made", type=Untyped)
    assert isinstance(getattr(option, "sub_add_kwargs", None), dict), (
        "options of jsonargparse have no sub_add_kwargs any more: see compat.accept_untyped"
    )
    value = {"class_path": f"{__name__}.Untyped", "init_args": {"size": 3}}
    refuses = ArgumentParser(exit_on_error=False)
    refuses.add_argument("--made", type=Untyped)
    with pytest.raises(Exception, match="type"):
        refuses.parse_object({"made": value})
    compat.accept_untyped(option)
    made = parser.instantiate(parser.parse_object(Namespace(made=value))).made
    assert made.size == 3, "jsonargparse refuses arguments without annotation: see compat.accept_untyped"


def test_launchers_are_told_apart():
    for strategy, repeats, forks in (("ddp", True, False), ("ddp_spawn", False, True)):
        trainer = Trainer(strategy=strategy, devices=2, **SMALL)
        assert isinstance(trainer.strategy, DDPStrategy)
        assert compat.repeats_command(trainer) is repeats, f"Lightning launches {strategy} otherwise: see compat"
        assert compat.forks(trainer) is forks, f"Lightning launches {strategy} otherwise: see compat"
    alone = Trainer(devices=1, **SMALL)
    assert isinstance(alone.strategy, SingleDeviceStrategy)
    assert not compat.repeats_command(alone)
    assert not compat.forks(alone)


def test_launcher_is_replaced():
    trainer = Trainer(strategy="ddp", devices=2, **SMALL)
    theirs: Any = trainer.strategy.launcher
    ours = compat.ScriptLauncher(theirs.cluster_environment, theirs.num_processes, theirs.num_nodes)
    compat.replace_launcher(trainer, ours)
    assert trainer.strategy.launcher is ours, "strategies keep their launcher elsewhere: see compat.replace_launcher"


def test_ranks_are_started(monkeypatch):
    started = []
    monkeypatch.setattr(subprocess_script.subprocess, "Popen", lambda *_, **options: started.append(options) or started)
    trainer = Trainer(strategy="ddp", devices=3, **SMALL)
    theirs: Any = trainer.strategy.launcher
    launcher = compat.ScriptLauncher(theirs.cluster_environment, 3, 1)
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")  # given back at the end
    launcher.start_ranks()
    assert [options["env"]["LOCAL_RANK"] for options in started] == ["1", "2"], (
        "Lightning's launcher starts ranks in another way: see compat.ScriptLauncher"
    )
    assert len(launcher.procs) == 2, "Lightning's launcher keeps its processes elsewhere: see compat.ScriptLauncher"


@pytest.mark.parametrize("noted", [True, False])
def test_sigterm_is_only_noted(monkeypatch, noted):
    trainer = Trainer(devices=1, **SMALL)
    compat.only_note_sigterm(trainer, is_noted=lambda: noted)
    told = SimpleNamespace(kill=lambda _: pytest.fail("the signal was handed on"))
    monkeypatch.setattr(trainer.strategy, "_launcher", told)
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers()
    try:
        signal.raise_signal(signal.SIGTERM)
        assert trainer.received_sigterm is noted, "the Trainer notes SIGTERM elsewhere: see compat.only_note_sigterm"
    finally:
        connector.teardown()


def private_overrides(cls: type) -> set[str]:
    """Private names that a class of ours shares with classes of Lightning or jsonargparse that it is made from."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("steepest.")]
    theirs = [base for base in cls.__mro__ if base.__module__.partition(".")[0] in ("lightning", "jsonargparse")]
    names = {name for base in ours for name in vars(base) if re.match(r"_[a-z]", name)}
    return {name for name in names for base in theirs if name in vars(base)} - {"_abc_impl", "_version"}


def test_private_methods_that_are_overridden_are_in_the_table():
    import steepest.callbacks as callbacks
    import steepest.datamodules as datamodules
    import steepest.lightning_modules as lightning_modules
    from steepest.run.ranks import RankLauncher
    from steepest.run.record import RunRecord

    parts = (callbacks, datamodules, lightning_modules)
    classes = [getattr(part, name) for part in parts for name in part.__all__]
    classes += [CommandLine, Trainer, RankLauncher, RunRecord, parser_module.Parser]
    found = {(cls.__name__, name) for cls in classes for name in private_overrides(cls)}
    table = re.findall(r"^\| `(\w+)` \| `\w+\.(\w+)` \|", compat.__doc__ or "", re.MULTILINE)
    assert found == set(table), "see the table in compat: a class overrides, perhaps by accident, what Lightning has"
