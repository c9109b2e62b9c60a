"""Processes for many calls: order, freshness, deaths, endings, and what a process is started with."""

import multiprocessing
import os
import signal
import tempfile
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch

from steepest.study.trials import workers
from steepest.study.trials.fresh import WorkerDied
from steepest.study.trials.plan import Shard, parse_shard
from steepest.study.trials.workers import Engine, LocalBackend, RunOptions, default_jobs, free_memory, threads_of
from tests.steepest.study.small_studies import first_trial, wait_for


def squared(task: int) -> tuple[int, int, bool, str, int]:
    time.sleep(0.05 * (task == 0))
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return task**2, os.getpid(), ignored, os.environ["OMP_NUM_THREADS"], torch.get_num_threads()


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_call_is_made_once_in_a_process_of_its_own(jobs) -> None:
    with Engine(LocalBackend(jobs, threads=2)) as engine:
        outcomes = dict(engine.run(squared, range(6)))
        again = dict(engine.run(squared, range(2)))
    assert {task: outcome[0] for task, outcome in outcomes.items()} == {task: task**2 for task in range(6)}
    assert len({outcome[1] for outcome in [*outcomes.values(), *again.values()]} - {os.getpid()}) == 8
    assert {outcome[2:] for outcome in outcomes.values()} == {(True, "2", 2)}
    assert not multiprocessing.active_children()


def state_and_disturb(_: int) -> tuple:
    """What a call finds; then it leaves what a run may leave."""
    found = (
        os.getcwd(),
        os.environ.get("LEFT"),
        signal.getsignal(signal.SIGTERM),
        list(warnings.filters),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_default_dtype(),
        torch.is_anomaly_enabled(),
        torch.get_float32_matmul_precision(),
        torch.initial_seed(),
        torch.cuda.is_initialized(),
        {thread.name for thread in threading.enumerate()},
    )
    os.environ["LEFT"] = "behind"
    warnings.simplefilter("error")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.use_deterministic_algorithms(True)
    torch.set_default_dtype(torch.float64)
    torch.autograd.set_detect_anomaly(True)
    torch.set_float32_matmul_precision("medium")
    torch.manual_seed(1)
    os.chdir("/")
    return found


def test_what_a_call_leaves_behind_reaches_no_other() -> None:
    with Engine(LocalBackend(1, 1)) as engine:
        first, second = [outcome for _, outcome in engine.run(state_and_disturb, range(2))]
    assert first == second
    assert first[:3] == (os.getcwd(), None, signal.SIG_DFL)
    assert first[-2:] == (False, {"MainThread", "parent-watch"})


def multiplied(size: int) -> float:
    matrix = torch.ones(size, size, requires_grad=True)
    (matrix @ matrix).sum().backward()
    assert matrix.grad is not None
    return matrix.grad[0, 0].item()


def test_threads_of_torch_work_in_a_forked_process() -> None:
    with Engine(LocalBackend(2, threads=2)) as engine:
        assert dict(engine.run(multiplied, [512, 513, 514])) == {512: 1024.0, 513: 1026.0, 514: 1028.0}


def slept(task: float) -> float:
    time.sleep(task)
    return task


def test_outcomes_come_as_they_end() -> None:
    with Engine(LocalBackend(2, 1)) as engine:
        list(engine.run(slept, [0.0, 0.0]))  # the server is up
        assert [task for task, _ in engine.run(slept, [6.0, 0.1, 0.2])] == [0.1, 0.2, 6.0]


def killed(task: int) -> int:
    if task in (1, 5):
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
    if task == 6:
        os._exit(0)
    return task


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_process_that_is_killed_costs_only_its_own_call(jobs) -> None:
    with Engine(LocalBackend(jobs, 1)) as engine:
        outcomes = dict(engine.run(killed, range(8)))
    assert {task: outcome for task, outcome in outcomes.items() if outcome != task}.keys() == {1, 5, 6}
    assert len(outcomes) == 8
    for task, reason in ((1, "died of SIGKILL"), (5, "died of SIGKILL"), (6, "ended with exit code 0")):
        assert isinstance(outcomes[task], WorkerDied)
        assert reason in outcomes[task].reason


def failing(error: BaseException, task: int) -> None:
    if task == 0 and isinstance(error, OSError):
        raise error
    time.sleep(60)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_ends_all_processes_at_once(clean_process, error) -> None:
    start = time.monotonic()
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 2.0)
    with pytest.raises(type(error)), Engine(LocalBackend(2, 1)) as engine:
        list(engine.run(partial(failing, error), range(4)))
    assert time.monotonic() - start < 50
    wait_for(lambda: not multiprocessing.active_children(), timeout=10)


def claims_of(jobs: int, folder: Path, place: int) -> tuple[str | None, ...]:
    (folder / f"{place}").touch()
    wait_for(lambda: len(list(folder.iterdir())) == jobs, timeout=60)  # until all of them have theirs
    return os.environ.get("CUDA_VISIBLE_DEVICES"), *workers.claimed_gpus()


def test_each_process_takes_gpus_of_its_own_and_shares_when_there_are_none_left(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the claims are

    def called(engine: Engine, jobs: int) -> list[tuple[str | None, ...]]:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        return sorted(outcome for _, outcome in engine.run(partial(claims_of, jobs, folder), range(jobs)))

    def claims(jobs: int, names: list[str], devices: int = 1) -> list[tuple[str | None, ...]]:
        with Engine(LocalBackend(jobs, 1, names, devices)) as engine:
            return called(engine, jobs)

    first, second = ("3", "3"), ("GPU-5/a", "GPU-5/a")  # what it sees, and what is its own
    with Engine(LocalBackend(2, 1, ["3", "GPU-5/a"])) as engine:
        assert called(engine, 2) == [first, second]
        assert called(engine, 2) == [first, second]  # free again
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
    assert workers.visible_gpus() == ["4", "6"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert workers.visible_gpus() == ["0", "1"]


def test_as_many_trials_run_as_there_is_room_for(tmp_path, monkeypatch) -> None:
    trial = first_trial(tmp_path)[1]
    monkeypatch.setattr(workers, "cpu_count", lambda: 8)
    monkeypatch.setattr(workers, "free_memory", lambda: 100 * 2**30)
    assert default_jobs([trial] * 20, []) == 8
    assert default_jobs([trial] * 3, []) == 3
    assert default_jobs([trial] * 20, ["0", "1"]) == 2
    monkeypatch.setattr(workers, "free_memory", lambda: 7 * 2**30)
    assert default_jobs([trial] * 20, []) == 3
    monkeypatch.setattr(workers, "free_memory", lambda: 0)
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
    from steepest.study.trials.plan import final_trials

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
        ({"backend": "dusk"}, "--backend must be one of local, ray, got 'dusk'"),
        ({"address": "host:1"}, "give --backend ray as well"),
    ):
        with pytest.raises(ValueError, match=said):
            RunOptions(**options)
