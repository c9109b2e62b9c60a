"""People's own classes by import path, from a file in the folder they work in."""

import json
from pathlib import Path

import pytest
import torch
import yaml

MINE = '''\
import torch
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.optim.sgd import SGD
from torch.utils.data import DataLoader, TensorDataset


class Network(nn.Sequential):
    """Requires what the data fixes, and one thing more."""

    def __init__(self, num_classes: int, input_shape: tuple[int, int, int], width: int = 6) -> None:
        size = input_shape[0] * input_shape[1] * input_shape[2]
        super().__init__(nn.Flatten(), nn.Linear(size, width), nn.ReLU(), nn.Linear(width, num_classes))


class Plain(LightningModule):
    """Has no optimizer of its own."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10))

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))


class WithOwn(Plain):
    """Configures its own optimizer, and has arguments of the same names as our options."""

    def __init__(self, optimizer: str = "sgd", schedule: float = 0.5) -> None:
        super().__init__()
        self.rate = schedule if optimizer == "sgd" else 0.125

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class Data(LightningDataModule):
    """Knows nothing of our base class."""

    num_classes = 3

    def __init__(self, size: int = 32, shape: tuple[int, int, int] = (1, 8, 8)) -> None:
        super().__init__()
        self.size = size
        self.shape = shape

    def loader(self):
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.size, *self.shape, generator=generator)
        return DataLoader(TensorDataset(images, images[:, 0, 0, :3].argmax(1)), batch_size=16)

    train_dataloader = val_dataloader = loader


class Untyped(SGD):
    """An optimizer as people write them, without types."""

    def __init__(self, params, lr=0.25, extra=1.0):
        super().__init__(params, lr=lr * extra)


class Counter(Callback):
    def __init__(self, path: str) -> None:
        self.path = path
        self.steps = 0

    def on_train_batch_end(self, *arguments) -> None:
        self.steps += 1

    def on_train_end(self, *arguments) -> None:
        with open(self.path, "w") as file:
            file.write(str(self.steps))
'''


@pytest.fixture
def fit(steepest, tiny, tmp_path):
    """Run the tiny fit with further words; return standard output and the folder of the run."""
    (tmp_path / "mine.py").write_text(MINE)

    def run(*words: str):
        outcome = steepest("fit", "--config", tiny, *words)
        assert outcome.code == 0, outcome.err
        return outcome, max(Path("runs/tiny").iterdir())

    return run


def rate(folder: Path) -> float:
    """Learning rate in the last checkpoint."""
    content = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    return content["optimizer_states"][0]["param_groups"][0]["lr"]


def test_network_gets_what_the_data_fixes(fit):
    _, folder = fit("--model.network", "mine.Network", "--model.network.width", "5")
    network = yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]["network"]
    assert network["init_args"] == {"num_classes": 10, "input_shape": [1, 8, 8], "width": 5}


def test_network_from_a_config_file(fit, tmp_path):
    (tmp_path / "own.yaml").write_text("model: {class_path: ImageClassifier, init_args: {network: mine.Network}}")
    _, folder = fit("--config", "own.yaml")
    assert (
        yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]["network"]["init_args"]["width"] == 6
    )


def test_network_of_torchvision(fit):
    words = ["--data", "mine.Data", "--data.shape", "[3,32,32]", "--trainer.limit_train_batches", "1"]
    _, folder = fit(*words, "--model.network", "torchvision.models.resnet18")
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert state["network.fc.weight"].shape == (3, 512)


def test_network_of_timm_gets_what_the_data_fixes_and_resumes(fit):
    pytest.importorskip("timm", reason="needs the extra timm")
    words = ["--data", "mine.Data", "--data.shape", "[3,32,32]", "--trainer.limit_train_batches", "1"]
    words += ["--model.network", "timm.create_model", "--model.network.model_name", "resnet10t"]
    _, folder = fit(*words)
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert state["network.fc.weight"].shape == (3, 512)
    outcome, _ = fit(*words, "--trainer.max_epochs", "2", "--ckpt_path", "last")
    assert outcome.err == ""


def test_network_of_timm_for_another_image_size(steepest, tiny):
    pytest.importorskip("timm", reason="needs the extra timm")
    words = ["fit", "--config", tiny, "--model.network", "timm.create_model", "--model.network.model_name"]
    outcome = steepest(*words, "vit_tiny_patch16_224")
    assert outcome.code == 2
    assert outcome.err.startswith(
        "steepest: error: VisionTransformer does not take the data's images of shape (1, 8, 8): Input height (8)"
    )
    assert len(outcome.err.splitlines()) == 1


def test_module_without_an_optimizer_takes_the_chosen_one(fit):
    words = ["--model", "mine.Plain", "--model.width", "5", "--optimizer", "sgd", "--optimizer.lr", "0.25"]
    _, folder = fit(*words, "--schedule", "constant")
    assert rate(folder) == 0.25
    assert json.loads((folder / "run.json").read_text())["parameters"] == 65 * 5 + 6 * 10


def test_module_with_its_own_optimizer_keeps_it(fit, caplog):
    with caplog.at_level("INFO"):
        _, folder = fit("--model", "mine.WithOwn", "--optimizer.lr", "0.75")
    assert rate(folder) == 0.5
    notes = [record.getMessage() for record in caplog.records if "optimizer" in record.getMessage()]
    assert notes == ["WithOwn configures its own optimizer; --optimizer and --schedule are not used"]


def test_arguments_named_like_our_options_are_the_modules_own(fit):
    _, folder = fit("--model", "mine.WithOwn", "--model.optimizer", "other")
    assert rate(folder) == 0.125
    used = yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]
    assert used == {"optimizer": "other", "schedule": 0.5}


def test_data_gives_its_number_of_classes(fit):
    _, folder = fit("--data", "mine.Data", "--data.size", "48", "--model.network.input_shape", "[1,8,8]")
    used = yaml.safe_load((folder / "config.yaml").read_text())
    assert used["model"]["init_args"]["network"]["init_args"]["num_classes"] == 3
    assert json.loads((folder / "run.json").read_text())["global_step"] == 3


def test_optimizer_without_types(fit):
    words = ["--optimizer", "external", "--optimizer.algorithm", "mine.Untyped"]
    _, folder = fit(*words)
    assert rate(folder) == 0.25
    _, folder = fit(*words, "--optimizer.algorithm.lr", "0.5", "--optimizer.algorithm.extra", "0.5", "--name", "again")
    content = torch.load("runs/again/version_0/checkpoints/last.ckpt", weights_only=True)
    assert content["optimizer_states"][0]["param_groups"][0]["lr"] == 0.25
    used = yaml.safe_load(Path("runs/again/version_0/config.yaml").read_text())["optimizer"]["init_args"]["algorithm"]
    assert used["init_args"] == {"lr": 0.5, "extra": 0.5}


def test_callback(fit, tmp_path):
    outcome, folder = fit("--trainer.callbacks+=mine.Counter", "--trainer.callbacks.path", "steps.txt")
    assert (tmp_path / "steps.txt").read_text() == "3"
    assert (folder / "checkpoints/best.ckpt").is_file()  # the default callbacks stay
    assert outcome.err == ""


def test_run_of_foreign_classes_resumes(fit):
    words = ["--model", "mine.Plain", "--data", "mine.Data", "--optimizer", "momentum"]
    fit(*words)
    _, folder = fit(*words, "--trainer.max_epochs", "2", "--ckpt_path", "last")
    record = json.loads((folder / "run.json").read_text())
    assert (record["global_step"], record["parent"]["global_step"]) == (4, 2)
