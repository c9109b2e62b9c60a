"""Names as people write them on the command line: aliases, spellings, families, their own files, plug-ins."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from steepest.optim import registry as registry_module
from steepest.optim.registry import OPTIMIZERS

OWN = '''
import torch
from torch import nn

from steepest.optim.registry import OPTIMIZERS


@OPTIMIZERS.register(aliases=("signum_of_a_test",), override=True)
def sign_of_a_test(module: nn.Module, lr: float = 0.01, flavor: str = "plain") -> torch.optim.Optimizer:
    """Signs of gradients.

    Args:
        module: The model.
        lr: Learning rate.
        flavor: Any.
    """
    return torch.optim.SGD(module.parameters(), lr=lr)


def plain(module: nn.Module, lr: float = 0.01) -> torch.optim.Optimizer:
    """Not registered."""
    return torch.optim.SGD(module.parameters(), lr=lr)
'''


@pytest.fixture
def fit(steepest, tiny):
    """Run one step; return the outcome and the optimizer of its config."""

    def run(*words: str, config: str = tiny) -> tuple[Any, dict[str, Any]]:
        outcome = steepest("fit", "--config", config, "--trainer.max_steps", "1", "--trainer.logger", "false", *words)
        configs = sorted(Path("runs/tiny").glob("*/config.yaml"), key=lambda path: path.stat().st_mtime_ns)
        return outcome, yaml.safe_load(configs[-1].read_text())["optimizer"] if configs else {}

    return run


@pytest.fixture
def own_file(tmp_path):
    """A user's file in the folder of the run; what it registers is forgotten afterwards."""
    (tmp_path / "own_optimizers.py").write_text(OWN)
    entries, names = dict(OPTIMIZERS._entries), dict(OPTIMIZERS._names)
    yield
    OPTIMIZERS._entries, OPTIMIZERS._names = entries, names


@pytest.mark.parametrize(
    ("written", "meant"),
    [("heavy_ball", "momentum"), ("AdamW", "adamw"), ("reference-heavy-ball", "reference_momentum")],
)
def test_aliases_and_spellings(fit, written, meant):
    outcome, used = fit("--optimizer", written, "--optimizer.lr", "0.02")
    assert outcome.code == 0, outcome.err
    assert used["class_path"].endswith(f".{meant}")
    assert used["init_args"]["lr"] == 0.02


def test_another_spelling_of_the_same_name_keeps_its_options(fit):
    _, used = fit("--optimizer", "adamw", "--optimizer.lr", "0.5", "--optimizer", "ADAM-W", "--optimizer.eps", "1e-6")
    assert (used["init_args"]["lr"], used["init_args"]["eps"]) == (0.5, 1e-6)


def test_an_alias_in_yaml(fit, tmp_path):
    (tmp_path / "other.yaml").write_text("optimizer: {class_path: HeavyBall, init_args: {momentum: 0.8}}\n")
    outcome, used = fit("--config", "other.yaml")
    assert outcome.code == 0, outcome.err
    assert used["init_args"]["momentum"] == 0.8


def test_schedules_and_help_know_other_spellings(steepest, fit):
    outcome, _ = fit("--schedule", "Warmup-Cosine")
    assert outcome.code == 0, outcome.err
    assert "--optimizer.momentum" in steepest("fit", "--optimizer.help", "heavy-ball").out


