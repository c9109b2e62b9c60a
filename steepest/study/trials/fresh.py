"""Calls in processes that start afresh, without the seconds that importing torch and Lightning takes each of them.

A server imports them once and forks a process for every call (`forkserver` of Python's multiprocessing). It runs no
operation of torch, so that neither CUDA nor threads of torch are there to be forked; a process is over with its call,
and whatever the call left in it, or died of, concerns no other one.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from steepest.run.ranks import end_with_parent, interrupts_ignored

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["steepest.study.trials.preloaded"])
# A start asks after all processes that ended, and how one ended can be read only once.
_LOCK = threading.Lock()


@dataclass(frozen=True)
class WorkerDied:
    """Stands for the outcome of a call whose process was killed.

    Attributes:
        reason: What is known about it, in one line.
    """

    reason: str


class FreshProcesses:
    """Starts processes for calls, and ends those that still run.

    Args:
        jobs: Calls at a time.
        environment: Variables for the processes, beside those of this one.
        prepare: Called in each process before the call, with `arguments`.
        arguments: For `prepare`.
    """

    def __init__(
        self,
        jobs: int,
        environment: Mapping[str, str] | None = None,
        prepare: Callable[..., None] | None = None,
        arguments: tuple = (),
    ) -> None:
        self._environment = dict(environment or {})
        self._prepare, self._arguments = prepare, arguments
        self._threads = ThreadPoolExecutor(jobs)
        self._running: set[BaseProcess] = set()
        self._closed = False

    def submit(self, function: Callable[[Any], Any], task: Any) -> Future:
        """Start a call; its outcome is what the function returns or raises, or a `WorkerDied`."""
        _start_server(self._environment)
        return self._threads.submit(self._call, function, task)

    def close(self) -> None:
        """Kill what is running."""
        with _LOCK:
            self._closed = True
            for process in self._running:
                process.kill()
        self._threads.shutdown(cancel_futures=True)

    def _call(self, function: Callable[[Any], Any], task: Any) -> Any:
        reader, writer = _CONTEXT.Pipe(duplex=False)
        environment = {**os.environ, **self._environment}
        process = _CONTEXT.Process(
            target=_answer, args=(writer, function, task, environment, self._prepare, self._arguments)
        )
        with reader:
            with writer, _LOCK:
                if self._closed:
                    return WorkerDied("it was not started")
                process.start()
                self._running.add(process)
            # Not the end of the pipe alone: processes that the call has forked may hold it open.
            wait([reader, process.sentinel])
            try:
                answer = reader.recv() if reader.poll() else None
            except EOFError:
                answer = None
        wait([process.sentinel])
        with _LOCK:
            process.join()
            self._running.discard(process)
        if answer is None:
            return WorkerDied(_reason(process.exitcode or 0))
        returned, outcome = answer
        if not returned:
            raise outcome
        return outcome


def call_in_fresh_process(function: Callable[[Any], Any], task: Any) -> Any:
    """Call the function in a process of its own; returns what it returns, or a `WorkerDied`."""
    processes = FreshProcesses(1)
    try:
        return processes.submit(function, task).result()
    finally:
        processes.close()


def _start_server(environment: Mapping[str, str]) -> None:
    # Libraries read numbers of threads when they are imported.
    kept = dict(os.environ)
    os.environ.update(environment)
    try:
        # Ctrl-C reaches all processes of a terminal: the one that was started by hand ends the others.
        with interrupts_ignored():
            forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(kept)


def _answer(
    writer: Connection,
    function: Callable[[Any], Any],
    task: Any,
    environment: Mapping[str, str],
    prepare: Callable[..., None] | None,
    arguments: tuple,
) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    if threads := environment.get("OMP_NUM_THREADS", ""):
        torch.set_num_threads(int(threads))  # the server may have been started for others
    end_with_parent(os.getppid())
    if prepare is not None:
        prepare(*arguments)
    try:
        answer = (True, function(task))
    except BaseException as error:
        answer = (False, error)
    writer.send(answer)


def _reason(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "; a process killed by SIGKILL has often run out of memory" if -code == signal.SIGKILL else ""
    return f"its process died of {name}{hint}"
