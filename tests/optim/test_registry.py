"""The registry: names, aliases, strict options, extras, families and plug-ins."""

import importlib.metadata
import subprocess
import sys

import pytest
import torch
from torch import nn

from steepest.optim import OPTIMIZERS, SCHEDULES
from steepest.optim.libraries import families
from steepest.optim.libraries.families import require
from steepest.optim.registry import RegisteredOptimizer, Registry


def own(module: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    """An optimizer of a test.

    Args:
        module: The model.
        lr: Learning rate.
    """
    return torch.optim.SGD(module.parameters(), lr=lr)


@pytest.fixture
def registry() -> Registry:
    return Registry("optimizer", RegisteredOptimizer, ("module",))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("adamw", "adamw"),
        ("AdamW", "adamw"),
        ("ADAM-W", "adamw"),
        ("heavy_ball", "momentum"),
        ("HeavyBall", "momentum"),
        ("sgdm", "momentum"),
        ("nag", "nesterov"),
        ("reference-heavy-ball", "reference_momentum"),
        ("muonsgd", "muon_sgd"),
        ("adamx", None),
    ],
)
def test_names_aliases_and_spellings(name: str, meant: str | None) -> None:
    assert OPTIMIZERS.find(name) == meant
    assert (name in OPTIMIZERS) is (meant is not None)


def test_an_unknown_name_says_the_nearest_and_all() -> None:
    with pytest.raises(
        ValueError, match=r"\Aunknown optimizer 'adamww'\. Did you mean 'adamw'\? Allowed: adam, adamw, "
    ):
        OPTIMIZERS.create("adamww", nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"unknown schedule 'cosine_warmup'\."):
        SCHEDULES["cosine_warmup"]


@pytest.mark.parametrize("name", ["adamw", "muon", "reference_adam", "autosgm", "lion", "zoo_lion", "timm_lamb"])
def test_an_unknown_option_is_refused_with_the_nearest(name: str) -> None:
    if name.startswith(("zoo", "timm")):
        pytest.importorskip({"zoo": "pytorch_optimizer", "timm": "timm"}[name.split("_")[0]], reason="needs the extra")
    with pytest.raises(
        ValueError, match=rf"unknown option of optimizer {name} 'weight_decy'\. Did you mean 'weight_dec"
    ):
        OPTIMIZERS.create(name, nn.Linear(2, 2), weight_decy=0.1)


def test_registering_in_one_line_and_twice(registry: Registry) -> None:
    assert registry.register(own) is own
    assert registry.create("OWN", nn.Linear(2, 2), lr=0.5).defaults["lr"] == 0.5

    def other(module: nn.Module) -> torch.optim.Optimizer:
        """Another one."""
        raise NotImplementedError

    other.__name__ = "own"
    with pytest.raises(ValueError, match=r"optimizer 'own' is registered already, by .*; choose another name or say"):
        registry.register(other)
    registry.register(override=True)(other)
    assert registry["own"] is other


def test_a_name_without_help_is_refused(registry: Registry) -> None:
    with pytest.raises(ValueError, match=r"optimizer '<lambda>' needs a docstring: it is the help text"):
        registry.register(lambda module: None)


def test_a_missing_extra_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for extra in families.EXTRAS:
        monkeypatch.setitem(families.EXTRAS, extra, "no_such_package")
    for name, extra in [("zoo_lion", "zoo"), ("timm_lamb", "timm"), ("schedule_free_sgd", "schedule_free")]:
        message = rf"\Aoptimizer '{name}' needs the extra {extra}: pip install 'steepest\[{extra}\]'\Z"
        with pytest.raises(ValueError, match=message):
            OPTIMIZERS.create(name, nn.Linear(2, 2))
    with pytest.raises(ValueError, match="unknown extra 'zo'"):
        require("zo", "something")


def test_nothing_optional_is_imported_at_import() -> None:
    packages = ("timm", "pytorch_optimizer", "schedulefree")
    code = f"import sys, steepest.optim; print([m for m in {packages} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


class Point:
    """An entry point of an installed package."""

    dist = None

    def __init__(self, name: str, loaded: object) -> None:
        self.name = name
        self.loaded = loaded

    def load(self) -> object:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


def test_plug_ins_are_loaded_late_and_a_broken_one_stops_nobody(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [Point("broken", ImportError("no module\nnamed x")), Point("own", own)]
    monkeypatch.setattr(
        "steepest.optim.registry.entry_points", lambda group: points if group == "steepest.optimizers" else []
    )
    with pytest.warns(UserWarning, match=r"\Aplug-in 'broken' cannot be loaded: ImportError: no module named x\Z"):
        assert registry.names() == ["own"]
    assert registry["own"] is own
    assert importlib.metadata  # the real function is not touched


def test_a_family_is_named_by_prefix() -> None:
    pytest.importorskip("pytorch_optimizer", reason="needs the extra zoo")
    with pytest.raises(ValueError, match=r"optimizer 'zoo' is a family: choose zoo_NAME, see `steepest list"):
        OPTIMIZERS.create("zoo", nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"unknown optimizer 'soap'\. Did you mean 'zoo_soap'\?"):
        OPTIMIZERS.create("soap", nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"optimizer 'zoo_lomo' is not supported: it updates during the backward pass"):
        OPTIMIZERS.create("zoo_lomo", nn.Linear(2, 2))
