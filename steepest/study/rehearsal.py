"""Whether `steepest fit` understands what a study will ask of it, found out before anything runs."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

from steepest.cli import BAD_INPUT, Failure, exit_code, message_of
from steepest.study.definition import Study
from steepest.study.isolation import isolated
from steepest.study.plan import Trial, describe, final_trials, tuning_trials
from steepest.study.trial_words import data_words


def check_commands(study: Study, data_dir: Path | None = None) -> None:
    """Let `steepest fit` read the command of one trial for every alternative of every axis, without running it.

    One for each alternative, not for each combination, of which there may be a thousand: a tenth of a second a piece.

    Args:
        study: The study.
        data_dir: Folder of data that lie in files.

    Raises:
        ValueError: if it refuses one: with its line, and the alternatives that it was for.
    """
    for trial in _samples(study):
        if refusal := _refusal([*trial.words, *data_words(trial.words, data_dir)]):
            raise ValueError(f"{study.name}, {describe(trial.labels, trial.point)}: {refusal}")


def _samples(study: Study) -> Iterator[Trial]:
    tuning = tuning_trials(study)
    tuned = {trial.cell for trial in tuning}
    seen: set[tuple[str, str]] = set()
    for trial in [*tuning, *(trial for trial in final_trials(study, {}) if trial.cell not in tuned)]:
        if not trial.labels.items() <= seen:
            seen |= trial.labels.items()
            yield trial


def _refusal(words: list[str]) -> str | None:
    from steepest.command_line import run

    with isolated(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            run(["fit", *words, "--print_config"])
        except Failure as failure:
            return failure.message
        except SystemExit as exit:
            return None if exit.code in (0, None) else f"ended with exit code {exit.code}"
        except Exception as error:
            # Anything else is for the trial itself to say, with its traceback.
            return message_of(error) if exit_code(error) == BAD_INPUT else None
    return None
