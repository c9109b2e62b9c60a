"""The rules of the architecture, read off the sources, and every config that is shipped."""

import ast
import gzip
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.datamodules.byte_pairs import write_vocabulary

REPOSITORY = Path(__file__).resolve().parent.parent

# What each folder may import of ours. Imports point down; nothing points back.
ALLOWED = {
    "optim": set(),
    "diagnostics": set(),
    "datamodules": set(),
    "lightning_modules/networks": set(),
    "lightning_modules/objectives": set(),
    "lightning_modules": {"optim"},
    "callbacks": {"diagnostics"},
    "steepest": {"callbacks", "datamodules", "diagnostics", "lightning_modules", "optim"},
}
OURS = {folder.partition("/")[0] for folder in ALLOWED}
TRAINER_FREE = ("optim", "diagnostics", "lightning_modules/networks", "lightning_modules/objectives")
PARSERS = {"argparse", "jsonargparse", "click", "lightning.pytorch.cli"}


def folder_of(path: Path) -> str:
    folder = path.relative_to(REPOSITORY).parent.as_posix()
    return folder if folder in ALLOWED else folder.partition("/")[0]


SOURCES = sorted(path for package in OURS for path in (REPOSITORY / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Full names of all that a file imports, also inside functions: "optim.registry.OPTIMIZERS"."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute, so that they name the folder"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def identifiers(path: Path) -> set[str]:
    """Names and attributes that a file's code uses, without comments and docstrings."""
    tree = ast.parse(path.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return names | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def short(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def test_sources_are_found():
    assert {folder_of(path) for path in SOURCES} == set(ALLOWED)
    assert len(SOURCES) > 40


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_imports_point_down(path):
    own = folder_of(path)
    for name in imports(path):
        package = name.partition(".")[0]
        if package not in OURS:
            continue
        inside = is_below(name, own.replace("/", ".")) or (own == "lightning_modules" and package == own)
        assert inside or package in ALLOWED[own], f"{own} must not import {name}"


@pytest.mark.parametrize("path", [path for path in SOURCES if folder_of(path) in TRAINER_FREE], ids=short)
def test_pure_code_knows_no_lightning(path):
    assert not {name for name in imports(path) if "lightning" in name.partition(".")[0] and "modules" not in name}


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_only_the_application_parses_arguments(path):
    parsing = {name for name in imports(path) for parser in PARSERS if is_below(name, parser)}
    if folder_of(path) != "steepest":
        # The registry turns functions into classes that a parser understands; it parses nothing.
        assert parsing <= {"jsonargparse.typing.class_from_function"}
        assert not {"argv"} & identifiers(path)


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if folder_of(path) not in ("steepest", "callbacks")], ids=short
)
def test_only_callbacks_and_the_application_name_the_trainer(path):
    assert "Trainer" not in identifiers(path)


def test_no_circles():
    modules = {short(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in SOURCES}

    def targets(module: str) -> set[str]:
        tree = ast.parse(modules[module].read_text())
        found = set()
        # At the top of the file only: what a function imports when it runs cannot close a circle at import time.
        for node in tree.body:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
                found.add(str(node.module))
        return {name for name in found if name in modules and name != module}

    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for target in targets(module):
                visit(target, (*path, module))
            done.add(module)

    for module in modules:
        visit(module, ())


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 330


CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))


@pytest.fixture
def small_mnist(tmp_path) -> Path:
    """The four files of MNIST with 300 images each: enough for a batch of every config."""
    folder = tmp_path / "small"
    folder.mkdir()
    count = 300
    for part in ("train", "t10k"):
        size = count.to_bytes(4, "big")
        images = b"\0\0\x08\x03" + size + 2 * (28).to_bytes(4, "big") + bytes(i % 251 for i in range(count * 784))
        labels = b"\0\0\x08\x01" + size + bytes(i % 10 for i in range(count))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, 1))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels, 1))
    return folder


@pytest.fixture
def small_cifar(tmp_path) -> Path:
    """CIFAR-10's batches as torchvision unpacks them, with 300 training and 60 test images."""
    folder = tmp_path / "small/cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        pixels = np.arange(60 * 3072).reshape(60, 3072) % 251
        content = {b"labels": [i % 10 for i in range(60)], b"data": pixels.astype(np.uint8)}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return tmp_path / "small"


@pytest.fixture
def small_text(tmp_path, monkeypatch) -> Path:
    """Texts of 20,000 characters under the names of all text data sets, and a vocabulary of GPT-2's size."""
    text = "".join(chr(97 + (7 * i * i + i // 5) % 26) + " " * (i % 5 == 0) for i in range(20_000))
    for name in ("input.txt", "train.txt", "validation.txt", "test.txt"):
        (tmp_path / name).write_text(text)
    write_vocabulary(tmp_path, monkeypatch)
    return tmp_path


def test_configs_are_found():
    assert REPOSITORY / "configs/digits_mlp.yaml" in CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=short)
def test_every_config_trains_for_a_step(steepest, request, path):
    words = ["fit", "--config", path, "--trainer.fast_dev_run", "true", "--trainer.enable_model_summary", "false"]
    for data, fixture in (("MNIST", "small_mnist"), ("CIFAR10", "small_cifar")):
        if data in path.read_text():
            words += ["--data.data_dir", request.getfixturevalue(fixture), "--data.validation_size", "20"]
    if "CIFAR10" in path.read_text():  # networks that take seconds for a whole batch
        words += ["--data.batch_size", "16", "--data.evaluation_batch_size", "16"]
    if "LanguageModel" in path.read_text():
        words += ["--data.batch_size", "2", "--model.network.width", "24"]  # a step of the real sizes takes minutes
    for data in ("Shakespeare", "WikiText"):
        if data in path.read_text():
            words += ["--data.data_dir", request.getfixturevalue("small_text")]
    if "WikiText" in path.read_text():
        words += ["--data.encoding_dir", request.getfixturevalue("small_text")]
    outcome = steepest(*words)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    # Every config ends with what its task is about: the test split, the validation split of data without one, or the
    # known minimum.
    without_test = {"Shakespeare": "validation loss", "ToyObjective": "gap to the minimum"}
    expected = next((shown for name, shown in without_test.items() if name in path.read_text()), "test loss")
    assert expected in outcome.out


LAYERS = sorted(
    path for folder in ("callbacks", "presets") for path in (REPOSITORY / "configs" / folder).glob("*.yaml")
)


@pytest.mark.parametrize("path", LAYERS, ids=short)
def test_every_layer_goes_on_top_of_a_config(steepest, path):
    limits = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
    if "strategy" in path.read_text():
        # In a process of its own: gloo leaves a thread behind, and processes forked later, without it, wait for ever.
        words = ["fit", "--config", REPOSITORY / "configs/digits_mlp.yaml", "--config", path, *limits]
        command = [sys.executable, "-m", "steepest", *map(str, words), "--trainer.devices", "1"]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        assert subprocess.run(command, env=environment, capture_output=True, timeout=200).returncode == 0
        return
    outcome = steepest("fit", "--config", REPOSITORY / "configs/digits_mlp.yaml", "--config", path, *limits)
    assert outcome.code == 0, outcome.err
