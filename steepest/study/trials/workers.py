"""Many calls of one function in processes of this machine or of a cluster: how many, with which GPUs, handed back.

Behind every backend is a `submit` that returns a future of `concurrent.futures`.
"""

import contextlib
import itertools
import os
import platform
import re
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar

from filelock import FileLock, Timeout
from joblib import cpu_count

from steepest.diagnostics.common.artifacts import save_json
from steepest.run.record import git_commit, versions
from steepest.study.trials.fresh import FreshProcesses, WorkerDied, call_in_fresh_process
from steepest.study.trials.plan import WHOLE, Shard, Trial, device_count, trainer_option

Task = TypeVar("Task")

BACKENDS = ("local", "ray")
MEMORY_OF_A_TRIAL = 2 * 2**30  # bytes: libraries, a small data set, a small network and its optimizer
CONNECTING = 10.0  # seconds to wait for a cluster's answer


class Backend(Protocol):
    """Where calls run.

    Attributes:
        jobs: Calls at a time.
        deaths: Exceptions of a future whose machine or process is gone.
    """

    jobs: int
    deaths: tuple[type[BaseException], ...]

    def submit(self, function: Callable[[Any], Any], task: Any) -> Future:
        """Start a call; its outcome is a `WorkerDied` if its process was killed."""
        ...

    def close(self) -> None:
        """Leave no process behind."""
        ...


class Engine:
    """Runs calls on a backend; use it as a context.

    Args:
        backend: Where they run.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.backend.close()

    def run(self, function: Callable[[Task], Any], tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        """Call the function with every task; yields task and outcome in the order in which they end.

        Args:
            function: Called in another process, found there by its name; an exception of it ends everything.
            tasks: What it is called with.
        """
        todo, running = deque(tasks), dict[Future, Task]()
        while todo or running:
            while todo and len(running) < self.backend.jobs:
                task = todo.popleft()
                running[self.backend.submit(function, task)] = task
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task = running.pop(future)
                try:
                    outcome = future.result()
                except self.backend.deaths as error:
                    outcome = WorkerDied(f"its machine or process is gone: {' '.join(str(error).split())[:200]}")
                yield task, outcome


class LocalBackend:
    """Processes of this machine, a fresh one for each call.

    Args:
        jobs: Calls at a time.
        threads: Threads of each.
        gpus: Names of GPUs for `CUDA_VISIBLE_DEVICES`, of which each process takes its own; none for none.
        devices: How many of them each process takes.
    """

    deaths: tuple[type[BaseException], ...] = ()

    def __init__(self, jobs: int, threads: int, gpus: Sequence[str] = (), devices: int = 1) -> None:
        self.jobs = jobs
        environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        processes = FreshProcesses(jobs, environment, claim_gpus, (tuple(gpus), devices))
        self.submit, self.close = processes.submit, processes.close


@dataclass(frozen=True)
class RunOptions:
    """How a study's trials are run; none of it changes their numbers.

    Attributes:
        jobs: Trials at a time; None takes as many as there is room for.
        backend: `local` for processes of this machine, `ray` for a Ray cluster.
        address: Of the cluster.
        shard: The share of the trials that is run.
        data_dir: Folder of data that lie in files.
        retry: Whether failed trials are run again.

    Raises:
        ValueError: if one of them is out of range or does not go with another.
    """

    jobs: int | None = None
    backend: str = "local"
    address: str | None = None
    shard: Shard = WHOLE
    data_dir: Path | None = None
    retry: bool = False

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"--backend must be one of {', '.join(BACKENDS)}, got {self.backend!r}")
        if self.jobs is not None and self.jobs < 1:
            raise ValueError(f"--jobs must be at least 1, got {self.jobs}")
        if self.address is not None and self.backend == "local":
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
        threads = threads_of(cpu_count())  # one, unless OMP_NUM_THREADS says otherwise
        backend = RayBackend(options.address, options.jobs, threads, devices if may_use_gpus(trials) else 0)
        return Placement(backend, threads, ())
    gpus = gpus_for(trials)
    jobs = min(options.jobs or default_jobs(trials, gpus), max(1, count))
    threads = threads_of(jobs)
    return Placement(LocalBackend(jobs, threads, gpus, devices), threads, tuple(gpus))


def note_environment(folder: Path, placement: Placement, options: RunOptions) -> None:
    """Write the folder's `environment.json`."""
    engine = {"backend": options.backend, "jobs": placement.backend.jobs, "threads": placement.threads}
    write_environment(folder, engine, list(placement.gpus))


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


