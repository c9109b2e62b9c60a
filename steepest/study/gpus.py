"""Which process trains on which GPU."""

import itertools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

# Held as long as the process lives.
_CLAIMS: list[FileLock] = []


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return [name.strip() for name in named.split(",")][:count] if named else [str(index) for index in range(count)]


def claim_gpu(gpus: Sequence[str]) -> None:
    """Let this process see one GPU only: one that no other process of a study on this machine has claimed.

    If all are taken, they are shared evenly. It must come before CUDA starts in the process.

    Args:
        gpus: The names to choose from; without any nothing happens.
    """
    if not gpus:
        return
    folder = Path(tempfile.gettempdir(), f"steepest-gpus-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    for share in itertools.count():
        for gpu in gpus:
            lock = FileLock(folder / f"{gpu.replace('/', '_')}.{share}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            _CLAIMS.append(lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            return
