"""Every wrong input ends in one line that names it and what is allowed, an exit code, and nothing left behind."""

import shlex
from pathlib import Path

import pytest
import torch

from tests.steepest.failures import BAD_INPUT, check, files

FIT = "fit --config tiny.yaml "

# Words after `fit --config tiny.yaml`, and what the line must contain.
WRONG_OPTIONS = {
    "unknown optimizer": ("--optimizer adamx", ["optimizer", "'adamx'", "Did you mean 'adam'", "sgd"]),
    "optimizer not registered": ("--optimizer torch.optim.Adam", ["torch.optim.Adam", "adamw", "external"]),
    "no optimizer": ("--optimizer null", ["unknown optimizer 'None'", "adamw"]),
    "unknown schedule": ("--schedule warmup_cosin", ["'warmup_cosin'", "Did you mean 'warmup_cosine'", "linear"]),
    "unknown model": ("--model ImageClasifier", ["'ImageClasifier'", "Did you mean 'ImageClassifier'"]),
    "not a model": ("--model torch.nn.Linear", ["--model", "torch.nn.Linear is not a LightningModule"]),
    "unknown network": ("--model.network DepMLP", ["'DepMLP'", "Did you mean 'DeepMLP'", "SimpleMLP", "import path"]),
    "network not importable": ("--model.network nowhere.Net", ["network of ImageClassifier", "nowhere.Net"]),
    "network not in its module": ("--model.network torch.nn.Nothing", ["torch.nn.Nothing", "no attribute"]),
    "unknown data": ("--data Digit", ["'Digit'", "Did you mean 'Digits'", "MNIST", "import path"]),
    "not data": ("--data torch.nn.Linear", ["--data", "torch.nn.Linear is not a LightningDataModule"]),
    "unknown callback": ("--trainer.callbacks+=EarlyStoping", ["'EarlyStoping'", "Did you mean 'EarlyStopping'"]),
    "unknown option": ("--optimiser adam", ["'--optimiser'", "Did you mean '--optimizer'"]),
    "shortened option": ("--seed 3", ["'--seed'"]),
    "stray word": ("stray", ["'stray'"]),
    "unknown trainer option": ("--trainer.max_epoch 3", ["'--trainer.max_epoch'", "'--trainer.max_epochs'"]),
    "unknown optimizer option": ("--optimizer.lrr 0.1", ["adamw", "'lrr'", "Did you mean 'lr'", "weight_decay"]),
    "option of another optimizer": (
        "--optimizer sgd --optimizer.momentum 0.9",
        ["option of sgd 'momentum'", "lr, weight_decay"],
    ),
    "unknown network option": ("--model.network.hiden 3", ["SimpleMLP", "'hiden'", "Did you mean 'hidden'"]),
    "unknown data option": ("--data.batchsize 3", ["Digits", "'batchsize'", "Did you mean 'batch_size'"]),
    "unknown callback option": (
        "--trainer.callbacks+=GradientFlowMonitor --trainer.callbacks.every 3",
        ["GradientFlowMonitor", "'every'", "Did you mean 'every_n_steps'"],
    ),
    "schedule option without schedule": ("--schedule.warmup 3", ["--schedule.warmup", "--schedule NAME", "linear"]),
    "optimizer of the model": ("--model.optimizer sgd", ["--model.optimizer", "--optimizer NAME"]),
    "schedule of the model": ("--model.schedule linear", ["--model.schedule", "--schedule NAME"]),
    "no value": ("--optimizer", ["--optimizer", "expected one argument"]),
    "help of unknown optimizer": ("--optimizer.help adamx", ["'adamx'", "Did you mean 'adam'"]),
    "words for a count": ("--trainer.max_epochs three", ["--trainer.max_epochs", "a whole number", "three"]),
    "fraction for a count": ("--data.batch_size 1.5", ["batch_size of Digits", "a whole number", "1.5"]),
    "words for a number": ("--optimizer.lr fast", ["lr of adamw", "a number", "fast"]),
    "words for a switch": ("--optimizer.amsgrad maybe", ["amsgrad of adamw", "true or false", "maybe"]),
    "number for a list": ("--optimizer.betas 0.9", ["betas of adamw", "a list", "0.9"]),
    "short list": ("--optimizer.betas [0.9]", ["betas of adamw", "a list of 2", "[0.9]"]),
    "words for a width": ("--model.network.hidden wide", ["hidden of SimpleMLP", "a whole number", "wide"]),
    "negative learning rate": ("--optimizer.lr -1", ["lr", "[0, inf)", "-1.0"]),
    "learning rate not a number": ("--optimizer.lr .nan", ["lr", "finite", "nan"]),
    "infinite learning rate": ("--optimizer.lr .inf", ["lr", "finite", "inf"]),
    "beta of 1": ("--optimizer.betas [0.9,1.0]", ["betas[1]", "[0, 1)", "1.0"]),
    "momentum of 1": ("--optimizer momentum --optimizer.momentum 1.0", ["momentum", "[0, 1)", "1.0"]),
    "negative weight decay": ("--optimizer.weight_decay -0.1", ["weight_decay", "[0, inf)", "-0.1"]),
    "label smoothing above 1": ("--model.label_smoothing 1.5", ["label_smoothing", "[0, 1)", "1.5"]),
    "unknown initialization": ("--model.network.initialization hee", ["'default', 'he', 'xavier'", "hee"]),
    "negative width": ("--model.network.hidden -3", ["width", "at least 1", "-3"]),
    "width of 0": ("--model.network DeepMLP --model.network.hidden [8,0]", ["width", "at least 1", "0"]),
    "dropout of 1": ("--model.network.dropout 1.0", ["dropout", "[0, 1)", "1.0"]),
    "classes that do not fit": ("--model.network.num_classes 3", ["num_classes 3", "Digits", "10"]),
    "shape that does not fit": ("--model.network.input_shape [1,9,9]", ["input_shape (1, 9, 9)", "(1, 8, 8)"]),
    "unknown compiler": ("--model.compile inductorr", ["'inductorr'", "did you mean: 'inductor'"]),
    "batch larger than the data": ("--data.batch_size 5000", ["5000", "1221", "drop_last"]),
    "batch of 0": ("--data.batch_size 0", ["batch_size", "at least 1", "0"]),
    "validation above 1": ("--data.validation_size 1.5", ["validation_size", "[0, 1)", "1.5"]),
    "validation on everything": ("--data.validation_size 1437", ["validation_size", "1436", "1437"]),
    "negative seed": ("--seed_everything -3", ["--seed_everything", "4294967295", "-3"]),
    "schedule without end": (
        "--schedule linear --trainer.max_epochs -1 --trainer.max_time 00:00:00:01",
        ["schedule", "--trainer.max_steps", "--trainer.max_epochs"],
    ),
    "warm-up longer than the run": ("--schedule linear --schedule.warmup 100", ["warmup", "100", "3 steps"]),
    "floor above 1": ("--schedule linear --schedule.floor 2", ["floor", "[0, 1]", "2.0"]),
    "16-mixed on a CPU": ("--trainer.precision 16-mixed", ["16-mixed", "GPU", "bf16-mixed"]),
    "unknown precision": ("--trainer.precision 17", ["--trainer.precision", "'bf16-mixed'", "17"]),
    "unknown accelerator": ("--trainer.accelerator gpuu", ["'gpuu'", "Did you mean 'gpu'", "cpu"]),
    "unknown strategy": ("--trainer.strategy dpp", ["'dpp'", "Did you mean 'ddp'", "fsdp"]),
    "no devices": ("--trainer.devices 0", ["--trainer.devices", "at least 1", "0"]),
    "devices in words": ("--trainer.devices two", ["--trainer.devices", "number", "two"]),
    "logging every 0 steps": ("--trainer.log_every_n_steps 0", ["--trainer.log_every_n_steps", "at least 1", "0"]),
    "validation every 0 epochs": ("--trainer.check_val_every_n_epoch 0", ["check_val_every_n_epoch", "at least 1"]),
    "validation every 0 batches": ("--trainer.val_check_interval 0", ["val_check_interval", "above 0", "got 0"]),
    "accumulation of 0": ("--trainer.accumulate_grad_batches 0", ["accumulate_grad_batches", "at least 1", "got 0"]),
    "negative clipping": ("--trainer.gradient_clip_val -1", ["--trainer.gradient_clip_val", "at least 0", "-1"]),
    "unknown clipping": (
        "--trainer.gradient_clip_val 1 --trainer.gradient_clip_algorithm nrom",
        ["gradient_clip_algorithm", "nrom", "norm"],
    ),
    "negative epochs": ("--trainer.max_epochs -5", ["max_epochs", "non-negative", "-5"]),
    "share of batches above 1": ("--trainer.limit_train_batches 1.5", ["limit_train_batches", "[0.0, 1.0]", "1.5"]),
    "barebones": ("--trainer.barebones true", ["--trainer.barebones", "--trainer.logger false"]),
    "unknown profiler": ("--trainer.profiler simpl", ["profiler", "'simple'"]),
    "unknown mode": (
        "--trainer.callbacks+=Checkpoints --trainer.callbacks.mode up",
        ["mode of Checkpoints", "'min', 'max'", "up"],
    ),
    "measuring every 0 steps": (
        "--trainer.callbacks+=GradientFlowMonitor --trainer.callbacks.every_n_steps 0",
        ["every_n_steps=0", "counted from 1"],
    ),
    "callback without its option": ("--trainer.callbacks+=EarlyStopping", ["EarlyStopping needs monitor"]),
    "network without its option": ("--model.network mine.Deep", ["Deep needs", "depth"]),
    "optimizer without its option": ("--optimizer external", ["external needs algorithm"]),
    "algorithm that is none": (
        "--optimizer external --optimizer.algorithm torch.nn.Linear",
        ["algorithm of external", "torch.nn.Linear is not an Optimizer"],
    ),
    "algorithm that does not exist": (
        "--optimizer external --optimizer.algorithm torch.optim.Nothing",
        ["algorithm of external", "no attribute 'Nothing'"],
    ),
    "option the algorithm has not": (
        "--optimizer external --optimizer.algorithm torch.optim.NAdam --optimizer.algorithm.lrr 1",
        ["NAdam", "'lrr'", "Did you mean 'lr'"],
    ),
    "name with a slash": ("--name a/b", ["--name", "'a/b'", "letters"]),
    "name above": ("--name ../up", ["--name", "'../up'"]),
    "empty name": ("--name=", ["--name", "''"]),
    "folder of runs below a file": ("--runs_dir mine.py/runs", ["mine.py/runs", "not a directory"]),
    "missing files": (
        "--data MNIST --data.data_dir nowhere --data.download false",
        ["MNIST", "nowhere/MNIST/raw", "train-images-idx3-ubyte.gz", "download"],
    ),
    "missing checkpoint": ("--ckpt_path nothing.ckpt", ["no checkpoint at nothing.ckpt"]),
    "no checkpoint yet": ("--ckpt_path last", ["--ckpt_path last", "runs/tiny", "train one first"]),
    "checkpoint of text": ("--ckpt_path mine.py", ["mine.py", "not a complete checkpoint"]),
    "checkpoint of another program": ("--ckpt_path weights.ckpt", ["weights.ckpt", "'state_dict'"]),
    "missing config": ("--config nothing.yaml", ["--config", "nothing.yaml"]),
    "config that is a folder": ("--config .", ["--config", "no file ."]),
    "config that is not YAML": ("--config broken.yaml", ["broken.yaml", "line 1", "not YAML"]),
    "binary config": ("--config weights.ckpt", ["weights.ckpt", "not YAML"]),
    "config that is a list": ("--config list.yaml", ["list.yaml", "options by name", "a list"]),
    "empty config": ("--config empty.yaml", ["empty.yaml", "options by name", "nothing"]),
    "unknown key in the config": ("--config unknown.yaml", ["'trainer.max_epoch'", "'trainer.max_epochs'"]),
}

