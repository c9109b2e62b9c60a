"""Processes for many calls: order, reuse, deaths, endings, and what a process is started with."""

import os
import signal
import subprocess
import time

import pytest

from steepest.study import capacity, gpus
from steepest.study.backends import RunOptions
from steepest.study.capacity import default_jobs, free_memory, threads_of
from steepest.study.engine import Engine, LokyBackend, WorkerDied
from steepest.study.shard import Shard, parse_shard
from tests.study.small_studies import first_trial, wait_for


def children() -> set[int]:
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return {int(line.split()[0]) for line in listed.stdout.splitlines() if "popen_loky" in line}


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_call_is_made_once_in_processes_that_are_reused(jobs) -> None:
    def call(task: int) -> tuple[int, int, bool, str]:
        time.sleep(0.05 * (task == 0))
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        return task**2, os.getpid(), ignored, os.environ["OMP_NUM_THREADS"]

    before = children()
    with Engine(LokyBackend(jobs, threads=7)) as engine:
        outcomes = dict(engine.run(call, range(12)))
        again = dict(engine.run(call, range(3)))
    assert {task: outcome[0] for task, outcome in outcomes.items()} == {task: task**2 for task in range(12)}
    pids = {outcome[1] for outcome in [*outcomes.values(), *again.values()]}
    assert len(pids) <= jobs
    assert os.getpid() not in pids
    assert {outcome[2:] for outcome in outcomes.values()} == {(True, "7")}
    assert children() == before


def test_outcomes_come_as_they_end() -> None:
    def call(task: float) -> float:
        time.sleep(task)
        return task

    with Engine(LokyBackend(2, 1)) as engine:
        list(engine.run(call, [0.0, 0.0]))  # both processes are up
        assert [task for task, _ in engine.run(call, [0.6, 0.1, 0.15])] == [0.1, 0.15, 0.6]


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_process_that_is_killed_costs_only_its_own_call(jobs) -> None:
    def call(task: int) -> int:
        if task in (1, 5):
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        return task

    with Engine(LokyBackend(jobs, 1)) as engine:
        outcomes = dict(engine.run(call, range(8)))
    assert {task: outcome for task, outcome in outcomes.items() if outcome != task}.keys() == {1, 5}
    assert len(outcomes) == 8
    for task in (1, 5):
        assert isinstance(outcomes[task], WorkerDied)
        assert "died of SIGKILL" in outcomes[task].reason


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_ends_all_processes_at_once(clean_process, error) -> None:
    def call(task: int) -> None:
        if task == 0 and isinstance(error, OSError):
            raise error
        time.sleep(60)

    before, start = children(), time.monotonic()
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 2.0)
    with pytest.raises(type(error)), Engine(LokyBackend(2, 1)) as engine:
        list(engine.run(call, range(4)))
    assert time.monotonic() - start < 30
    wait_for(lambda: children() == before, timeout=10)


def test_each_process_takes_gpus_of_its_own_and_shares_when_there_are_none_left(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the claims are

    def call(_: int) -> tuple[int, tuple[str | None, ...]]:
        return os.getpid(), (os.environ.get("CUDA_VISIBLE_DEVICES"), *gpus.claimed_gpus())

    def claims(jobs: int, names: list[str], devices: int = 1) -> list[tuple[str | None, ...]]:
        seen = {}
        with Engine(LokyBackend(jobs, 1, names, devices)) as engine:
            while len(seen) < jobs:  # until every process has had a call
                seen |= dict(outcome for _, outcome in engine.run(call, range(jobs)))
        return sorted(seen.values())

    first, second = ("3", "3"), ("GPU-5/a", "GPU-5/a")  # what it sees, and what is its own
    assert claims(2, ["3", "GPU-5/a"]) == [first, second]
    assert claims(2, ["3", "GPU-5/a"]) == [first, second]  # free again
    assert claims(4, ["3", "GPU-5/a"]) == [first, first, second, second]
    # Of trials on two devices, two at a time: the fifth is nobody's.
    assert claims(2, list("01234"), devices=2) == [("0", "0", "1"), ("2", "2", "3")]
    assert claims(2, list("012"), devices=2) == [("0", "0", "1")] * 2  # more at a time than there is room for
    assert claims(1, ["7"], devices=2) == [("7", "7")]  # the trial will say what it lacks
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        assert claims(1, []) == [(None,)]


def test_gpus_are_named_as_the_environment_names_them(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6")
    assert gpus.visible_gpus() == ["4", "6"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpus.visible_gpus() == ["0", "1"]


def test_as_many_trials_run_as_there_is_room_for(tmp_path, monkeypatch) -> None:
    trial = first_trial(tmp_path)[1]
    monkeypatch.setattr(capacity, "cpu_count", lambda: 8)
    monkeypatch.setattr(capacity, "free_memory", lambda: 100 * 2**30)
    assert default_jobs([trial] * 20, []) == 8
    assert default_jobs([trial] * 3, []) == 3
    assert default_jobs([trial] * 20, ["0", "1"]) == 2
    monkeypatch.setattr(capacity, "free_memory", lambda: 7 * 2**30)
    assert default_jobs([trial] * 20, []) == 3
    monkeypatch.setattr(capacity, "free_memory", lambda: 0)
    assert default_jobs([trial] * 20, []) == 1
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_of(jobs) for jobs in (1, 3, 8, 20)] == [8, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads_of(3) == 5


def test_free_memory_is_that_of_this_machine() -> None:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memory = free_memory()
    assert memory is not None
    assert 0 < memory <= pages


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_make_up_the_whole(tmp_path, count) -> None:
    study, _ = first_trial(tmp_path, seeds=5)
    from steepest.study.plan import final_trials

    trials = final_trials(study, {})
    shares = [parse_shard(f"{index}/{count}").share(trials) for index in range(1, count + 1)]
    assert sorted(trial.key for share in shares for trial in share) == sorted(trial.key for trial in trials)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    # Whatever the order in which the plan lists them.
    assert {trial.key for trial in Shard(1, count).share(trials[::-1])} == {trial.key for trial in shares[0]}


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_a_wrong_share_is_refused(text) -> None:
    with pytest.raises(ValueError, match=r"--shard must be i/n with 1 <= i <= n, such as 2/8, got"):
        parse_shard(text)


def test_options_of_running_are_checked() -> None:
    for options, said in (
        ({"jobs": 0}, "--jobs must be at least 1, got 0"),
        ({"backend": "dusk"}, "--backend must be one of loky, ray, got 'dusk'"),
        ({"address": "host:1"}, "give --backend ray as well"),
    ):
        with pytest.raises(ValueError, match=said):
            RunOptions(**options)
