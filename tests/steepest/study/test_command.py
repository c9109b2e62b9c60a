"""The command: plans without running, and refusals of one line."""

import re
from pathlib import Path

import pytest
from rich.console import Console

from steepest.study.trials.results import TrialResult
from steepest.study.trials.runner import Progress, in_words
from tests.steepest.failures import BAD_ENVIRONMENT, BAD_INPUT, check, files
from tests.steepest.study.small_studies import TUNED, write_study


def a_result(**changes) -> TrialResult:
    return TrialResult(
        **{
            "key": "k",
            "stage": "final",
            "labels": {"optimizer": "SGD"},
            "point": {},
            "seed": 3,
            "command": "steepest fit",
            "status": "finished",
            "error": None,
            "diverged_at": None,
            "steps": 4,
            "train_seconds": 1.0,
            "seconds": 2.0,
            "parameters": 10,
            "final": {},
            "history": {},
            "run_folder": "",
            "host": "here",
            "finished_at": "",
            **changes,
        }
    )


def test_a_dry_run_shows_everything_and_writes_nothing(steepest, tmp_path) -> None:
    write_study(tmp_path, **TUNED, scales={"smoke": {"seconds": 8}, "paper": {"seeds": 5}})
    before = files(tmp_path)
    outcome = steepest("study", "run", "question.yaml", "--dry_run", "--jobs", "2")
    assert (outcome.code, outcome.err) == (0, "")
    assert files(tmp_path) == before
    lines = outcome.out.splitlines()
    assert lines[0] == "Does the optimizer matter within four steps?"
    commands = [line for line in lines if "steepest fit --config tiny.yaml" in line]
    assert len(commands) == 4
    assert all(line.startswith("to do  tuning ") for line in commands)
    assert "4 final trials follow, at the points that the tuning chooses" in outcome.out
    assert "8 of 8 trials still to do, 2 at a time: about 32 s (8.0 s a trial, by the study file)" in outcome.out
    outcome = steepest("study", "run", "question.yaml", "--dry_run", "--scale", "paper", "--shard", "1/2")
    assert len([line for line in outcome.out.splitlines() if "steepest fit" in line]) == 2
    assert "7 of 7 trials still to do" in outcome.out
    outcome = steepest("study", "run", "question.yaml", "--dry_run", "--backend", "ray")
    assert re.search(r"to do, \d+ at a time if the cluster has as much room as this machine: about", outcome.out)


def test_without_tuning_every_command_can_be_shown(steepest, tmp_path) -> None:
    write_study(tmp_path)
    outcome = steepest("study", "run", "question.yaml", "--dry_run", "--data_dir", tmp_path)
    commands = [line.split("  ", 1)[1] for line in outcome.out.splitlines() if "steepest fit" in line]
    assert len(commands) == len(set(commands)) == 4
    assert "--data.data_dir" not in outcome.out  # digits are embedded
    # The line repeats the trial as it stands there.
    words = commands[0][commands[0].index("steepest fit") :].split()
    assert steepest(*words[1:]).code == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "none.yaml"], BAD_INPUT, "none.yaml"),
        (["run", "question.yaml", "--shard", "3/2"], BAD_INPUT, "--shard must be i/n with 1 <= i <= n"),
        (["run", "question.yaml", "--jobs", "0"], BAD_INPUT, "--jobs must be at least 1, got 0"),
        (["run", "question.yaml", "--jobs", "many"], BAD_INPUT, "invalid int value: 'many'"),
        (["run", "question.yaml", "--backend", "dusk"], BAD_INPUT, "--backend must be one of local, ray, got 'dusk'"),
        (["run", "question.yaml", "--address", "here:1"], BAD_INPUT, "give --backend ray as well"),
        (["run", "question.yaml", "--scale", "large"], BAD_INPUT, "has no scale 'large'"),
        (["run", "question.yaml", "--data_dir", "nowhere"], BAD_INPUT, "--data_dir: there is no folder nowhere"),
        (["run", "question.yaml", "--report", "maybe"], BAD_INPUT, "must be true or false, got 'maybe'"),
        (["run"], BAD_INPUT, "required: STUDY"),
        (["resume", "nowhere"], BAD_INPUT, "nowhere is not the folder of a study"),
        (["resume", "."], BAD_INPUT, "is not the folder of a study: there is no study.yaml in it"),
        (["report", "nowhere"], BAD_INPUT, "nowhere is not the folder of a study"),
        (["run", "question.yaml", "--bogus"], BAD_INPUT, "unrecognized arguments: --bogus"),
        (["rum"], BAD_INPUT, "invalid choice: 'rum'"),
        ([], BAD_INPUT, "run|resume|report"),
    ],
)
def test_wrong_input_ends_in_one_line_and_leaves_nothing(steepest, tmp_path, words, code, said) -> None:
    write_study(tmp_path)
    before = files(tmp_path)
    check(steepest("study", *words), code, [said])
    assert files(tmp_path) == before