WRONG_COMMANDS = {
    "unknown command": ("fitt", ["'fitt'", "Did you mean 'fit'", "list"]),
    "nothing like a command": ("nonsense", ["'nonsense'", "fit", "test"]),
    "no model": ("fit", ["--model", "required"]),
    "no data": ("fit --model ImageClassifier --model.network SimpleMLP", ["--data", "steepest list data"]),
    "no network": ("fit --model ImageClassifier --data Digits", ["ImageClassifier needs network"]),
    "test without a run": ("test --config tiny.yaml --ckpt_path best", ["--ckpt_path best", "runs/tiny"]),
    "list of nothing": ("list", ["optimizers", "schedules", "models", "data", "callbacks"]),
    "list of an unknown kind": ("list optimizer", ["'optimizer'", "Did you mean 'optimizers'"]),
    "list of no names": ("list optimizers zz*", ["'zz*'", "adamw"]),
    "unknown option of list": ("list optimizers --all", ["--all"]),
    "explain of a schedule": ("list schedules --explain DeepMLP", ["--explain", "optimizers", "schedules"]),
    "explain of an unknown network": ("list optimizers --explain DepMLP", ["'DepMLP'", "Did you mean 'DeepMLP'"]),
    "explain of an unknown optimizer": ("list optimizers adamx --explain DeepMLP", ["'adamx'", "'adam'"]),
}

