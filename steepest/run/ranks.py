"""Processes of one machine that train together: they end together, and only one of them says why.

Rank zero starts the others as repetitions of its own command. Lightning leaves it to a thread to kill everything some
seconds after one has died, without a word and without the end of `run.json`.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from steepest.compat import ScriptLauncher, forks, repeats_command, replace_launcher
from steepest.errors import BAD_INPUT, TERMINATED, exit_code, is_from_users_code, is_termination, one_line

# Folder in which the started ranks leave their error for rank zero to print.
ERRORS = "STEEPEST_ERRORS"
# The process id with which a command is to end.
ENDS_WITH_PARENT = "STEEPEST_ENDS_WITH_PARENT"

GRACE = 10.0  # seconds for rank zero to notice a dead rank by itself and write its figures
PATIENCE = 5.0  # seconds in which the rank that broke a connection is seen to be dead
FAREWELL = 60.0  # seconds for the other ranks to end after rank zero is done

_LOST_CONNECTION = re.compile(
    r"gloo/|connection (was )?(closed|reset|refused)|broken pipe|socket ?timeout|TCPStore|NCCL", re.IGNORECASE
)


class DeadRankError(RuntimeError):
    """Another process of the run has died."""


class RankLauncher(ScriptLauncher):
    """Lightning's launcher, with a watch over the started ranks that lets rank zero end in order.

    Args:
        launcher: The launcher whose place this one takes.
        on_stuck: Called with the error, from another thread, before the process is ended hard because rank zero waits
            for a dead rank. It may raise SystemExit to choose the exit code.
    """

    def __init__(self, launcher: Any, on_stuck: Callable[[BaseException], None]) -> None:
        super().__init__(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)
        self.on_stuck = on_stuck
        self.ending = threading.Event()
        self.errors: Path | None = None

    def launch(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        """Start the other ranks if nobody else does, and run `function`."""
        if not self.cluster_environment.creates_processes_externally:
            self.errors = Path(tempfile.mkdtemp(prefix="steepest-"))
            os.environ[ERRORS] = str(self.errors)
            # Afterwards the environment says that there are processes already: none are started twice.
            with interrupts_ignored(), _told_to_end_with_this_process():
                self.start_ranks()
            threading.Thread(target=self._watch, daemon=True, name="rank-watch").start()
        return super().launch(function, *args, **kwargs)

    def cause(self, error: BaseException) -> BaseException:
        """What really ended the run: an error of rank zero itself, or the death of another rank that led to it."""
        if not is_lost_connection(error):
            return error
        deadline = time.monotonic() + PATIENCE
        while self.procs and time.monotonic() < deadline:
            death = self._death()
            if death is not None:
                return death
            time.sleep(0.05)
        return DeadRankError(f"the connection to another rank was lost ({one_line(error)[:200]})")

    def join(self) -> None:
        """Wait for the other ranks to end as well.

        Raises:
            DeadRankError: if one of them failed or does not end.
        """
        self.ending.set()
        deadline = time.monotonic() + FAREWELL
        try:
            for rank, process in enumerate(self.procs, start=1):
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    raise DeadRankError(f"rank {rank} did not end within {FAREWELL:.0f} s of rank 0") from None
            death = self._death()
            if death is not None:
                raise death
        finally:
            self.end()

    def end(self) -> None:
        """Leave no process and no file behind."""
        self.ending.set()
        for process in self.procs:
            if process.poll() is None:
                process.kill()
            process.wait()
        if self.errors is not None:
            for path in self.errors.iterdir() if self.errors.is_dir() else ():
                path.unlink()
            with contextlib.suppress(OSError):
                self.errors.rmdir()
            os.environ.pop(ERRORS, None)

    def _death(self) -> BaseException | None:
        failed = [(rank, process.returncode) for rank, process in enumerate(self.procs, 1) if process.poll()]
        reported = {rank: self._reported(rank) for rank, _ in failed}
        # A rank that only lost its connection to another one is a victim, not the cause.
        for rank, code in failed:
            if code == TERMINATED:
                return SIGTERMException()
            if code < 0:
                return DeadRankError(f"rank {rank} died (killed by signal {-code}{_signal_name(-code)})")
            report = reported[rank]
            if report is not None and not report["lost_connection"]:
                failure = ValueError if report["code"] == BAD_INPUT else DeadRankError
                return failure(f"rank {rank}: {report['message']}")
        silent = [(rank, code) for rank, code in failed if reported[rank] is None]
        return DeadRankError(f"rank {silent[0][0]} died (exit code {silent[0][1]})") if silent else None

    def _reported(self, rank: int) -> dict[str, Any] | None:
        path = None if self.errors is None else self.errors / f"{rank}.json"
        return json.loads(path.read_text()) if path is not None and path.is_file() else None

    def _watch(self) -> None:
        while not any(process.poll() for process in self.procs):
            if self.ending.wait(0.2):
                return
        # With gloo rank zero notices at once, with NCCL it may wait for the dead rank until a timeout of many minutes.
        # A rank that was terminated is not a reason to hurry: most often rank zero was too, and is ending in order.
        death = self._death() or DeadRankError("another rank died")
        if self.ending.wait(FAREWELL if is_termination(death) else GRACE):
            return
        code = 1
        try:
            self.on_stuck(death)
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 1
        finally:
            os._exit(code)


def watch_ranks(trainer: Any, on_stuck: Callable[[BaseException], None]) -> RankLauncher | None:
    """Give the trainer our launcher if it starts processes by repeating the command; returns it.

    Raises:
        ValueError: if the strategy forks or spawns its processes from this one.
    """
    if forks(trainer):
        raise ValueError(
            "--trainer.strategy must not fork or spawn: that is for notebooks, and brings neither metrics nor "
            "diagnostics back to the command; choose ddp"
        )
    if not repeats_command(trainer):
        return None
    launcher = RankLauncher(trainer.strategy.launcher, on_stuck)
    replace_launcher(trainer, launcher)
    return launcher


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error only says that another process is gone."""
    if type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError"):
        return True
    return isinstance(error, RuntimeError) and _LOST_CONNECTION.search(str(error)) is not None


