"""How trials end, share themselves out and are kept."""

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from steepest.command_line import command_line
from steepest.common import atomic
from steepest.errors import BAD_ENVIRONMENT, BAD_INPUT, Failure
from steepest.study.trials.plan import Shard
from steepest.study.trials.results import load_results, read_result, result_path, write_result
from steepest.study.trials.trial import Ending, _run_here
from tests.steepest.study.results import trial


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (None, Ending()),
        (FloatingPointError("nan"), Ending("FloatingPointError: nan", diverged=True)),  # of somebody's own code
        (ValueError("x"), Ending("ValueError: x")),
        (KeyError("x"), Ending("KeyError: 'x'")),
        (Failure("no such file", BAD_INPUT), Ending("no such file", bad_input=True)),
        (Failure("no network", BAD_ENVIRONMENT), Ending("no network")),
        (SystemExit(3), Ending("ended with exit code 3")),
    ],
    ids=repr,
)
def test_a_trial_in_this_process_ends_as_its_error_says(tmp_path, monkeypatch, clean_process, error, ending) -> None:
    def run(words: Any) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(command_line, "run", run)
    assert _run_here(["fit"], tmp_path / "log.txt") == ending


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_do_not_depend_on_the_order_in_which_a_machine_lists_trials(count) -> None:
    keys = ["d", "a", "e", "c", "b"]
    for order in itertools.islice(itertools.permutations(keys), 0, 120, 17):
        trials: Any = [SimpleNamespace(key=key) for key in order]
        shares = [[trial.key for trial in Shard(index, count).share(trials)] for index in range(1, count + 1)]
        assert [set(share) for share in shares] == [set(sorted(keys)[index::count]) for index in range(count)]
        for share in shares:
            assert share == [key for key in order if key in share]


def test_a_result_is_kept_whole_or_as_it_was(tmp_path, monkeypatch) -> None:
    result = trial({"optimizer": "SGD"})
    write_result(tmp_path, result)
    before = result_path(tmp_path, result.key).read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(atomic.os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_result(tmp_path, replace(result, steps=99))
    assert result_path(tmp_path, result.key).read_bytes() == before
    assert [path.name for path in result_path(tmp_path, result.key).parent.iterdir()] == ["result.json"]
    assert read_result(tmp_path, result.key) == load_results(tmp_path)[0] == result
