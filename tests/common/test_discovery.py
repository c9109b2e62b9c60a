"""What a folder offers by name."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

FILES = {
    "__init__.py": """
from {name}.kinds import Kind
from steepest.common.discovery import offer_classes

offer_classes("{name}", Kind, globals())
""",
    "kinds.py": """
from abc import ABC, abstractmethod

class Kind(ABC):
    @abstractmethod
    def work(self): ...
""",
    "plain.py": """
from {name}.kinds import Kind

class Plain(Kind):
    def work(self): ...

class _Part(Plain): ...
class Other: ...
number = 3
""",
    "named.py": """
from {name}.plain import Plain

__all__ = ["Named"]

class Part(Plain): ...
class Named(Plain): ...
""",
    "none.py": """
from {name}.plain import Plain

__all__ = []

class Base(Plain): ...
""",
}


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """A function that imports a package of these files and others."""
    name = f"room_{abs(hash(request.node.name))}"

    def make(**others: str):
        (tmp_path / name).mkdir()
        for file, content in {**FILES, **{f"{module}.py": text for module, text in others.items()}}.items():
            (tmp_path / name / file).write_text(content.format(name=name))
        monkeypatch.syspath_prepend(tmp_path)
        return importlib.import_module(name)

    yield make
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def test_public_concrete_classes_and_those_that_a_module_names_are_offered(package):
    room = package()
    assert room.__all__ == ["Named", "Plain"]
    assert room.Named is sys.modules[f"{room.__name__}.named"].Named
    for hidden in ("_Part", "Part", "Base", "Other", "number"):
        assert not hasattr(room, hidden)


def test_a_new_file_is_enough(package):
    room = package(mine="from {name}.plain import Plain\nclass Mine(Plain): ...\n")
    assert room.__all__ == ["Mine", "Named", "Plain"]


def test_two_classes_of_one_name_are_refused_with_both_places(package):
    with pytest.raises(ValueError, match=r"\APlain is in room_\d+\.mine and in room_\d+\.plain: rename one of them\Z"):
        package(mine="from {name}.kinds import Kind\nclass Plain(Kind):\n    def work(self): ...\n")


def test_a_folder_of_the_checkout_has_the_same_classes_by_its_bare_name():
    """As configs from before name them; in a process of its own, which keeps nothing of it."""
    program = """
import datamodules, callbacks, optim, steepest.datamodules, steepest.callbacks, steepest.optim
assert datamodules.Digits is steepest.datamodules.Digits and datamodules.__all__ == steepest.datamodules.__all__
assert callbacks.Checkpoints is steepest.callbacks.Checkpoints
assert optim.OPTIMIZERS is steepest.optim.OPTIMIZERS
"""
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)
