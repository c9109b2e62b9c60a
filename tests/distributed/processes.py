"""Commands in processes of their own, as users start them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

REPOSITORY = Path(__file__).resolve().parents[2]

CONFIG = """\
model: {class_path: ImageClassifier, init_args: {network: {class_path: DeepMLP, init_args: {hidden: [16]}}}}
data: {class_path: Digits, init_args: {batch_size: 64}}
optimizer: {class_path: sgd, init_args: {lr: 0.1}}
trainer:
  max_epochs: 2
  accelerator: cpu
  enable_model_summary: false
  log_every_n_steps: 3
  callbacks+:
  - {class_path: GradientFlowMonitor, init_args: {figures: false}}
  - {class_path: SpectralNormTracker, init_args: {figures: false}}
  - {class_path: UpdateDynamics, init_args: {figures: false}}
name: small
"""


def environment(**variables: Any) -> dict[str, str]:
    """This process's environment without what says that it is part of a distributed run."""
    ranks = re.compile(r"SLURM_.*|.*RANK|WORLD_SIZE|MASTER_.*|TORCHELASTIC_.*|PL_GLOBAL_SEED|STEEPEST_.*")
    kept = {name: value for name, value in os.environ.items() if not ranks.fullmatch(name)}
    # Two busy-waiting OpenMP teams on two cores slow each other down tenfold.
    return {**kept, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in variables.items()}}


def start(folder: Path, command: list[Any], **variables: Any) -> subprocess.Popen[str]:
    """Start a command in `folder` and in a session of its own, which `session` looks into."""
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that a shell runs in the background ignore interrupts, and so would all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def fit_on_two_ranks(folder: Path, *words: Any) -> subprocess.Popen[str]:
    """Start `steepest fit` of a small network with two ranks."""
    (folder / "small.yaml").write_text(CONFIG)
    ranks = ["--trainer.strategy", "ddp", "--trainer.devices", 2]
    return start(folder, [sys.executable, "-m", "steepest", "fit", "--config", "small.yaml", *ranks, *words])


def session(process: subprocess.Popen[str]) -> dict[int, str]:
    """The live processes of the command's session by process id, with their value of LOCAL_RANK."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == process.pid and fields[0] != "Z":
                    variables = dict(line.partition("=")[::2] for line in (folder / "environ").read_text().split("\0"))
                    found[int(folder.name)] = variables.get("LOCAL_RANK", "")
            except OSError:
                continue
    return found


def wait_for(condition: Any, seconds: float = 60.0) -> Any:
    """Wait until `condition()` is true, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise TimeoutError(f"not within {seconds} s")


def scalars(folder: Path) -> dict[tuple[str, int], list[float]]:
    """All values in the event files of a run, by tag and step."""
    accumulator = EventAccumulator(str(folder), {"scalars": 0})
    accumulator.Reload()
    found: dict[tuple[str, int], list[float]] = {}
    for tag in accumulator.Tags()["scalars"]:
        for event in accumulator.Scalars(tag):
            found.setdefault((tag, event.step), []).append(event.value)
    return found
