"""Which process trains on which GPU."""

import contextlib
import itertools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

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
