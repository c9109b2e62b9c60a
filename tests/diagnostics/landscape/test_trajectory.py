import pytest
import torch
from torch import Tensor

from steepest.diagnostics.landscape.trajectory import (
    FewSnapshots,
    Trajectory,
    fitting,
    load_snapshot,
    recorded,
    snapshot_path,
)


def weights(step: int) -> dict[str, Tensor]:
    return {"a": torch.full((2, 3), float(step)), "b": torch.tensor([step, -1.0])}


def walk(trajectory: Trajectory, start: int, end: int) -> None:
    for step in range(start, end):
        if step % trajectory.every == 0:
            trajectory.add(step, weights(step))


@pytest.mark.parametrize("in_files", [True, False])
@pytest.mark.parametrize("limit", [4, 7, 10])
def test_it_stays_short_and_even(tmp_path, in_files, limit) -> None:
    folder = tmp_path / "walk" if in_files else None
    trajectory = Trajectory(limit, 1, folder)
    for step in range(200):
        walk(trajectory, step, step + 1)
        assert len(trajectory.steps) <= limit
        assert step < limit or len(trajectory.steps) > limit // 2
    assert trajectory.steps == list(range(0, 200, trajectory.every))[: len(trajectory.steps)]
    for step in trajectory.steps:
        assert all(torch.equal(trajectory.load(step)[name], own) for name, own in weights(step).items())
    if folder is not None:
        assert {path.name for path in folder.iterdir()} == {f"step_{step:09d}.pt" for step in trajectory.steps}
        assert recorded(folder, 199).steps == trajectory.steps
        assert recorded(folder, trajectory.steps[2]).steps == trajectory.steps[:3]


@pytest.mark.parametrize("in_files", [True, False])
@pytest.mark.parametrize("stop", [3, 50, 64, 101])
def test_interrupted_anywhere_it_leaves_the_same(tmp_path, in_files, stop) -> None:
    def trajectory(name: str) -> Trajectory:
        return Trajectory(6, 2, tmp_path / name if in_files else None)

    whole, first, second = trajectory("whole"), trajectory("first"), trajectory("second")
    walk(whole, 0, 150)
    walk(first, 0, stop)
    assert second.load_state_dict(first.state_dict()) == []
    walk(second, stop, 150)
    assert second.steps == whole.steps
    assert second.every == whole.every
    assert all(torch.equal(second.load(step)["a"], whole.load(step)["a"]) for step in whole.steps)


def test_files_that_are_gone_are_named(tmp_path) -> None:
    first = Trajectory(6, 1, tmp_path / "first")
    walk(first, 0, 5)
    snapshot_path(tmp_path / "first", 2).unlink()
    second = Trajectory(6, 1, tmp_path / "second")
    assert second.load_state_dict(first.state_dict()) == [2]
    assert second.steps == [0, 1, 3, 4]
    counting = Trajectory(6, 1, tmp_path / "second")
    assert counting.load_state_dict(first.state_dict(), copy=False) == []


def test_snapshots_of_another_model_and_damaged_ones(tmp_path) -> None:
    trajectory = Trajectory(6, 1, tmp_path)
    walk(trajectory, 0, 3)
    loaded = FewSnapshots(trajectory, weights(0))
    assert [float(snapshot[1][0]) for snapshot in loaded] == [0.0, 1.0, 2.0]
    assert len(loaded[1:]) == 2
    with pytest.raises(ValueError, match="x belongs to another model: it has no c"):
        fitting(weights(0), {"c": torch.zeros(1)}, "x")
    with pytest.raises(
        ValueError, match=r"step 0 belongs to another model: a has shape \(2, 3\) there and \(3,\) here"
    ):
        FewSnapshots(trajectory, {"a": torch.zeros(3)})[0]
    path = snapshot_path(tmp_path, 1)
    for content in (path.read_bytes()[:-100], b"", b"nothing"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"step_000000001\.pt is not a snapshot of weights or is damaged"):
            load_snapshot(path)
    with pytest.raises(FileNotFoundError, match="no snapshot at"):
        load_snapshot(snapshot_path(tmp_path, 9))
    with pytest.raises(ValueError, match="got 3, 1"):
        Trajectory(3, 1)
