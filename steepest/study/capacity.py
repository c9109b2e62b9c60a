"""How many trials a machine has room for."""

import os
from collections.abc import Sequence
from pathlib import Path

from joblib import cpu_count

from steepest.study.gpus import visible_gpus
from steepest.study.plan import Trial
from steepest.study.trial_words import device_count, trainer_option

MEMORY_OF_A_TRIAL = 2 * 2**30  # bytes: libraries, a small data set, a small network and its optimizer


def gpus_for(trials: Sequence[Trial]) -> list[str]:
    """The GPUs that these trials will use, by name."""
    return visible_gpus() if may_use_gpus(trials) else []


def may_use_gpus(trials: Sequence[Trial]) -> bool:
    """Whether any of these trials does not ask for the CPU."""
    return {trainer_option(trial.words, "accelerator") for trial in trials} != {"cpu"}


def default_jobs(trials: Sequence[Trial], gpus: Sequence[str]) -> int:
    """Trials at a time: one for each GPU, else as many as cores and free memory allow; never more than there are."""
    devices = max((device_count(trial.words) for trial in trials), default=1)
    room = len(gpus) if gpus else cpu_count()
    jobs = room // devices
    memory = free_memory()
    if memory is not None:
        jobs = min(jobs, memory // (MEMORY_OF_A_TRIAL * devices))
    return max(1, min(jobs, len(trials)))


def threads_of(jobs: int) -> int:
    """Threads of each of so many trials: the cores are divided, unless `OMP_NUM_THREADS` says otherwise."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else max(1, cpu_count() // jobs)


def free_memory() -> int | None:
    """Bytes of memory that this process and its children may still take; None where nothing tells."""
    limits = []
    if lines := _lines("/proc/meminfo"):
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        if "MemAvailable" in fields:
            limits.append(int(fields["MemAvailable"].split()[0]) * 1024)
    # Of a container: what is cached can be given up for us.
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdigit():
        statistics = dict(line.split() for line in _lines("/sys/fs/cgroup/memory.stat"))
        limits.append(int(limit[0]) - int(used[0]) + int(statistics.get("inactive_file", 0)))
    return min(limits) if limits else None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
