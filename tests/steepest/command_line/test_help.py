"""Help, and the process around a command."""

import importlib.metadata
import subprocess
import sys

import pytest


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help(steepest, words):
    outcome = steepest(*words)
    assert outcome.code == 0
    for command in ("fit", "validate", "test", "predict", "list"):
        assert f"\n  {command} " in outcome.out


def test_help_of_a_command_and_of_an_optimizer(steepest):
    outcome = steepest("fit", "--help")
    assert outcome.code == 0
    for option in ("--config", "--optimizer", "--schedule", "--model", "--data", "--name", "--trainer.max_epochs"):
        assert option in outcome.out
    outcome = steepest("fit", "--optimizer.help", "sgd")
    assert outcome.code == 0
    assert "--optimizer.lr" in outcome.out
    assert "Learning rate, at least 0" in outcome.out


def test_help_needs_no_heavy_package():
    code = (
        "import sys; from steepest.cli import main; main(['--help']); main(['--version']); "
        "sys.exit(bool({'torch', 'lightning', 'jsonargparse', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "steepest 0." in result.stdout


@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), (["fitt"], 2)])
def test_exit_code_of_the_process(tmp_path, words, code):
    result = subprocess.run(
        [sys.executable, "-m", "steepest", *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode == code
    assert len(result.stderr.splitlines()) == (1 if code else 0)


def test_console_script():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="steepest")
    assert script.value == "steepest.cli:main"
