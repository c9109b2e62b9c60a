"""Fixtures that several folders of tests share."""

import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import settings

# How long an example takes says how busy the machine is, nothing about the code.
settings.register_profile("steepest", deadline=None)
settings.load_profile("steepest")

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass
class Outcome:
    """What a command left behind: exit code (0 for a normal return), standard output and standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def clean_process() -> Iterator[None]:
    """Give back what a command changes in the process for good, because it usually owns it."""
    interrupt = signal.getsignal(signal.SIGINT)
    path, modules, directory = list(sys.path), set(sys.modules), os.getcwd()
    environment = dict(os.environ)
    filters = {name: list(logging.getLogger(name).filters) for name in list(logging.root.manager.loggerDict)}
    format_warning = warnings.formatwarning
    python_state, numpy_state, torch_state = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    deterministic, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    with warnings.catch_warnings():
        yield
    signal.signal(signal.SIGINT, interrupt)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = benchmark
    random.setstate(python_state)
    numpy.random.set_state(numpy_state)
    torch.set_rng_state(torch_state)
    warnings.formatwarning = format_warning
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):
            logger.filters[:] = filters.get(name, [])
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.path[:] = path
    # Files that a test wrote and a command imported: the next test may have others of the same name.
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and not Path(file).is_relative_to(REPOSITORY) and "site-packages" not in file:
            if not Path(file).is_relative_to(Path(os.__file__).parent):
                del sys.modules[name]


@pytest.fixture
def steepest(
    clean_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run commands in this process, in an empty folder: `steepest("fit", "--config", "x.yaml")`."""
    from steepest.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        code = 0
        try:
            returned = main([str(word) for word in words])
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 1
        else:
            assert returned is None  # an object would become the process's exit status
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


TINY = """\
model:
  class_path: ImageClassifier
  init_args:
    network: {class_path: SimpleMLP, init_args: {hidden: 8}}
data: {class_path: Digits, init_args: {batch_size: 64}}
optimizer: {class_path: adamw, init_args: {lr: 2.0e-3}}
trainer:
  accelerator: cpu
  max_epochs: 1
  limit_train_batches: 3
  limit_val_batches: 1
  enable_model_summary: false
  enable_progress_bar: false
  callbacks+:  # figures take a second each, and are looked at elsewhere
  - {class_path: SpectralNormTracker, init_args: {figures: false}}
  - {class_path: UpdateDynamics, init_args: {figures: false}}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A config of a run of three steps; its runs are called "tiny"."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    return "tiny.yaml"
