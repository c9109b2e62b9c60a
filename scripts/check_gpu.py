"""Check on a machine with a GPU that a small fit works in every precision, clipped, fused, compiled and on two ranks.

    python scripts/check_gpu.py

Prints a table and exits with 1 if a row failed; without a GPU there is nothing to check.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parent.parent
TIMEOUT = 300  # seconds for one fit; compilation takes the longest, about a minute

GPU = ["--trainer.accelerator", "gpu", "--trainer.devices", "1"]
CLIPPED = ["--trainer.gradient_clip_val", "1.0"]
FITS = {
    "32-true": [*GPU, "--trainer.precision", "32-true"],
    "bf16-mixed": [*GPU, "--trainer.precision", "bf16-mixed"],
    "16-mixed": [*GPU, "--trainer.precision", "16-mixed"],
    "32-true, clipped": [*GPU, *CLIPPED],
    "16-mixed, clipped": [*GPU, "--trainer.precision", "16-mixed", *CLIPPED],
    "fused AdamW": [*GPU, "--optimizer.fused", "true"],
    "AdamW, not fused": [*GPU, "--optimizer.fused", "false"],
    "compiled": [*GPU, "--model.compile", "true"],
    "two ranks, one GPU each": ["--trainer.accelerator", "gpu", "--trainer.strategy", "ddp", "--trainer.devices", "2"],
    "two ranks on the CPU": ["--trainer.accelerator", "cpu", "--trainer.strategy", "ddp", "--trainer.devices", "2"],
}


class Outcome(NamedTuple):
    """How a fit went: "ok", or the reason why not; wall time in seconds; validation loss after the last epoch."""

    result: str
    seconds: float
    loss: float


def fit(words: list[str], folder: Path) -> Outcome:
    """Fit configs/digits_mlp.yaml for three epochs in a process of its own."""
    command = [sys.executable, "-m", "steepest", "fit", "--config", str(REPOSITORY / "configs" / "digits_mlp.yaml")]
    command += ["--runs_dir", str(folder), "--trainer.max_epochs", "3", "--test_after_fit", "false", *words]
    start = time.monotonic()
    try:
        process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return Outcome(f"failed: no end after {TIMEOUT} s", TIMEOUT, float("nan"))
    seconds = time.monotonic() - start
    if process.returncode != 0:
        lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        return Outcome(f"failed: {lines[-1]}", seconds, float("nan"))
    record = json.loads(next(folder.glob("*/version_*/run.json")).read_text())
    loss = record["metrics"]["val/loss"]
    # A loss of ln 10 = 2.3 is that of guessing among ten digits.
    return Outcome("ok" if loss < 2.0 else "failed: it did not learn", seconds, loss)


def main() -> int:
    """Run all fits and print the table; returns the exit code."""
    if not torch.cuda.is_available():
        print("check_gpu: no GPU here, nothing to check")
        return 0
    gpus = torch.cuda.device_count()
    table = Table(title=f"{gpus} x {torch.cuda.get_device_name(0)}, torch {torch.__version__}", title_justify="left")
    for header in ("fit", "result", "seconds", "validation loss"):
        table.add_column(header, justify="right" if header in ("seconds", "validation loss") else "left")
    failed = False
    for name, words in FITS.items():
        if name == "two ranks, one GPU each" and gpus < 2:
            table.add_row(name, "skipped: there is only one GPU", "", "")
            continue
        with tempfile.TemporaryDirectory() as folder:
            outcome = fit(words, Path(folder))
        failed = failed or outcome.result != "ok"
        table.add_row(name, outcome.result, f"{outcome.seconds:.1f}", f"{outcome.loss:.4f}")
    Console(soft_wrap=True).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
