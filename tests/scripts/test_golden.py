import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "golden.py"
spec = importlib.util.spec_from_file_location("golden_script", SCRIPT)
assert spec is not None
assert spec.loader is not None
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)


def checkpoint(**changes: Any) -> dict[str, Any]:
    content = {
        "state_dict": {"layer.weight": torch.arange(6.0).view(2, 3), "class_token": torch.zeros(2)},
        "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}],
        "callbacks": {"Monitor": {"total_seconds": 1.5, "history": [1, 2]}},
        "global_step": 3,
        "hyper_parameters": {"_class_path": "old.place"},
    }
    return {**content, **changes}


def run_folder(folder: Path, losses: tuple[str, ...] = ("2.5", "1.5"), seconds: str = "0.1", **changes: Any) -> Path:
    run = folder / "runs" / "small" / "version_0"
    (run / "checkpoints").mkdir(parents=True)
    torch.save(checkpoint(**changes), run / "checkpoints" / "last.ckpt")
    rows = [f"{step},{loss},{seconds}" for step, loss in enumerate(losses)]
    (run / "metrics.csv").write_text("\n".join(["step,train/loss,diagnostics/probe_seconds", *rows]))
    (run / "run.json").write_text(json.dumps({"status": seconds}))
    (run / "flow.json").write_text(json.dumps({"norms": [1.0, None], "seconds": seconds}))
    return folder


def records(tmp_path: Path, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    one, other = run_folder(tmp_path / "one"), run_folder(tmp_path / "other", **changes)
    return {"small": golden.digests(one)}, {"small": golden.digests(other)}


def test_equal_values_have_equal_digests() -> None:
    matrix = torch.arange(6.0).view(2, 3)
    assert golden.digest(matrix) == golden.digest(matrix.t().contiguous().t())  # however they lie in memory
    assert golden.digest(torch.ones(1, 1).expand(1, 4)[:, :1]) == golden.digest(torch.ones(1, 1))
    assert golden.digest({"a": 1, "b": (2.0, None)}) == golden.digest({"b": [2.0, None], "a": 1})
    assert golden.digest({"a": 1, "total_seconds": 1.0, "path": "x"}) == golden.digest({"a": 1})
    assert golden.digest(float("nan")) == golden.digest(float("nan"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2), torch.tensor([0.0, -0.0])),
        (torch.ones(2), torch.tensor([1.0, 1.0 + 2**-23])),
        (torch.ones(2, dtype=torch.bfloat16), torch.tensor([1.0, 1.0 + 2**-7], dtype=torch.bfloat16)),
        (numpy.zeros(2), numpy.zeros(2, dtype=numpy.float32)),
        (0.1 + 0.2, 0.3),
        (1, True),
        (1, 1.0),
        (None, "None"),
        ([1, [2]], [[1], 2]),
        (["ab", "c"], ["a", "bc"]),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        ({"a": 1}, {"b": 1}),
    ],
)
def test_every_difference_shows(one: Any, other: Any) -> None:
    assert golden.digest(one) != golden.digest(other)


def test_what_it_does_not_know_is_an_error() -> None:
    with pytest.raises(TypeError, match="no digest of set"):
        golden.digest({"a": [{1, 2}]})


def test_equal_runs_at_other_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = {"Monitor": {"total_seconds": 9.0, "history": [1, 2]}}
    one, other = records(tmp_path, seconds="0.2", callbacks=moved, hyper_parameters={"_class_path": "new.place"})
    assert set(one["small"]) == {"weights", "optimizer", "progress", "scalars", "files"}
    assert golden.report(one, other) == 0
    assert capsys.readouterr().out == "1 trainings are equal to the bit: small\n"


def test_one_changed_weight(tmp_path: Path) -> None:
    weights = checkpoint()["state_dict"]
    weights["class_token"] = torch.tensor([0.0, 1e-45])
    (line,) = golden.compare(*records(tmp_path, state_dict=weights))
    assert line.startswith("small: weights: 1 of 2 parts differ: ")
    assert line.endswith("last.ckpt: class_token")


def test_changed_optimizer(tmp_path: Path) -> None:
    state = checkpoint()["optimizer_states"][0]
    (line,) = golden.compare(*records(tmp_path, optimizer_states=[{**state, "param_groups": [{"lr": 0.2}]}]))
    assert line.startswith("small: optimizer: 1 of 2 parts differ: ")
    assert line.endswith("0 param_groups")


def test_changed_scalar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = records(tmp_path, losses=("2.5", "1.5000001"))
    one["same"] = other["same"] = one["small"]
    assert golden.report(one, other) == 1
    shown = capsys.readouterr().out.splitlines()
    place = "runs/small/version_0/metrics.csv: train/loss"
    assert shown == [
        "1 trainings are equal to the bit: same",
        f"small: scalars: 1 of 2 parts differ: {place}",
    ]


def test_what_one_record_lacks(tmp_path: Path) -> None:
    one, other = records(tmp_path)
    del other["small"]["files"]
    one["more"] = one["small"]
    more, files = golden.compare(one, other)
    assert more == "more: only in the first record"
    assert files == "small: files: 1 of 1 parts differ: runs/small/version_0/flow.json: all (first only)"


def command(*words: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True)


def test_unknown_training(tmp_path: Path) -> None:
    outcome = command("record", tmp_path / "x.json", "--only", "nothing")
    assert outcome.returncode == 1
    assert "no training is called nothing" in outcome.stderr


@pytest.mark.slow
def test_a_failed_training_leaves_no_record(tmp_path: Path) -> None:
    (tmp_path / "steepest").mkdir()
    (tmp_path / "steepest" / "__main__.py").write_text("raise ValueError('of this tree')")
    outcome = command("record", tmp_path / "x.json", "--only", "toy", "--tree", tmp_path)
    assert outcome.returncode == 1
    assert "toy FAILED: exit code 1" in outcome.stderr
    assert "ValueError: of this tree" in outcome.stderr
    assert not (tmp_path / "x.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_records_of_the_same_code(tmp_path: Path) -> None:
    paths = [tmp_path / "one.json", tmp_path / "other.json"]
    for path in paths:
        outcome = command("record", path, "--only", "toy", "resume")
        assert outcome.returncode == 0, outcome.stderr
    kinds = {"weights", "optimizer", "progress", "scalars", "files"}
    assert set(json.loads(paths[0].read_text())["resume"]) == kinds
    outcome = command("compare", *paths)
    assert outcome.returncode == 0
    assert outcome.stdout == "2 trainings are equal to the bit: resume, toy\n"
