"""Processes that end with the one that started them."""

import os
import time
from types import SimpleNamespace

import pytest
from lightning.pytorch.plugins.environments import LightningEnvironment

from steepest.errors import Failure, fail
from steepest.run.ranks import ENDS_WITH_PARENT, RankLauncher, end_with_parent


def test_an_orphan_ends_by_itself() -> None:
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        if os.fork() == 0:
            end_with_parent(os.getppid())
            os.write(writing, b"watching")
            time.sleep(60)
        os.read(reading, 8)  # the child watches before it becomes an orphan
        os._exit(0)
    os.close(writing)
    os.waitpid(parent, 0)
    start = time.monotonic()
    while os.read(reading, 8):  # ends when the orphan, the last one that could write, is gone
        pass
    os.close(reading)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("before", [None, "17"])
def test_ranks_know_rank_zero_before_they_have_imported_anything(monkeypatch, clean_process, before) -> None:
    # It may be gone when they look at their parent: they would wait for it half an hour.
    for name in (ENDS_WITH_PARENT, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(ENDS_WITH_PARENT, before)
    launcher = RankLauncher(
        SimpleNamespace(cluster_environment=LightningEnvironment(), num_processes=2, num_nodes=1), fail
    )
    told = []

    def start_ranks() -> None:
        told.append(os.environ[ENDS_WITH_PARENT])
        monkeypatch.setenv("LOCAL_RANK", "0")  # as the launcher notes that they are started

    monkeypatch.setattr(launcher, "start_ranks", start_ranks)
    assert launcher.launch(lambda: "done") == "done"
    launcher.end()
    assert told == [str(os.getpid())]
    assert os.environ.get(ENDS_WITH_PARENT) == before


@pytest.mark.parametrize(
    ("variables", "prefix"),
    [
        ({}, "steepest: "),
        ({"RANK": "0", "LOCAL_RANK": "0"}, "steepest: "),
        ({"RANK": "3", "LOCAL_RANK": "1"}, "steepest (rank 3): "),
        ({"SLURM_PROCID": "2"}, "steepest (rank 2): "),
        ({"LOCAL_RANK": "1"}, "steepest (rank 1): "),
    ],
)
def test_an_error_says_which_rank_it_is_of(monkeypatch, capsys, variables, prefix) -> None:
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Failure) as caught:
        fail("it broke", 1)
    assert caught.value.code == 1
    assert capsys.readouterr().err == f"{prefix}error: it broke\n"