MINE = """\
from torch import nn

class Deep(nn.Linear):
    def __init__(self, num_classes: int, depth: int) -> None:
        super().__init__(depth, num_classes)
"""


@pytest.fixture
def folder(tiny, tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.yaml").write_text("trainer: [1")
    (tmp_path / "list.yaml").write_text("- trainer")
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "unknown.yaml").write_text("trainer: {max_epoch: 1}")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "weights.ckpt")
    return tmp_path


@pytest.mark.parametrize(("words", "expected"), WRONG_OPTIONS.values(), ids=list(WRONG_OPTIONS))
def test_wrong_option(steepest, folder, words, expected):
    before = files(folder)
    check(steepest(*shlex.split(FIT + words)), BAD_INPUT, expected)
    assert files(folder) == before


@pytest.mark.parametrize(("words", "expected"), WRONG_COMMANDS.values(), ids=list(WRONG_COMMANDS))
def test_wrong_command(steepest, folder, words, expected):
    before = files(folder)
    check(steepest(*shlex.split(words)), BAD_INPUT, expected)
    assert files(folder) == before


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_gpu_without_a_gpu(steepest, folder):
    check(steepest(*shlex.split(FIT + "--trainer.accelerator gpu")), BAD_INPUT, ["gpu", "none on this machine", "cpu"])
    assert not (folder / "runs").exists()


@pytest.mark.filterwarnings("ignore:SpectralNormTracker. step 1. .* is not finite")
def test_stop_at_the_first_nonfinite_gradient(steepest, folder):
    words = "--optimizer sgd --optimizer.lr 1e30 --trainer.callbacks+=GradientFlowMonitor"
    outcome = steepest(*shlex.split(FIT + words), "--trainer.callbacks.on_nonfinite", "stop")
    check(outcome, BAD_INPUT, ["non-finite gradient at step 2", "hidden1", "learning rate"])
    # Its steps were taken, so the run is kept, and says what became of it.
    assert '"status": "failed"' in (folder / "runs/tiny/version_0/run.json").read_text()


def test_early_stopping_on_an_unknown_metric(steepest, folder):
    words = "--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor val/los"
    check(steepest(*shlex.split(FIT + words)), BAD_INPUT, ["`val/los`", "`val/loss`"])
