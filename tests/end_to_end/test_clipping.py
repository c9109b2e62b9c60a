"""Clippings and scheduled options as users choose them, and runs that are interrupted."""

import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from steepest.callbacks.checkpoints import read_checkpoint
from steepest.lightning_modules.networks import DeepMLP
from steepest.optim import CLIPPINGS, OptionSchedule
from steepest.optim.classical.torch_optimizers import adamw
from steepest.optim.clipping import agc, autoclip
from steepest.optim.schedules import linear, warmup_cosine
from tests.distributed.processes import scalars as all_scalars
from tests.distributed.test_two_ranks import TWO_RANKS, notes
from tests.distributed.test_two_ranks import train as train_on_ranks
from tests.end_to_end.test_resume import Kill, classifier, differences, digits, scalars, train
from tests.steepest.failures import BAD_INPUT, check, files

OPTIONS: dict[str, Any] = {
    "optimizer": adamw,
    "schedule": warmup_cosine,
    "clipping": partial(autoclip, window=6, per_group=True),
    "option_schedules": {"momentum": OptionSchedule(linear, at_zero=0.5), "weight_decay": OptionSchedule(linear)},
}


def test_autoclip_and_scheduled_options_resume_bit_identically(tmp_path) -> None:
    expected = train(tmp_path / "whole/version_0", classifier(**OPTIONS), digits(), checkpoint_every=1)
    killed, resumed = tmp_path / "version_0", tmp_path / "version_1"
    assert train(killed, classifier(**OPTIONS), digits(), Kill(13), checkpoint_every=1) == {}
    model = classifier(**OPTIONS)
    nn.init.zeros_(model.network.output.weight)  # the checkpoint's weights count
    found = train(resumed, model, digits(), resume=killed / "checkpoints/last.ckpt", checkpoint_every=1)
    assert differences(expected, found) == []
    assert scalars(killed, resumed) == scalars(tmp_path / "whole/version_0")
    # All 27 steps are in the history, not only those since the resume.
    assert [int(count) for _, count in found["clipping"].values()] == [27, 27]


@pytest.mark.ddp
@pytest.mark.parametrize("name", ["autoclip", "agc"])
def test_two_ranks_clip_alike(tmp_path, name) -> None:
    clipping = {"autoclip": partial(autoclip, percentile=30.0), "agc": partial(agc, clip_factor=0.05)}[name]

    def optimizer_of(module: nn.Module) -> torch.optim.Optimizer:
        module.clipping_factory = clipping  # type: ignore[assignment]
        return adamw(module)

    options: dict[str, Any] = {"optimizer": optimizer_of, "max_epochs": 1, "limit_train_batches": 6}
    for folder, batch_size, ranks in (("pair", 32, TWO_RANKS), ("single", 64, {})):
        torch.manual_seed(0)
        network = DeepMLP(hidden=[16, 16], input_shape=(1, 8, 8), num_classes=10)
        train_on_ranks(tmp_path / folder, batch_size, network=network, **options, **ranks)
    weights = notes(tmp_path / "pair", 0)[0]
    assert torch.equal(weights, notes(tmp_path / "pair", 1)[0])
    torch.testing.assert_close(weights, notes(tmp_path / "single", 0)[0], rtol=1e-4, atol=1e-6)
    ours, theirs = (all_scalars(tmp_path / folder) for folder in ("pair", "single"))
    for step in (3, 6):
        tag = "grad/total_norm_clipped", step
        assert ours[tag] == pytest.approx(theirs[tag], rel=1e-3)
        assert ours[tag][0] <= ours["grad/total_norm", step][0]


@pytest.mark.parametrize("name", CLIPPINGS.names())
def test_every_clipping_by_its_name(steepest, tiny, tmp_path, name) -> None:
    outcome = steepest("fit", "--config", tiny, "--clipping", name)
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "runs/tiny/version_0"
    used = yaml.safe_load((folder / "config.yaml").read_text())["clipping"]
    assert used["class_path"].endswith(name)
    assert read_checkpoint(folder / "checkpoints/last.ckpt")["steepest"]["chosen"]["clipping"] == used
    # The config alone runs again.
    again = steepest("fit", "--config", folder / "config.yaml", "--name", "again")
    assert again.code == 0, again.err


def test_the_norms_on_both_sides_are_logged(steepest, tiny, tmp_path) -> None:
    words = ["--clipping", "norm", "--clipping.max_norm", "0.25", "--trainer.callbacks+=GradientFlowMonitor"]
    outcome = steepest("fit", "--config", tiny, *words, "--trainer.callbacks.every_n_steps", "1")
    assert outcome.code == 0, outcome.err
    found = scalars(tmp_path / "runs/tiny/version_0")
    for step in (1, 2, 3):
        assert min(found["grad/total_norm", step]) > 0.25
        assert list(found["grad/total_norm_clipped", step]) == pytest.approx([0.25], rel=1e-4)


def test_scheduled_options_from_the_command_line(steepest, tiny, tmp_path) -> None:
    schedules = "{weight_decay: {schedule: linear}, momentum: {schedule: {class_path: constant}, at_zero: 0.5}}"
    words = ["--option_schedules", schedules, "--trainer.callbacks+=LearningRateTracker"]
    outcome = steepest("fit", "--config", tiny, *words, "--trainer.callbacks.every_n_steps", "1")
    assert outcome.code == 0, outcome.err
    found = scalars(tmp_path / "runs/tiny/version_0")
    for step, decay in ((1, 0.01), (2, 0.005), (3, 0.0)):
        assert list(found["lr/decay_weight_decay", step]) == pytest.approx([decay])
        assert list(found["lr/decay_momentum", step]) == pytest.approx([0.9])
    assert ("lr/no_decay_weight_decay", 1) not in found
    # Another choice is another run.
    check(steepest("fit", "--config", tiny, "--ckpt_path", "last"), BAD_INPUT, ["--option_schedules", "now None"])


