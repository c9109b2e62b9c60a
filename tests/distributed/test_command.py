"""The command with two real processes: one run, one table, one line when it fails, and nobody left behind."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed.processes import CONFIG, fit_on_two_ranks, scalars, session, start, wait_for

pytestmark = [pytest.mark.ddp, pytest.mark.timeout(180)]

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")


def test_two_ranks_are_one_run(tmp_path) -> None:
    process = fit_on_two_ranks(tmp_path, "--test_after_fit", "true")
    out, err = process.communicate(timeout=150)
    assert (process.returncode, err) == (0, "")
    assert out.count("test accuracy") == out.count("run folder") == out.count("epoch 2:") == 1
    assert [path.name for path in (tmp_path / "runs" / "small").iterdir()] == ["version_0"]
    run = tmp_path / "runs" / "small" / "version_0"
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["devices"]["world_size"] == 2
    assert record["global_step"] == 18
    assert 0.3 < record["metrics"]["test/accuracy"] < 1.0
    written = scalars(run)
    assert {len(values) for values in written.values()} == {1}
    assert {step for tag, step in written if tag == "train/loss"} == {3, 6, 9, 12, 15, 18}
    assert record["metrics"]["test/accuracy"] == pytest.approx(written["test/accuracy", 18][0])
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 18


@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn"])
def test_ranks_inside_this_process_are_refused(steepest, tmp_path, strategy) -> None:
    (tmp_path / "small.yaml").write_text(CONFIG)
    outcome = steepest("fit", "--config", "small.yaml", "--trainer.strategy", strategy, "--trainer.devices", "2")
    assert outcome.code == 2
    assert outcome.err.startswith("steepest: error: --trainer.strategy must not fork or spawn")
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "runs" / "small").exists()


def start_long_run(folder: Path, *words: str):
    process = fit_on_two_ranks(
        folder, "--trainer.max_epochs", "10000", "--trainer.enable_progress_bar", "false", *words
    )
    last = folder / "runs" / "small" / "version_0" / "checkpoints" / "last.ckpt"
    try:
        wait_for(lambda: last.exists() or process.poll() is not None, 180)  # busy machines import slowly
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)  # it would train for hours beside the other tests
        raise
    return process, {local_rank: pid for pid, local_rank in session(process).items()}


@LINUX
def test_a_killed_rank_ends_the_run_in_one_line(tmp_path) -> None:
    process, ranks = start_long_run(tmp_path)
    os.kill(ranks["1"], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err == "steepest: error: rank 1 died (killed by signal 9, SIGKILL)\n"
    assert session(process) == {}
    record = json.loads((tmp_path / "runs" / "small" / "version_0" / "run.json").read_text())
    assert record["status"] == "failed"
    assert "rank 1 died" in record["error"]


@LINUX
@pytest.mark.slow
def test_an_interrupt_ends_all_ranks_in_one_line(tmp_path) -> None:
    process, _ = start_long_run(tmp_path)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "steepest: error: interrupted\n")
    assert session(process) == {}
    record = json.loads((tmp_path / "runs" / "small" / "version_0" / "run.json").read_text())
    assert record["status"] == "interrupted"


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("send", [os.kill, os.killpg])  # to rank zero, or as some clusters do to all
def test_termination_ends_all_ranks_in_one_line(tmp_path, send) -> None:
    process, _ = start_long_run(tmp_path)
    send(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (143, "steepest: error: terminated\n")
    assert session(process) == {}
    record = json.loads((tmp_path / "runs" / "small" / "version_0" / "run.json").read_text())
    assert record["status"] == "interrupted"


@LINUX
@pytest.mark.slow
def test_ranks_end_with_rank_zero(tmp_path) -> None:
    process, ranks = start_long_run(tmp_path)
    os.kill(ranks["1"], signal.SIGSTOP)  # as if it computed for long: it notices no closed connection
    process.kill()
    os.kill(ranks["1"], signal.SIGCONT)
    process.communicate(timeout=120)
    wait_for(lambda: not session(process), 10)


@pytest.mark.slow
def test_an_error_of_all_ranks_is_printed_once(tmp_path) -> None:
    process = fit_on_two_ranks(tmp_path, "--data", "MNIST", "--data.data_dir", "nowhere", "--data.download", "false")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.startswith("steepest: error: ")
    assert err.count("\n") == 1
    assert session(process) == {}


FAILING = """
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from steepest.run.folder import check_name

