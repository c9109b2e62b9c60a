"""Where and with what a study ran."""

import os
import platform
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from joblib import cpu_count

from diagnostics.artifacts import save_json
from steepest.run_record import git_commit, versions
from steepest.study.capacity import free_memory


def write_environment(folder: Path, engine: Mapping[str, Any], gpus: list[str]) -> None:
    """Write `environment.json`: versions, machine, devices, git commit, and how trials were run the last time.

    Args:
        folder: The study's folder.
        engine: Backend, jobs, threads.
        gpus: Names of the GPUs in use for `CUDA_VISIBLE_DEVICES`.
    """
    memory = free_memory()
    content = {
        "versions": versions(),
        "git_commit": git_commit(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": cpu_count(),
        "free_memory_gib": None if memory is None else round(memory / 2**30, 1),
        "gpus": _gpu_names() if gpus else [],
        "threads_variable": os.environ.get("OMP_NUM_THREADS"),
        **engine,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    save_json(content, folder / "environment.json")


def _gpu_names() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