def is_started_by_rank_zero() -> bool:
    """Whether this process is one of those that `RankLauncher` started."""
    return ERRORS in os.environ and rank_zero_only.rank != 0


def leave_error_to_rank_zero(error: BaseException) -> None:
    """Note the error where rank zero finds it, if it is one of the kind that takes one line, and end."""
    if is_termination(error):
        raise SystemExit(TERMINATED)  # rank zero says so
    lost = is_lost_connection(error)
    code = 1 if lost else exit_code(error)
    if code is None or (is_from_users_code(error) and not lost):
        return  # a defect: its traceback is worth printing here
    folder = Path(os.environ[ERRORS])
    with contextlib.suppress(OSError):
        partial = folder / f"{os.environ['LOCAL_RANK']}.partial"
        partial.write_text(json.dumps({"message": one_line(error), "code": code, "lost_connection": lost}))
        partial.replace(partial.with_suffix(".json"))
    raise SystemExit(code)


@contextlib.contextmanager
def _told_to_end_with_this_process() -> Iterator[None]:
    # By number: who looks at its parent only when all is imported may find that it is gone already.
    before = os.environ.get(ENDS_WITH_PARENT)
    os.environ[ENDS_WITH_PARENT] = str(os.getpid())
    try:
        yield
    finally:
        if before is None:
            del os.environ[ENDS_WITH_PARENT]
        else:
            os.environ[ENDS_WITH_PARENT] = before


def end_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone, also in the middle of waiting for another one.

    Args:
        parent: Its process id.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


@contextlib.contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Let processes started meanwhile ignore Ctrl-C, which a terminal sends to all: who started them ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return f", {signal.Signals(number).name}"
    return ""