SGD = {"optimizer": "sgd"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"axes": {"optimizer": {"SGD": SGD, "Adam": {"optimizer": "adam", "optimizer.momentum": 0.9}}}},
            "question, Adam: unknown option of adam 'momentum'. Allowed: lr, betas",
        ),
        ({"options": {"trainer.max_epoch": 1}}, "question, SGD: "),
        (
            {"axes": {"width": {"key": "model.network.hidden", "values": [8, "many"]}, "optimizer": {"SGD": SGD}}},
            "question, many, SGD: ",
        ),
        ({**TUNED, "tuning": {**TUNED["tuning"], "space": {"optimizer.rate": {"values": [1.0, 2.0]}}}}, "SGD, rate 1"),
        ({"callbacks": {"SharpnesProbe": {}}}, "SharpnesProbe"),
    ],
    ids=["option", "trainer", "value", "tuning", "callback"],
)
@pytest.mark.parametrize("further", [[], ["--dry_run"]], ids=["run", "dry_run"])
def test_what_fit_would_refuse_is_said_before_anything_runs(steepest, tmp_path, changes, said, further) -> None:
    write_study(tmp_path, **changes)
    before = files(tmp_path)
    check(steepest("study", "run", "question.yaml", *further), BAD_INPUT, [said])
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("localhost:1", BAD_ENVIRONMENT, "no Ray cluster at localhost:1"),
        ("ray://localhost:1", BAD_ENVIRONMENT, "no Ray cluster at ray://localhost:1"),
        ("somewhere", BAD_INPUT, "--address must be host:port, ray://host:port or auto, got 'somewhere'"),
        ("host:99999", BAD_INPUT, "--address must be host:port"),
    ],
)
def test_a_cluster_out_of_reach_is_one_line_at_once(steepest, tmp_path, address, code, said) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: steepest[cluster]")
    write_study(tmp_path)
    check(steepest("study", "run", "question.yaml", "--backend", "ray", "--address", address), code, [said])


def test_help_says_what_there_is(steepest) -> None:
    assert "run|resume|report" in steepest("study", "--help").out
    out = steepest("study", "run", "--help").out
    for option in ("--scale", "--jobs", "--backend", "--address", "--shard", "--data_dir", "--dry_run", "--retry"):
        assert option in out


def test_a_line_for_every_trial_with_the_time_left() -> None:
    console = Console(record=True, width=40, force_terminal=False, file=Path("/dev/null").open("w"))
    progress = Progress("validation accuracy", console)
    progress.jobs = 2
    with progress:
        progress.expect(4)
        progress.finished(a_result(stage="tuning", point={"optimizer.lr": 0.1}), 0.5)
        progress.finished(a_result(status="diverged", diverged_at=7, seconds=4.0), float("nan"))
        progress.finished(a_result(status="failed", error="no [such] thing"), float("nan"))
        progress.finished(a_result(), 1 / 3)
        progress.finished(a_result(), 1.0)  # one more than expected
    console.file.close()
    assert console.export_text().splitlines() == [
        "1/4  tuning: SGD, lr 0.1, seed 3: validation accuracy 0.5 (2.0 s, 4 s left)",
        "2/4  SGD, seed 3: diverged at step 7 (4.0 s, 3 s left)",
        "3/4  SGD, seed 3: failed: no [such] thing (2.0 s, 3 s left)",
        "4/4  SGD, seed 3: validation accuracy 0.333333 (2.0 s)",
        "5/5  SGD, seed 3: validation accuracy 1 (2.0 s)",
    ]


def test_a_terminal_gets_a_bar_below_the_lines() -> None:
    console = Console(record=True, width=80, force_terminal=True, file=Path("/dev/null").open("w"))
    with Progress("accuracy", console) as progress:
        progress.expect(2)
        progress.finished(a_result(), 0.5)
    console.file.close()
    text = console.export_text()
    assert "1/2  SGD, seed 3: accuracy 0.5 (2.0 s)" in text
    assert "trials" in text
    assert "1/2 2 s left" in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (5400, "90 min"), (7200, "2.0 h"), (1e6, "11.6 days")],
)
def test_times_are_in_words(seconds, words) -> None:
    assert in_words(seconds) == words