WITHOUT_OPTIMIZER = """\
from torch import nn
from steepest.lightning_modules import ImageClassifier

class Other(ImageClassifier):
    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
"""


def test_choices_reach_a_model_without_arguments_for_them(steepest, tiny, tmp_path) -> None:
    (tmp_path / "other_model.py").write_text(WITHOUT_OPTIMIZER)
    words = ["--model", "other_model.Other", "--model.network", "SimpleMLP", "--optimizer", "momentum"]
    assert steepest("fit", "--config", tiny, *words, "--clipping", "autoclip").code == 0
    checkpoint = read_checkpoint(tmp_path / "runs/tiny/version_0/checkpoints/last.ckpt")
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["momentum"] == 0.9
    assert int(checkpoint["clipping"][0][1]) == 3


WITH_OPTIMIZER = """\
from torch import nn
from steepest.lightning_modules import ImageClassifier
from steepest.optim.classical.torch_optimizers import sgd

class Other(ImageClassifier):
    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, optimizer=sgd)
"""


def test_a_model_may_bring_its_own_optimizer(steepest, tiny, tmp_path, caplog) -> None:
    (tmp_path / "other_model.py").write_text(WITH_OPTIMIZER)
    words = ["--model", "other_model.Other", "--model.network", "SimpleMLP", "--optimizer", "adamw"]
    outcome = steepest("fit", "--config", tiny, *words)
    assert outcome.code == 0, outcome.err
    assert "Other brings its own optimizer; --optimizer is not used" in caplog.messages
    checkpoint = read_checkpoint(tmp_path / "runs/tiny/version_0/checkpoints/last.ckpt")
    assert "betas" not in checkpoint["optimizer_states"][0]["param_groups"][0]


PLAIN = """\
import torch
from lightning import LightningModule

class Plain(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch, batch_idx):
        pass
"""

WRONG = {
    "unknown clipping": ("--clipping nrm", ["clipping 'nrm'", "Did you mean 'norm'", "autoclip"]),
    "not a clipping": ("--clipping torch.nn.Linear", ["torch.nn.Linear is not a registered clipping", "norm"]),
    "option of another clipping": ("--clipping norm --clipping.window 3", ["option of norm 'window'", "max_norm"]),
    "option of no clipping": ("--clipping.max_norm 3", ["--clipping.max_norm", "--clipping NAME", "agc"]),
    "clipping of the model": ("--model.clipping norm", ["--model.clipping", "--clipping NAME"]),
    "norm of 0": ("--clipping norm --clipping.max_norm 0", ["max_norm", "(0, inf)", "0.0"]),
    "percentile above 100": ("--clipping autoclip --clipping.percentile 101", ["percentile", "[0, 100]", "101"]),
    "unknown role": ("--clipping agc --clipping.exclude [hed]", ["exclude of agc", "'head'", "hed"]),
    "two clippings": ("--clipping norm --trainer.gradient_clip_val 1", ["--clipping", "--trainer.gradient_clip_val 1"]),
    "clipping of a plain module": (
        "--model plain.Plain --clipping norm",
        ["--clipping needs", "BaseModule", "Plain", "--trainer.gradient_clip_val"],
    ),
    "schedule without its key": (
        "--option_schedules {weight_decay:linear}",
        ["--option_schedules", "names with values"],
    ),
    "schedule as it is": ("--option_schedules '{weight_decay: linear}'", ["'linear'", "{schedule: linear}"]),
    "unknown scheduled option": (
        "--option_schedules '{weight_deca: {schedule: linear}}'",
        ["'weight_deca'", "Did you mean 'weight_decay'", "momentum"],
    ),
    "unknown schedule of an option": ("--option_schedules '{eps: {schedule: linar}}'", ["'linar'", "'linear'"]),
    "the learning rate": ("--option_schedules '{lr: {schedule: linear}}'", ["learning rate", "--schedule NAME"]),
    "option schedules of the model": (
        "--model.option_schedules '{eps: {schedule: linear}}'",
        ["--model.option_schedules", "top level"],
    ),
}


@pytest.mark.parametrize(("words", "expected"), WRONG.values(), ids=list(WRONG))
def test_wrong_choices_end_in_one_line(steepest, tiny, tmp_path: Path, words, expected) -> None:
    (tmp_path / "plain.py").write_text(PLAIN)
    config = tiny
    if "plain.Plain" in words:
        config = "plain.yaml"
        (tmp_path / config).write_text("data: Digits\ntrainer: {accelerator: cpu, max_steps: 1}\n")
    before = files(tmp_path)
    check(steepest("fit", "--config", config, *shlex.split(words)), BAD_INPUT, expected)
    assert files(tmp_path) == before


def test_options_of_a_plain_module_are_scheduled_too(steepest, tmp_path) -> None:
    (tmp_path / "plain.py").write_text(PLAIN)
    (tmp_path / "plain.yaml").write_text("data: Digits\ntrainer: {accelerator: cpu, max_steps: 3}\n")
    words = ["--model", "plain.Plain", "--option_schedules", "{weight_decay: {schedule: linear}}"]
    outcome = steepest("fit", "--config", "plain.yaml", *words)
    assert outcome.code == 0, outcome.err
    checkpoint = read_checkpoint(tmp_path / "runs/plain/version_0/checkpoints/last.ckpt")
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["weight_decay"] == 0.0
