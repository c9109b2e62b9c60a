"""Chooses where a study's trials run, and how many at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from joblib import cpu_count

from steepest.study.capacity import default_jobs, gpus_for, may_use_gpus, threads_of
from steepest.study.engine import Backend, LokyBackend
from steepest.study.environment import write_environment
from steepest.study.plan import Trial
from steepest.study.shard import WHOLE, Shard
from steepest.study.trial_words import device_count

BACKENDS = ("loky", "ray")


@dataclass(frozen=True)
class RunOptions:
    """How a study's trials are run; none of it changes their numbers.

    Attributes:
        jobs: Trials at a time; None takes as many as there is room for.
        backend: `loky` for processes of this machine, `ray` for a Ray cluster.
        address: Of the cluster.
        shard: The share of the trials that is run.
        data_dir: Folder of data that lie in files.
        retry: Whether failed trials are run again.

    Raises:
        ValueError: if one of them is out of range or fits no other.
    """

    jobs: int | None = None
    backend: str = "loky"
    address: str | None = None
    shard: Shard = WHOLE
    data_dir: Path | None = None
    retry: bool = False

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"--backend must be one of {', '.join(BACKENDS)}, got {self.backend!r}")
        if self.jobs is not None and self.jobs < 1:
            raise ValueError(f"--jobs must be at least 1, got {self.jobs}")
        if self.address is not None and self.backend == "loky":
            raise ValueError("--address is that of a cluster: give --backend ray as well")


@dataclass(frozen=True)
class Placement:
    """Where trials run.

    Attributes:
        backend: The processes.
        threads: Threads of each.
        gpus: Names of the GPUs they share; of a cluster none, which hands them out itself.
    """

    backend: Backend
    threads: int
    gpus: tuple[str, ...]


def place(trials: Sequence[Trial], count: int, options: RunOptions) -> Placement:
    """Choose the processes for these trials and others like them.

    Args:
        trials: Some of the trials.
        count: Number of all that may run at a time.
        options: What was asked for.
    """
    devices = max(device_count(trial.words) for trial in trials)
    if options.backend == "ray":
        from steepest.study.cluster import RayBackend

        threads = threads_of(cpu_count())  # one, unless OMP_NUM_THREADS says otherwise
        backend = RayBackend(options.address, options.jobs, threads, devices if may_use_gpus(trials) else 0)
        return Placement(backend, threads, ())
    gpus = gpus_for(trials)
    jobs = min(options.jobs or default_jobs(trials, gpus), max(1, count))
    threads = threads_of(jobs)
    return Placement(LokyBackend(jobs, threads, gpus, devices), threads, tuple(gpus))


def note_environment(folder: Path, placement: Placement, options: RunOptions) -> None:
    """Write the folder's `environment.json`."""
    engine = {"backend": options.backend, "jobs": placement.backend.jobs, "threads": placement.threads}
    write_environment(folder, engine, list(placement.gpus))
