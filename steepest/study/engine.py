"""Many calls of one function in processes of this machine or of a cluster, handed back as they end.

Behind every backend is a `submit` that returns a future of `concurrent.futures`. Of joblib its pool of processes is
used, not `joblib.Parallel`: that one runs a single job in the own process, does not tell which call a dead process was
busy with, and has no results in order of completion on a Ray cluster.
"""

import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor

from steepest.orphans import end_with_parent
from steepest.study.gpus import claim_gpus

Task = TypeVar("Task")


@dataclass(frozen=True)
class WorkerDied:
    """Stands for the outcome of a call whose process was killed while nothing else ran beside it.

    Attributes:
        reason: What is known about it, in one line.
    """

    reason: str


class Backend(Protocol):
    """Where calls run.

    Attributes:
        jobs: Calls at a time.
        deaths: Exceptions of a future whose process was killed.
        shared_fate: Whether the death of one process loses all calls that were running.
    """

    jobs: int
    deaths: tuple[type[BaseException], ...]
    shared_fate: bool

    def submit(self, function: Callable[[Any], Any], task: Any) -> Future:
        """Start a call."""
        ...

    def restart(self) -> None:
        """Be ready again after a death."""
        ...

    def close(self, kill: bool) -> None:
        """Leave no process behind, waiting for none if `kill`."""
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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.backend.close(kill=kind is not None)

    def run(self, function: Callable[[Task], Any], tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        """Call the function with every task; yields task and outcome in the order in which they end.

        The calls that were running when a process died are repeated one at a time, until one dies alone: its outcome is
        a `WorkerDied`, and all others have their own.

        Args:
            function: Called in another process; an exception of it ends everything.
            tasks: What it is called with.
        """
        todo, suspects = deque(tasks), deque[Task]()
        while todo or suspects:
            queue, width = (suspects, 1) if suspects else (todo, self.backend.jobs)
            lost: list[tuple[Task, WorkerDied]] = []
            for task, outcome in self._until_break(function, queue, width):
                if isinstance(outcome, WorkerDied) and self.backend.shared_fate:
                    lost.append((task, outcome))
                else:
                    yield task, outcome
            if len(lost) == 1:
                yield lost[0]
            else:
                suspects.extend(task for task, _ in lost)

    def _until_break(
        self, function: Callable[[Task], Any], queue: deque[Task], width: int
    ) -> Iterator[tuple[Task, Any]]:
        """Work off the queue, up to a death that breaks the backend."""
        running: dict[Future, Task] = {}
        broken = False
        while running or (queue and not broken):
            while queue and len(running) < width and not broken:
                try:
                    future = self.backend.submit(function, queue[0])
                except self.backend.deaths:  # of an idle process: nobody's call
                    broken = True
                else:
                    running[future] = queue.popleft()
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task = running.pop(future)
                try:
                    outcome = future.result()
                except self.backend.deaths as error:
                    broken = self.backend.shared_fate
                    outcome = WorkerDied(_reason(error))
                yield task, outcome
        if broken:
            self.backend.restart()


class LokyBackend:
    """Processes of this machine that are reused: importing torch and lightning takes each of them seconds.

    Args:
        jobs: Calls at a time.
        threads: Threads of each.
        gpus: Names of GPUs for `CUDA_VISIBLE_DEVICES`, of which each process takes its own; none for none.
        devices: How many of them each process takes.
    """

    deaths: tuple[type[BaseException], ...] = (cast(type[BaseException], BrokenProcessPool),)
    shared_fate = True

    def __init__(self, jobs: int, threads: int, gpus: Sequence[str] = (), devices: int = 1) -> None:
        self.jobs = jobs
        self._environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self._gpus, self._devices = tuple(gpus), devices
        self._pool: ProcessPoolExecutor | None = None
        # Its remedy for leaking memory, a fresh process, is welcome.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")

    def submit(self, function: Callable[[Any], Any], task: Any) -> Future:
        """Start a call; the first one starts the processes."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.jobs, initializer=_start_worker, initargs=(self._gpus, self._devices), env=self._environment
            )
        return self._pool.submit(function, task)

    def restart(self) -> None:
        """Forget the broken pool."""
        self.close(kill=True)

    def close(self, kill: bool) -> None:
        """End the processes."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, kill_workers=kill)


def _start_worker(gpus: Sequence[str], devices: int) -> None:
    # Ctrl-C reaches all processes of a terminal: the one that was started by hand ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    claim_gpus(gpus, devices)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    signals = [name for name in ("SIGKILL", "SIGSEGV", "SIGABRT", "SIGBUS", "SIGTERM") if name in text]
    return f"its process died{f' of {signals[0]}' if signals else ''}; a process killed by SIGKILL often lacked memory"
