"""The launch scripts start real runs of two ranks on this machine."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed.processes import CONFIG, REPOSITORY, environment, session, start, wait_for

TORCHRUN = REPOSITORY / "scripts" / "launch_torchrun.sh"
SLURM = REPOSITORY / "scripts" / "launch_slurm.sbatch"

# What the real one does for one task per process on one node.
SRUN = """#!/usr/bin/env bash
[[ $1 == --kill-on-bad-exit=1 ]] && shift
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NODEID=0 "$@" &
  tasks+=($!)
done
code=0
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit $code
"""

# Every rank writes the sum of its weights next to where it was started.
WITNESS = """
import json
from pathlib import Path
from lightning.pytorch.callbacks import Callback

class Witness(Callback):
    def on_train_end(self, trainer, pl_module):
        weights = {name: value.tolist() for name, value in pl_module.state_dict().items()}
        Path(f"rank{trainer.global_rank}.json").write_text(json.dumps([trainer.world_size, weights]))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def prepare(folder: Path) -> list[str]:
    (folder / "small.yaml").write_text(CONFIG)
    (folder / "witness.py").write_text(WITNESS)
    return ["--config", "small.yaml", "--trainer.callbacks+=witness.Witness"]


def check_one_run_of_two_equal_ranks(folder: Path) -> None:
    first, second = (json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first[0] == 2
    assert [path.name for path in (folder / "runs" / "small").iterdir()] == ["version_0"]
    run = folder / "runs" / "small" / "version_0"
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["devices"]["world_size"], record["global_step"]) == ("finished", 2, 18)
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {name: value.tolist() for name, value in weights.items()} == first[1]


@pytest.mark.parametrize("script", [TORCHRUN, SLURM], ids=lambda path: path.name)
def test_usage(script) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    for words in ([], ["--help"]):
        shown = subprocess.run(["bash", script, *words], capture_output=True, text=True, check=True)
        assert shown.stdout.startswith("usage: ")
        assert shown.stderr == ""


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"NNODES": "two"}, "NNODES must be a whole number, got 'two'"),
        ({"NNODES": 2, "NODE_RANK": 2}, "NODE_RANK must be in 0 ... 1 (NNODES - 1), got 2"),
    ],
)
def test_bad_variables_are_refused_in_one_line(variables, line) -> None:
    command = ["bash", TORCHRUN, "--config", "x.yaml"]
    shown = subprocess.run(
        command, env=environment(NPROC_PER_NODE=1, **variables), capture_output=True, text=True, check=False
    )
    assert (shown.returncode, shown.stderr) == (2, f"launch_torchrun.sh: error: {line}\n")


@pytest.mark.ddp
@pytest.mark.slow
def test_torchrun_joins_two_nodes(tmp_path) -> None:
    words = prepare(tmp_path)
    variables = {"NNODES": 2, "NPROC_PER_NODE": 1, "MASTER_PORT": free_port(), "PYTHON": sys.executable}
    nodes = [start(tmp_path, ["bash", TORCHRUN, *words], NODE_RANK=rank, **variables) for rank in range(2)]
    outputs = [node.communicate(timeout=150) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert ["run folder" in out for out, _ in outputs] == [True, False]
    check_one_run_of_two_equal_ranks(tmp_path)
    assert session(nodes[0]) == session(nodes[1]) == {}


@pytest.mark.ddp
@pytest.mark.slow
def test_slurm_starts_one_process_per_task(tmp_path) -> None:
    words = prepare(tmp_path)
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(SRUN)
    srun.chmod(0o755)
    process = start(
        tmp_path,
        ["bash", SLURM, *words],
        PATH=f"{srun.parent}:{environment()['PATH']}",
        PYTHON=sys.executable,
        MASTER_PORT=free_port(),
        SLURM_JOB_NAME="steepest",
        SLURM_JOB_ID=1234,
        SLURM_NTASKS=2,
        SLURM_NTASKS_PER_NODE=2,
        SLURM_NNODES=1,
        SLURM_NODELIST="127.0.0.1",
        SLURM_CPUS_PER_TASK=1,
    )
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert out.count("run folder") == 1
    check_one_run_of_two_equal_ranks(tmp_path)
    wait_for(lambda: not session(process), 10)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_check_says_that_there_is_none() -> None:
    command = [sys.executable, REPOSITORY / "scripts" / "check_gpu.py"]
    shown = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert (shown.stdout, shown.stderr) == ("check_gpu: no GPU here, nothing to check\n", "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_gpu_check_passes() -> None:
    command = [sys.executable, REPOSITORY / "scripts" / "check_gpu.py"]
    shown = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout
