"""Runs one command after another in a process as if each had the process to itself."""

import contextlib
import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Give back what a command changes in its process for good, so that the next one starts as in a fresh process.

    Random states need no care: every command seeds them before it draws a number.
    """
    environment, path, directory, arguments = dict(os.environ), list(sys.path), os.getcwd(), list(sys.argv)
    format_warning = warnings.formatwarning
    handlers = _signal_handlers()
    flags = _torch_flags()
    if handlers:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's raises an exit in the midst of a run
    with warnings.catch_warnings():
        try:
            yield
        finally:
            warnings.formatwarning = format_warning
            _set_torch_flags(*flags)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.chdir(directory)
            sys.path[:], sys.argv[:] = path, arguments
            os.environ.clear()
            os.environ.update(environment)
            _forget_compiled()
            gc.collect()  # models and loaders are circles of references
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()


@contextlib.contextmanager
def output_into(path: Path) -> Iterator[None]:
    """Let everything this process and those it starts print, errors too, go into a file.

    It acts on the file descriptors, so that C libraries, data loaders' workers and handlers of logging that hold an
    earlier `sys.stderr` are included.
    """
    _flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    try:
        with path.open("ab") as file:
            for number in kept:
                os.dup2(file.fileno(), number)
        yield
    finally:
        # A full disk shows itself here too; the descriptors come back nevertheless.
        try:
            _flush()
        finally:
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def _signal_handlers() -> dict[int, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    return {number: handler for number in numbers if (handler := signal.getsignal(number)) is not None}


def _torch_flags() -> tuple:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.get_float32_matmul_precision(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_anomaly_enabled(),
        torch.is_grad_enabled(),
    )


def _set_torch_flags(
    deterministic: bool,
    warn_only: bool,
    benchmark: bool,
    cudnn_deterministic: bool,
    matmul_precision: str,
    dtype: torch.dtype,
    threads: int,
    anomaly: bool,
    grad: bool,
) -> None:
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
    torch.backends.cudnn.benchmark = benchmark
    torch.backends.cudnn.deterministic = cudnn_deterministic
    torch.set_float32_matmul_precision(matmul_precision)
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    torch.autograd.set_detect_anomaly(anomaly)
    torch.set_grad_enabled(grad)


def _forget_compiled() -> None:
    # Compiled code of earlier trials counts against a limit, above which the compiler silently gives up.
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