@pytest.mark.usefixtures("own_file")
def test_a_users_function_by_import_path_and_from_its_config(fit, steepest):
    outcome, used = fit("--optimizer", "own_optimizers.sign_of_a_test", "--optimizer.flavor", "sweet")
    assert outcome.code == 0, outcome.err
    assert used == {"class_path": "own_optimizers.sign_of_a_test", "init_args": {"lr": 0.01, "flavor": "sweet"}}

    # A later process knows nothing of the file but what the config says.
    del sys.modules["own_optimizers"]
    OPTIMIZERS._entries.pop("sign_of_a_test")
    outcome, again = fit("--optimizer.lr", "0.5", config="runs/tiny/version_0/config.yaml")
    assert outcome.code == 0, outcome.err
    assert again["init_args"] == {"lr": 0.5, "flavor": "sweet"}
    assert fit("--optimizer", "Signum-of-a-test")[1] == {**used, "init_args": {"lr": 0.01, "flavor": "plain"}}
    assert "--optimizer.flavor" in steepest("fit", "--optimizer.help", "own_optimizers.sign_of_a_test").out


@pytest.mark.usefixtures("own_file")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["own_optimizers.plain"], "own_optimizers.plain is not registered: write @OPTIMIZERS.register above it"),
        (["own_optimizers.absent"], "module 'own_optimizers' has no attribute 'absent'"),
        (["own_optimizers.sign_of_a_test", "--optimizer.flavr", "x"], "'flavr'. Did you mean 'flavor'?"),
    ],
)
def test_mistakes_with_a_users_file_take_one_line(fit, words, message):
    outcome, _ = fit("--optimizer", *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


def test_a_member_of_a_family_with_typed_options(fit):
    pytest.importorskip("pytorch_optimizer", reason="needs the extra zoo")
    outcome, used = fit("--optimizer", "Zoo-Lion", "--optimizer.betas", "[0.9, 0.98]")
    assert outcome.code == 0, outcome.err
    assert used["class_path"] == "steepest.optim.registry.zoo_lion"
    assert used["init_args"]["betas"] == [0.9, 0.98]
    outcome, again = fit("--optimizer.lr", "0.3", config="runs/tiny/version_0/config.yaml")
    assert outcome.code == 0, outcome.err
    assert (again["init_args"]["lr"], again["init_args"]["betas"]) == (0.3, [0.9, 0.98])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["zoo_lion", "--optimizer.btas", "[0.9, 0.98]"], "'btas'. Did you mean 'betas'?"),
        (["zoo_lion", "--optimizer.maximize", "3"], "maximize of zoo_lion: expected true or false, got 3"),
        (["zoo_lion", "--optimizer.lr", "-1"], "lr must be a finite number in [0, inf), not -1.0"),
        (["zoo_lomo"], "'zoo_lomo' is not supported: it updates during the backward pass"),
        (["soap"], "unknown optimizer 'soap'. Did you mean 'zoo_soap'?"),
    ],
)
def test_mistakes_with_a_family_take_one_line(fit, words, message):
    pytest.importorskip("pytorch_optimizer", reason="needs the extra zoo")
    outcome, _ = fit("--optimizer", *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


@pytest.mark.parametrize("form", ["zoo_lion", "steepest.optim.registry.zoo_lion"])
def test_a_missing_extra_is_named_before_the_run(fit, monkeypatch, form):
    monkeypatch.setitem(registry_module.is_installed.__globals__["EXTRAS"], "zoo", "no_such_package")
    outcome, _ = fit("--optimizer", form)
    assert outcome.code == 2
    assert outcome.err == "steepest: error: optimizer 'zoo_lion' needs the extra zoo: pip install 'steepest[zoo]'\n"


@pytest.mark.usefixtures("own_file")
def test_a_plug_in_of_an_installed_package(fit, tmp_path, monkeypatch):
    # What pip leaves behind for a package that declares two entry points, one of them broken.
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[steepest.optimizers]\nbad = no_such_module:f\ngood = own_optimizers:sign_of_a_test\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(OPTIMIZERS, "_plug_ins_loaded", False)
    with pytest.warns(UserWarning, match=r"\Aplug-in 'bad' of acme cannot be loaded: ModuleNotFoundError: No module"):
        outcome, used = fit("--optimizer", "sign_of_a_test")
    assert outcome.code == 0, outcome.err
    assert used["class_path"] == "own_optimizers.sign_of_a_test"
