"""Calls on a Ray cluster."""

import os
import re
import socket
from collections.abc import Callable
from concurrent.futures import Future
from importlib import import_module
from typing import Any

CONNECTING = 10.0  # seconds to wait for a cluster's answer


class RayBackend:
    """Workers of a Ray cluster, all of whose machines see the study's folder under the same path.

    Args:
        address: `host:port` of a running cluster, `ray://host:port` of its client server, or `auto`; None takes the one
            named by RAY_ADDRESS, or starts one on this machine.
        jobs: Calls at a time; None takes as many as the cluster has room for.
        threads: Cores of each.
        gpus: GPUs of each, where the cluster has any.

    Raises:
        ValueError: if Ray is not installed, or the address is none.
        OSError: if there is no cluster at the address.
    """

    shared_fate = False

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
        self._options: dict[str, Any] = {"num_cpus": threads, "num_gpus": gpus, "max_retries": 0}
        self._functions: dict[Callable, Any] = {}

    def submit(self, function: Callable[[Any], Any], task: Any) -> Future:
        """Start a call."""
        if function not in self._functions:
            self._functions[function] = self._ray.remote(**self._options)(function)
        return self._functions[function].remote(task).future()

    def restart(self) -> None:
        """Nothing: Ray replaces its workers itself."""

    def close(self, kill: bool) -> None:
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
