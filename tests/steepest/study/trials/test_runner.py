"""Whole studies in real processes: interrupted at any moment, shared among several, on a full disk."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steepest.study.trials.runner import claimed, is_claimed
from tests.steepest.study.small_studies import (
    QUESTION,
    REPOSITORY,
    TUNED,
    environment,
    finish,
    kill_group,
    numbers,
    results,
    start,
    study_command,
    wait_for,
    write_study,
)

pytestmark = pytest.mark.slow

FOLDER = "studies/question/smoke"


def run_words(*more: object) -> list[object]:
    return ["run", "question.yaml", "--report", "false", *more]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The folder in which the tuned study ran from start to end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_study(folder, **TUNED)
    code, out, err = study_command(folder, *run_words())
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if "seed" in line]
    assert len(lines) == 8
    assert lines[-1].startswith("8/8")
    assert sum("tuning: " in line for line in lines) == 4
    assert "8 finished" in out
    return folder


def runs(folder: Path) -> list[Path]:
    return sorted((folder / FOLDER / "runs").rglob("version_*"))


def test_a_study_tunes_then_runs_the_best_points_on_fresh_seeds(undisturbed) -> None:
    found = results(undisturbed).values()
    tuning = [result for result in found if result.stage == "tuning"]
    final = [result for result in found if result.stage == "final"]
    assert {result.seed for result in tuning} == {1000}
    assert {result.seed for result in final} == {0, 1}
    for label in ("SGD", "Adam"):
        tried = {r.point["optimizer.lr"]: r.final["val/accuracy"] for r in tuning if r.labels["optimizer"] == label}
        assert len(tried) == 2
        best = max(tried, key=lambda lr: tried[lr])
        assert {r.point["optimizer.lr"] for r in final if r.labels["optimizer"] == label} == {best}
    assert len(runs(undisturbed)) == 8
    for name in ("study.yaml", "environment.json", "base/0/tiny.yaml"):
        assert (undisturbed / FOLDER / name).is_file()


def test_what_is_done_is_not_done_again(undisturbed) -> None:
    before = {path: path.stat().st_mtime_ns for path in (undisturbed / FOLDER).rglob("*") if path.is_file()}
    code, out, err = study_command(undisturbed, "resume", FOLDER, "--report", "false")
    assert (code, err) == (0, "")
    assert "seed" not in out
    assert "8 finished" in out
    assert before == {path: path.stat().st_mtime_ns for path in (undisturbed / FOLDER).rglob("*") if path.is_file()}


@pytest.mark.timeout(600)
def test_killed_at_any_moment_it_goes_on_to_the_same_end(undisturbed, tmp_path) -> None:
    write_study(tmp_path, **TUNED)
    kept: dict[str, str] = {}
    for done, delay in ((0, 4.0), (1, 0.0), (2, 0.4), (5, 0.8)):
        process = start(tmp_path, *run_words())
        # Once in the middle of starting, later so long after a further result.
        wait_for(lambda done=done: len(results(tmp_path)) >= done)
        time.sleep(delay)
        kill_group(process)
        for result in results(tmp_path).values():
            text = (tmp_path / FOLDER / "trials" / result.key / "result.json").read_text()
            assert kept.setdefault(result.key, text) == text
    assert 5 <= len(kept) < 8
    code, out, err = study_command(tmp_path, "resume", FOLDER, "--report", "false")
    assert (code, err) == (0, "")
    assert "8 finished" in out
    found, expected = results(tmp_path), results(undisturbed)
    assert {key: numbers(result) for key, result in found.items()} == {
        key: numbers(result) for key, result in expected.items()
    }
    assert len(runs(tmp_path)) == 8  # what was left half done is gone
    for key, text in kept.items():
        assert (tmp_path / FOLDER / "trials" / key / "result.json").read_text() == text


@pytest.mark.timeout(600)
def test_several_runners_share_a_folder_and_take_over_from_one_that_dies(undisturbed, tmp_path) -> None:
    write_study(tmp_path, **TUNED)
    first = start(tmp_path, *run_words("--jobs", "1"))
    wait_for(lambda: len(results(tmp_path)) >= 1)
    second, third = (start(tmp_path, *run_words("--jobs", "1")) for _ in range(2))
    wait_for(lambda: len(results(tmp_path)) >= 3)
    os.kill(first.pid, signal.SIGKILL)  # its worker is left without it, in the middle of a trial
    outcomes = [finish(process) for process in (second, third)]
    finish(first)
    assert [code for code, _, _ in outcomes] == [0, 0]
    assert [err for _, _, err in outcomes] == ["", ""]
    assert {key: numbers(result) for key, result in results(tmp_path).items()} == {
        key: numbers(result) for key, result in results(undisturbed).items()
    }
    assert len(runs(tmp_path)) == 8
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    wait_for(lambda: str(tmp_path) not in listed, timeout=10)


@pytest.mark.timeout(600)
def test_shares_of_a_job_array_make_up_the_study(undisturbed, tmp_path) -> None:
    write_study(tmp_path, **TUNED)
    code, out, _ = study_command(tmp_path, *run_words("--shard", "1/2"))
    assert code == 0
    assert "2 tuning trials of other shares are missing" in out
    assert len(results(tmp_path)) == 2
    assert study_command(tmp_path, *run_words("--shard", "2/2"))[0] == 0
    assert len(results(tmp_path)) == 6  # its share of the final ones too, now that all are known
    code, out, _ = study_command(tmp_path, "resume", FOLDER, "--shard", "1/2", "--report", "false")
    assert code == 0
    assert "8 finished" in out
    assert results(tmp_path).keys() == results(undisturbed).keys()


def test_failed_trials_are_rows_and_run_again_when_asked_to(tmp_path) -> None:
    (tmp_path / "own.py").write_text(
        "import lightning, pathlib\n"
        "class Fragile(lightning.Callback):\n"
        "    def on_train_start(self, trainer, pl_module):\n"
        "        if trainer.optimizers[0].__class__.__name__ == 'SGD' and pathlib.Path('broken').exists():\n"
        "            raise RuntimeError('it is broken')\n"
    )
    (tmp_path / "broken").touch()
    axes = {"optimizer": {"SGD": {"optimizer": "sgd"}, "wild": {"optimizer": "adam", "optimizer.lr": 1e30}}}
    write_study(tmp_path, axes=axes, callbacks={"own.Fragile": {}})
    code, out, err = study_command(tmp_path, *run_words())
    assert code == 1
    assert out.count("failed: RuntimeError: it is broken") == 2
    assert out.count("diverged at step 2") == 2
    assert "2 diverged, 2 failed" in out
    assert len(err.splitlines()) == 1
    assert "2 of 4 trials failed, the first with: RuntimeError: it is broken" in err
    assert f"{FOLDER}/trials/*/output.log; `steepest study resume {FOLDER} --retry`" in err
    before = results(tmp_path)
    (tmp_path / "broken").unlink()
    code, out, err = study_command(tmp_path, "resume", FOLDER, "--report", "false")
    assert code == 1
    assert "seed" not in out
    code, out, err = study_command(tmp_path, "resume", FOLDER, "--report", "false", "--retry")
    assert (code, err) == (0, "")
    assert len([line for line in out.splitlines() if "seed" in line]) == 2
    after = results(tmp_path)
    assert sorted(result.status for result in after.values()) == ["diverged", "diverged", "finished", "finished"]
    assert [after[key] for key in before if before[key].status == "diverged"] == [
        result for result in before.values() if result.status == "diverged"
    ]


def test_a_metric_that_nobody_logs_stops_the_study_and_a_changed_file_only_adds(tmp_path) -> None:
    write_study(tmp_path, metric={"name": "val/acuracy"}, seeds=1)
    code, _, err = study_command(tmp_path, *run_words("--jobs", "1"))
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "no trial logs the metric 'val/acuracy'; the nearest that are logged: val/accuracy" in err
    assert len(results(tmp_path)) == 1
    write_study(tmp_path, seeds=2)  # corrected, and another seed
    code, out, _ = study_command(tmp_path, *run_words())
    assert code == 0
    assert len([line for line in out.splitlines() if "seed" in line]) == 3
    assert "4 finished" in out
    write_study(tmp_path, seeds=2, axes={"method": {"plain": {"optimizer": "sgd"}, **QUESTION["axes"]["optimizer"]}})
    code, out, _ = study_command(tmp_path, *run_words())  # another name for the axis, and one label more for SGD
    assert (code, "seed" in out) == (0, False)
    assert "6 finished" in out


def test_options_that_are_refused_at_the_start_stop_the_study_and_later_are_rows(tmp_path) -> None:
    axes = {"solver": {name: {"optimizer.inner_solver": name} for name in ("exactly", "exact")}}
    options = {"optimizer": "muon_sgd"}
    write_study(tmp_path, axes=axes, options=options, seeds=1)
    code, out, err = study_command(tmp_path, *run_words("--jobs", "1"))
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "question, exactly: " in err
    assert "spectral_clip" in err  # what is allowed
    assert out.count("seed") == 1
    assert [result.refused for result in results(tmp_path).values()] == [True]
    axes["solver"] = dict(reversed(axes["solver"].items()))
    write_study(tmp_path, axes=axes, options=options, seeds=1)
    code, out, err = study_command(tmp_path, *run_words("--jobs", "1"))
    assert code == 2
    assert "1 of 2 trials failed" in err
    assert "1 finished, 1 failed" in out
    assert sorted(result.refused for result in results(tmp_path).values()) == [False, True]
    code, out, err = study_command(tmp_path, "resume", FOLDER, "--report", "false")
    assert code == 2
    assert out.count("seed") == 1  # the refused one: what was wrong might have been put right


@pytest.mark.timeout(600)
def test_two_runners_that_end_together_write_one_report_after_the_other(tmp_path) -> None:
    write_study(tmp_path, seeds=1)
    assert study_command(tmp_path, *run_words())[0] == 0
    outcomes = [finish(process) for process in [start(tmp_path, "run", "question.yaml") for _ in range(2)]]
    assert [(code, err) for code, _, err in outcomes] == [(0, ""), (0, "")]
    assert "</html>" in (tmp_path / FOLDER / "report.html").read_text()
    assert not list((tmp_path / FOLDER).rglob(".*.*"))


def test_ctrl_c_ends_in_one_line_that_says_how_to_go_on(tmp_path) -> None:
    write_study(tmp_path, seeds=20)
    process = start(tmp_path, *run_words())
    wait_for(lambda: len(results(tmp_path)) >= 1)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert err == f"steepest: error: interrupted; run `steepest study resume {FOLDER}` to go on\n"
    assert 1 <= len(results(tmp_path)) < 40
    trials = [path.name for path in (tmp_path / FOLDER / "trials").iterdir()]
    assert not any(is_claimed(tmp_path / FOLDER, key) for key in trials)


def test_a_trial_that_kills_its_process_is_a_failed_row(tmp_path) -> None:
    (tmp_path / "own.py").write_text(
        "import lightning, os, signal\n"
        "class Deadly(lightning.Callback):\n"
        "    def on_train_end(self, trainer, pl_module):\n"
        "        if trainer.optimizers[0].__class__.__name__ == 'SGD':\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    write_study(tmp_path, callbacks={"own.Deadly": {}}, seeds=1)
    code, out, err = study_command(tmp_path, *run_words())
    assert code == 1
    assert "failed: its process died of SIGKILL" in out
    assert sorted(result.status for result in results(tmp_path).values()) == ["failed", "finished"]
    assert "1 of 2 trials failed" in err


def test_a_full_disk_is_one_line_and_costs_nothing_that_is_finished(tmp_path) -> None:
    write_study(tmp_path, seeds=1)
    limit = 30_000  # bytes in a file: as little as a full disk, and it needs no rights

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    assert study_command(tmp_path, *run_words())[0] == 0
    before = results(tmp_path)
    write_study(tmp_path, seeds=2, options={"trainer.enable_checkpointing": True, "model.network.hidden": 400})
    words = [sys.executable, "-m", "steepest", "study", *map(str, run_words("--jobs", "1"))]
    outcome = subprocess.run(
        words, cwd=tmp_path, env=environment(), capture_output=True, text=True, preexec_fn=small, timeout=200
    )
    assert outcome.returncode == 1
    assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
    assert "file too large: what is finished is kept; make room" in outcome.stderr
    assert f"`steepest study resume {tmp_path / FOLDER}`" in outcome.stderr
    assert results(tmp_path) == before


def test_a_claim_ends_with_the_process_that_holds_it(tmp_path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from steepest.study.trials.runner import claimed\n"
        "with claimed(Path(sys.argv[1]), 'k') as ours:\n"
        "    print(ours, flush=True); time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], env=environment(), cwd=REPOSITORY, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"True\n"
    assert is_claimed(tmp_path, "k")
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert not is_claimed(tmp_path, "k")
    with claimed(tmp_path, "k") as ours:
        assert ours
