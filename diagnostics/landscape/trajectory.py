"""The weights a training run passed through: snapshots in files, thinned when they become many."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steepest.common.atomic import replacing

NamedWeights = Mapping[str, Tensor]


class Trajectory:
    """Snapshots of named weights at steps, at most `limit` of them, evenly spread over the run.

    When there are more, every second one is dropped and `every` doubles: a run of any length leaves between half the
    limit and the limit. What is left depends on the steps alone, not on where a run was interrupted.

    Args:
        limit: Largest number of snapshots, at least 4.
        every: Steps between snapshots at the start, at least 1.
        folder: Where the files lie; None keeps the snapshots in memory and in `state_dict`.

    Attributes:
        steps: Of the snapshots, ascending.
        every: Steps between snapshots now.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, limit: int, every: int, folder: Path | None = None) -> None:
        if limit < 4 or every < 1:
            raise ValueError(f"a trajectory needs a limit of at least 4 and a step of at least 1, got {limit}, {every}")
        self.limit = limit
        self.every = every
        self.folder = folder
        self.steps: list[int] = []
        self._kept: dict[int, dict[str, Tensor]] = {}

    def add(self, step: int, weights: NamedWeights | None) -> None:
        """Append a snapshot of a later step than the last; a process that only counts along passes None."""
        if weights is not None:
            if self.folder is None:
                self._kept[step] = {name: weight.detach().cpu().clone() for name, weight in weights.items()}
            else:
                save_snapshot(snapshot_path(self.folder, step), step, weights)
        self.steps.append(step)
        if len(self.steps) > self.limit:
            dropped = self.steps[1::2]
            self.steps, self.every = self.steps[::2], 2 * self.every
            for step in dropped if weights is not None else ():
                self._kept.pop(step, None)
                if self.folder is not None:
                    snapshot_path(self.folder, step).unlink(missing_ok=True)

    def load(self, step: int) -> NamedWeights:
        """The weights of one of `steps`.

        Raises:
            FileNotFoundError: if its file is gone.
            ValueError: if its file is damaged.
        """
        return self._kept[step] if self.folder is None else load_snapshot(snapshot_path(self.folder, step))

    def state_dict(self) -> dict[str, Any]:
        """Which snapshots there are and where; themselves only if they are in no files."""
        folder = None if self.folder is None else str(self.folder.resolve())
        return {"steps": list(self.steps), "every": self.every, "folder": folder, "snapshots": dict(self._kept)}

    def load_state_dict(self, state: Mapping[str, Any], copy: bool = True) -> list[int]:
        """Continue the trajectory of another run.

        Args:
            state: From `state_dict`.
            copy: Whether to copy its files into this one's folder, which one process does for all.

        Returns:
            Steps whose files are gone; the trajectory continues without them.
        """
        self.steps, self.every = list(state["steps"]), state["every"]
        source = None if state["folder"] is None else Path(state["folder"])
        snapshots = {step: dict(weights) for step, weights in state["snapshots"].items()}
        gone = []
        for step in self.steps if copy else ():
            path = None if source is None else snapshot_path(source, step)
            if path is not None and not path.is_file():
                gone.append(step)
            elif self.folder is None:
                self._kept[step] = snapshots[step] if path is None else dict(load_snapshot(path))
            elif path is None:
                save_snapshot(snapshot_path(self.folder, step), step, snapshots[step])
            elif path.resolve() != snapshot_path(self.folder, step).resolve():
                with replacing(snapshot_path(self.folder, step)) as partial:
                    shutil.copyfile(path, partial)
        self.steps = [step for step in self.steps if step not in gone]
        return gone


class FewSnapshots(Sequence[list[Tensor]]):
    """Some snapshots of a trajectory as lists of tensors, loaded when asked for.

    Args:
        trajectory: With the snapshots.
        shapes: Name and value of the weights at the end of the trajectory, in order: what the snapshots must fit.
    """

    def __init__(self, trajectory: Trajectory, shapes: NamedWeights) -> None:
        self.trajectory = trajectory
        self.shapes = shapes

    def __len__(self) -> int:
        return len(self.trajectory.steps)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        step = self.trajectory.steps[index]
        return fitting(self.trajectory.load(step), self.shapes, f"the snapshot of step {step}")


def fitting(weights: NamedWeights, shapes: NamedWeights, name: str) -> list[Tensor]:
    """The tensors of `weights` that `shapes` names, in its order.

    Raises:
        ValueError: if one is missing or has another shape: they are of another model.
    """
    for key, own in shapes.items():
        if key not in weights:
            raise ValueError(f"{name} belongs to another model: it has no {key}")
        if weights[key].shape != own.shape:
            raise ValueError(
                f"{name} belongs to another model: {key} has shape {tuple(weights[key].shape)} there and "
                f"{tuple(own.shape)} here"
            )
    return [weights[key] for key in shapes]


def snapshot_path(folder: Path, step: int) -> Path:
    """The file of a step's snapshot."""
    return folder / f"step_{step:09d}.pt"


def recorded(folder: Path, until: int) -> Trajectory:
    """The trajectory whose files lie in a folder, up to a step."""
    trajectory = Trajectory(limit=4, every=1, folder=folder)
    found = (path.stem.removeprefix("step_") for path in folder.glob("step_*.pt"))
    trajectory.steps = sorted(int(step) for step in found if step.isdigit() and int(step) <= until)
    return trajectory


def save_snapshot(path: Path, step: int, weights: NamedWeights) -> None:
    """Write weights to a file."""
    content = {"step": step, "weights": {name: weight.detach().cpu().clone() for name, weight in weights.items()}}
    with replacing(path) as partial:
        torch.save(content, partial)


def load_snapshot(path: Path) -> NamedWeights:
    """Map the weights in a file into memory: only what is used is read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no snapshot at {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["weights"]
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is not a snapshot of weights or is damaged ({reason[:120]})") from error
