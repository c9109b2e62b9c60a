"""Errors of people's own code, interrupts and tracebacks."""

import shlex
from pathlib import Path

import pytest

from tests.steepest.failures import BAD_INPUT

FIT = "fit --config tiny.yaml "


@pytest.fixture
def folder(tiny, tmp_path: Path) -> Path:
    return tmp_path


FAULTS = {
    "an error that is no input": ("return {}['nothing']", KeyError),
    "a ValueError": ("raise ValueError('mine')", ValueError),
    "a ValueError of a library": ("return nn.BatchNorm1d(1)(batch[0][:1, 0, 0, :1])", ValueError),
    "a missing file": ("open('nothing.txt')", FileNotFoundError),
}


@pytest.mark.parametrize(("line", "error"), FAULTS.values(), ids=list(FAULTS))
def test_errors_of_peoples_own_code_keep_their_traceback(steepest, folder, line, error):
    code = f"""\
from lightning import LightningModule
from torch import nn

class Faulty(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(64, 10)

    def training_step(self, batch, batch_idx):
        {line}

    def validation_step(self, batch, batch_idx):
        pass
"""
    (folder / "faulty.py").write_text(code)
    with pytest.raises(error) as caught:
        steepest("fit", "--config", "tiny.yaml", "--model", "faulty.Faulty")
    assert any(entry.path.name == "faulty.py" for entry in caught.traceback)


@pytest.mark.parametrize(
    ("statement", "said", "code"),
    [("raise KeyboardInterrupt", "interrupted", 130), ("os.kill(os.getpid(), signal.SIGTERM)", "terminated", 143)],
)
def test_a_stopped_run_is_no_success(steepest, folder, statement, said, code):
    (folder / "stopped.py").write_text(
        "import os, signal\nfrom steepest.lightning_modules import ImageClassifier\n\nclass Stopped(ImageClassifier):\n"
        f"    def on_train_batch_start(self, batch, batch_idx):\n        {statement}\n"
    )
    outcome = steepest(*shlex.split(FIT + "--model stopped.Stopped --model.network SimpleMLP"))
    assert outcome.err == f"steepest: error: {said}\n"
    assert outcome.code == code
    assert '"status": "interrupted"' in (folder / "runs/tiny/version_0/run.json").read_text()


def test_wrong_option_of_peoples_own_class_is_one_line(steepest, folder):
    (folder / "strict.py").write_text(
        "from torch import nn\n\nclass Strict(nn.Linear):\n"
        "    def __init__(self, num_classes: int, width: int = 3) -> None:\n"
        "        raise ValueError(f'width must be even, got {width}')\n"
    )
    outcome = steepest(*shlex.split(FIT + "--model.network strict.Strict"))
    assert "width must be even, got 3" in outcome.err
    assert outcome.code == BAD_INPUT


def test_traceback_on_request(steepest, folder, monkeypatch):
    monkeypatch.setenv("STEEPEST_TRACEBACK", "1")
    outcome = steepest(*shlex.split(FIT + "--ckpt_path nothing.ckpt"))
    assert "Traceback" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("steepest: error: no checkpoint")