class Failing(Callback):
    def __init__(self, rank: int, point: str, name: str = "") -> None:
        self.rank, self.point, self.name = rank, point, name

    def fail(self, trainer, point):
        if trainer.global_rank == self.rank and point == self.point:
            check_name(self.name)
            1 / 0

    def setup(self, trainer, pl_module, stage):
        self.fail(trainer, "setup")

    def on_train_epoch_end(self, trainer, pl_module):
        self.fail(trainer, "epoch")

class Early(DDPStrategy):
    def setup_environment(self) -> None:
        if self.local_rank == 0:
            check_name("")
        super().setup_environment()
"""
REFUSED = "--name must be made of letters, digits and _ . + = , -, got ''"


def run_failing(folder: Path, rank: int, point: str, *words: str) -> tuple[int, str]:
    (folder / "failing.py").write_text(FAILING)
    callback = ["--trainer.callbacks+=failing.Failing", "--trainer.callbacks.rank", rank]
    process = fit_on_two_ranks(folder, *callback, "--trainer.callbacks.point", point, *words)
    _, err = process.communicate(timeout=120)
    assert session(process) == {}
    return process.returncode, err


@pytest.mark.slow
@pytest.mark.parametrize("point", ["setup", "epoch"])
@pytest.mark.parametrize(("rank", "line"), [(0, REFUSED), (1, f"rank 1: {REFUSED}")])
def test_an_error_of_one_rank_is_told_by_rank_zero(tmp_path, rank, point, line) -> None:
    assert run_failing(tmp_path, rank, point) == (2, f"steepest: error: {line}\n")


@pytest.mark.slow
def test_a_defect_on_another_rank_keeps_its_traceback(tmp_path) -> None:
    code, err = run_failing(tmp_path, 1, "epoch", "--trainer.callbacks.name", "a")
    assert code == 1
    assert err.count("ZeroDivisionError: division by zero") == 1
    assert err.endswith("steepest: error: rank 1 died (exit code 1)\n")


@pytest.mark.slow
def test_an_error_before_the_others_joined_leaves_nobody_waiting(tmp_path) -> None:
    strategy = '--trainer.strategy={"class_path": "failing.Early"}'
    assert run_failing(tmp_path, 7, "never", strategy) == (2, f"steepest: error: {REFUSED}\n")


@LINUX
@pytest.mark.slow
def test_a_rank_zero_that_does_not_notice_is_ended(tmp_path) -> None:
    """As with NCCL, where a rank waits many minutes for one that died."""
    (tmp_path / "waiting.py").write_text(
        "import time\n"
        "from lightning.pytorch.callbacks import Callback\n"
        "from pathlib import Path\n"
        "class Waiting(Callback):\n"
        "    def on_train_epoch_start(self, trainer, pl_module):\n"
        "        if trainer.global_rank == 0 and trainer.current_epoch == 1:\n"
        "            Path('waits').touch()\n"
        "            time.sleep(100)\n"
    )
    program = "import steepest.run.ranks as p; p.GRACE = 1.0; from steepest.cli import main; main()"
    (tmp_path / "impatient.py").write_text(program)
    (tmp_path / "small.yaml").write_text(CONFIG)
    words = ["fit", "--config", "small.yaml", "--trainer.strategy", "ddp", "--trainer.devices", "2"]
    process = start(tmp_path, [sys.executable, "impatient.py", *words, "--trainer.callbacks+=waiting.Waiting"])
    wait_for(lambda: (tmp_path / "waits").exists())
    os.kill(next(pid for pid, rank in session(process).items() if rank == "1"), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (1, "steepest: error: rank 1 died (killed by signal 9, SIGKILL)\n")
    record = json.loads((tmp_path / "runs" / "small" / "version_0" / "run.json").read_text())
    assert record["status"] == "failed"
    assert session(process) == {}
