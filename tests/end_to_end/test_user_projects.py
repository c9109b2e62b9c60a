"""Projects of users, in processes of their own: from a checkout, and from the wheel that pip installs."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# Folders and files with the names of our own parts, as people have them.
PROJECT = {
    "optim.py": """\
import torch

class MyOptimizer(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.1):
        super().__init__(params, lr=lr)
""",
    "diagnostics.py": "def my_norm(x): return x.norm()\n",
    "callbacks/my_callback.py": """\
from lightning import Callback

class Hello(Callback):
    def on_train_start(self, trainer, pl_module):
        print("hello from", type(pl_module).__name__, "with", type(trainer.optimizers[0]).__module__)
""",
    "datamodules/blobs.py": """\
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

class Blobs(LightningDataModule):
    def __init__(self, batch_size: int = 32):
        super().__init__()
        self.data = TensorDataset(torch.randn(64, 8), torch.randint(0, 3, (64,)))
        self.batch_size = batch_size

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=self.batch_size)
""",
    "models/classifier.py": """\
import torch
from diagnostics import my_norm
from lightning import LightningModule
from torch.nn import functional

class Classifier(LightningModule):
    def __init__(self, width: int = 16):
        super().__init__()
        self.net = torch.nn.Linear(8, 3)

    def training_step(self, batch, index):
        my_norm(batch[0])
        return functional.cross_entropy(self.net(batch[0]), batch[1])
""",
    "train.py": """\
from callbacks.my_callback import Hello
from optim import MyOptimizer

import steepest
from steepest.callbacks import Checkpoints
from steepest.optim import OPTIMIZERS

print(Hello.__module__, MyOptimizer.__module__, "adamw" in OPTIMIZERS, Checkpoints.__module__)
print(steepest.__file__)
""",
}
OWN_CLASSES = [
    *("--model", "models.classifier.Classifier", "--data", "datamodules.blobs.Blobs"),
    *("--optimizer", "external", "--optimizer.algorithm", "optim.MyOptimizer"),
    *("--trainer.callbacks", "null", "--trainer.callbacks+=callbacks.my_callback.Hello"),
    *("--trainer.max_steps", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]


def write_project(folder: Path, with_init: bool) -> Path:
    for name, text in PROJECT.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if with_init and path.parent != folder:
            (path.parent / "__init__.py").touch()
    return folder


def copy_sources(folder: Path) -> Path:
    """The files of the repository, without what was built from them."""
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "runs", "data", "docs", "tests")
    return Path(shutil.copytree(REPOSITORY, folder, ignore=ignored))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds what `pip install` puts into site-packages."""
    if find_spec("setuptools") is None:
        pytest.skip("building a wheel without a download needs setuptools>=77 in this environment")
    sources, built = copy_sources(tmp_path_factory.mktemp("wheel") / "sources"), tmp_path_factory.mktemp("built")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", built, sources], check=True)
    (file,) = built.glob("steepest-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", built / "installed", file], check=True)
    return built / "installed"


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `steepest` is found as an editable install has it: the name alone, not all of the checkout."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "steepest").symlink_to(REPOSITORY / "steepest")
    return folder


@pytest.fixture(params=["checkout", pytest.param("wheel", marks=pytest.mark.slow)])
def installed(request: pytest.FixtureRequest) -> Path:
    """Where `steepest` is imported from."""
    return request.getfixturevalue(request.param)


def python(installed: Path, folder: Path, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, *map(str, words)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == code, result.stdout + result.stderr
    return result


# With -P the working folder is not on the path, as in the console script: classes in it are found all the same.
@pytest.mark.parametrize(("with_init", "flags"), [(True, ["-m"]), (False, ["-P", "-m"])], ids=["packages", "folders"])
def test_users_classes_have_the_names_of_our_folders(tmp_path, installed, with_init, flags):
    folder = write_project(tmp_path, with_init)
    out = python(installed, folder, *flags, "steepest", "fit", *OWN_CLASSES).stdout
    assert "hello from Classifier with optim" in out


def test_a_users_script_imports_its_own_parts_and_ours(tmp_path, installed):
    lines = python(installed, write_project(tmp_path, with_init=False), "train.py").stdout.splitlines()
    assert lines[0] == "callbacks.my_callback optim True steepest.callbacks.checkpoints"
    assert Path(lines[1]).parent.parent == installed


def test_a_folder_called_optim_hides_nothing(tmp_path, installed):
    for name in ("optim", "callbacks", "configs"):
        (tmp_path / name).mkdir()
    assert "adamw" in python(installed, tmp_path, "-m", "steepest", "list", "optimizers", "adamw").stdout


def test_a_class_that_the_users_own_package_lacks(tmp_path, installed):
    (tmp_path / "callbacks.py").write_text("")
    words = ["fit", "--config", "digits_mlp", "--trainer.callbacks+=callbacks.GradientFlowMonitor"]
    err = python(installed, tmp_path, "-m", "steepest", *words, code=2).stderr
    assert len(err.splitlines()) == 1
    assert str(tmp_path / "callbacks.py") in err
    assert "Steepest's own is steepest.callbacks.GradientFlowMonitor" in err


def test_a_clone_takes_its_own_code(tmp_path):
    # Another checkout is installed; what counts is the one that the command runs in.
    clone = copy_sources(tmp_path / "clone")
    parts = ("optim", "callbacks", "diagnostics", "datamodules", "lightning_modules", "common", "cli")
    code = f"import importlib, steepest\nfor part in {parts}:\n"
    code += "    print(importlib.import_module(f'steepest.{part}').__file__)\n"
    code += "from steepest.shipped import find\nprint(find('digits_mlp'))"
    files = python(tmp_path / "nowhere", clone, "-c", code).stdout.split()
    assert len(files) == len(parts) + 1
    assert all(Path(file).is_relative_to(clone) for file in files)
    assert "adamw" in python(tmp_path / "nowhere", clone, "-m", "steepest", "list", "optimizers", "adamw").stdout


@pytest.mark.slow
def test_the_wheel_holds_all_code_and_configs(wheel):
    for part in ("callbacks", "common", "configs", "datamodules", "diagnostics", "lightning_modules", "optim"):
        for path in (REPOSITORY / part).rglob("*.*"):
            if path.suffix in (".py", ".yaml"):
                assert (wheel / "steepest" / path.relative_to(REPOSITORY)).is_file(), path
    for path in (REPOSITORY / "steepest").rglob("*.*"):
        if path.suffix in (".py", ".html", ".typed"):
            assert (wheel / path.relative_to(REPOSITORY)).is_file(), path
    assert len(list(wheel.glob("steepest-*.dist-info/licenses/LICENSE"))) == 1
    assert {path.name for path in wheel.iterdir() if path.suffix != ".dist-info"} <= {"steepest", "bin"}


@pytest.mark.slow
def test_shipped_files_of_the_wheel_by_name(tmp_path, wheel):
    out = python(wheel, tmp_path, "-m", "steepest", "list", "configs", "*debug*").stdout
    assert "presets/debug" in out
    layers = ["--config", "digits_mlp", "--config=presets/debug.yaml", "--trainer.max_epochs", "1"]
    python(wheel, tmp_path, "-m", "steepest", "fit", *layers)
    out = python(wheel, tmp_path, "-m", "steepest", "study", "run", "optimizer_comparison", "--dry_run").stdout
    assert "installed/steepest/configs/digits_mlp.yaml" in out