class RayBackend:
    """Workers of a Ray cluster, all of whose machines see the study's folder under the same path.

    Args:
        address: `host:port` of a running cluster, `ray://host:port` of its client server, or `auto`; None takes the one
            named by RAY_ADDRESS, or starts one on this machine.
        jobs: Calls at a time; None takes as many as the cluster has room for.
        threads: Cores of each.
        gpus: GPUs of each, where the cluster has any.

    Raises:
        ValueError: if Ray is not installed, or the address is not one.
        OSError: if there is no cluster at the address.
    """

    def __init__(self, address: str | None, jobs: int | None, threads: int, gpus: int) -> None:
        try:
            ray: Any = import_module("ray")
        except ImportError as error:
            raise ValueError("--backend ray needs Ray: pip install 'steepest[cluster]'") from error
        self._ray = ray
        _connect(ray, address)
        self.deaths = (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError)
        room = ray.cluster_resources()
        gpus = gpus if room.get("GPU") else 0
        possible = int(room["GPU"]) // gpus if gpus else int(room.get("CPU", 1)) // threads
        self.jobs = max(1, possible) if jobs is None else jobs
        # A trial is repeated by the study, if at all, and not unnoticed.
        self._call = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)(call_in_fresh_process)

    def submit(self, function: Callable[[Any], Any], task: Any) -> Future:
        """Start a call."""
        return self._call.remote(function, task).future()

    def close(self) -> None:
        """Leave the cluster; one that was started here ends, and what still runs elsewhere is stopped."""
        self._ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    address = os.environ.get("RAY_ADDRESS") if address is None else address
    if address not in (None, "auto", "local"):
        _knock(address)
    try:
        ray.init(address=address, logging_level="error", log_to_driver=False, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConnectionError(f"no Ray cluster at {address or 'this machine'}: {reason}") from error


def _knock(address: str) -> None:
    """Fail within seconds where nothing listens; Ray itself would try for minutes."""
    match = re.fullmatch(r"(?:ray://)?(?P<host>[^:/]+|\[[^]]+\]):(?P<port>\d{1,5})", address)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(f"--address must be host:port, ray://host:port or auto, got {address!r}")
    try:
        socket.create_connection((match["host"].strip("[]"), int(match["port"])), timeout=CONNECTING).close()
    except OSError as error:
        raise ConnectionError(f"no Ray cluster at {address}: {error.strerror or error}") from error


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


# Held as long as the process lives.
_CLAIMS: dict[str, FileLock] = {}


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return [name.strip() for name in named.split(",")][:count] if named else [str(index) for index in range(count)]


def claim_gpus(gpus: Sequence[str], count: int) -> None:
    """Claim GPUs for this process: such that no other process of a study on this machine has claimed.

    It sees the first of them only, for trials that run in it; `claimed_gpus` names all. If too few are left, they are
    shared evenly. It must come before CUDA starts in the process.

    Args:
        gpus: The names to choose from; without any nothing happens.
        count: How many; if there are fewer, all of them.
    """
    if not gpus:
        return
    folder = Path(tempfile.gettempdir(), f"steepest-gpus-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    # One process chooses at a time: two that each hold a part of what both need would get nothing.
    with FileLock(folder / "choosing.lock"):
        for share in itertools.count():
            for gpu in gpus:
                lock = FileLock(folder / f"{gpu.replace('/', '_')}.{share}.lock")
                with contextlib.suppress(Timeout):
                    lock.acquire(blocking=False)
                    _CLAIMS[gpu] = lock
                if len(_CLAIMS) == min(count, len(gpus)):
                    os.environ["CUDA_VISIBLE_DEVICES"] = next(iter(_CLAIMS))
                    return
            while _CLAIMS:
                _CLAIMS.popitem()[1].release()


def claimed_gpus() -> tuple[str, ...]:
    """The GPUs that are this process's own; none if it has claimed none."""
    return tuple(_CLAIMS)
