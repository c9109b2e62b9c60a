"""The studies that come with Steepest: each reads at every scale, and the words of its trials are those of a fit."""

import contextlib
import io
from pathlib import Path

import pytest

from steepest.study.figures import check_figures
from steepest.study.question.checks import read_yaml
from steepest.study.question.definition import Study
from steepest.study.question.reading import load_study
from steepest.study.question.spaces import points, space_of
from steepest.study.trials.plan import Trial, cells, final_trials, make_trial, tuning_trials

FOLDER = Path(__file__).resolve().parents[3] / "configs" / "studies"
FILES = sorted(FOLDER.glob("*.yaml"))
SCALES = [(file, scale) for file in FILES for scale in read_yaml(file)["scales"]]
EMBEDDED = ("Digits", "TinyText")
# What a study asks of its optimizers at rates that it fixes, and so ranks none of them; each says so in its header.
NOT_RANKED = {
    "budget_sweep", "flatness", "gradient_flow", "loss_landscape", "schedules", "solver_comparison", "warmup_decay",
}  # fmt: skip
# Their axis of learning rates is the tuning.
WHOLE_GRIDS = {"lr_envelope", "lr_sensitivity", "width_transfer"}
# A published setting at fixed rates, with a scale `tuned` beside it.
PUBLISHED, AT_FIXED_RATES = "autosgm_vs_adam", ("paper", "two_cores")

each_scale = pytest.mark.parametrize(("file", "scale"), SCALES, ids=[f"{file.stem}-{scale}" for file, scale in SCALES])


def covering(study: Study) -> list[Trial]:
    """Final trials that meet every alternative of every axis at least once."""
    count = max(len(axis.alternatives) for axis in study.axes)
    rows = [
        {axis.name: list(axis.alternatives)[row % len(axis.alternatives)] for axis in study.axes}
        for row in range(count)
    ]
    return [make_trial(study, "final", labels, {}, study.seeds[0]) for labels in rows]


def test_all_fifteen_are_there() -> None:
    assert {PUBLISHED if PUBLISHED in file.stem else file.stem for file in FILES} == {
        "optimizer_comparison", "lr_sensitivity", "gradient_flow", "loss_landscape", "trajectories_2d", "schedules",
        "baseline_comparison", "solver_comparison", "budget_sweep", "width_transfer", "lr_envelope", PUBLISHED,
        "warmup_decay", "second_order", "flatness",
    }  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_each_says_what_it_asks_where_its_constants_come_from_and_how_long_it_takes(file) -> None:
    header = file.read_text().partition("question:")[0]
    assert all(line.startswith("# ") for line in header.splitlines())
    assert "?" in header.splitlines()[0]
    assert "smoke:" in header
    assert "paper:" in header
    scales = read_yaml(file)["scales"]
    assert {"smoke", "paper"} <= set(scales)
    assert all(scale["seconds"] > 0 for scale in scales.values())


@each_scale
def test_it_reads_and_is_fair(file, scale) -> None:
    study = load_study(file, scale)
    assert study.reference
    assert study.figures
    check_figures(study)
    for axis in study.axes:
        assert len(axis.alternatives) > 1
        for label in axis.alternatives:
            assert 1 <= len(label) <= 28
            assert not set(label) & set('/\\:*?"<>|=')
    if scale == "smoke":
        trials = [*tuning_trials(study), *final_trials(study, {})]
        assert len({trial.key for trial in trials}) == len(trials) <= 45
    ranks = file.stem not in NOT_RANKED | WHOLE_GRIDS and not (
        PUBLISHED in file.stem and scale in ("paper", "two_cores")
    )
    assert (study.tuning is not None) >= ranks
    if study.tuning is not None:
        assert not study.metric.name.startswith("test/")
        for labels in cells(study):
            # The rate is tuned wherever it is not fixed by name, or searched for in every step.
            chosen = [axis.alternatives[labels[axis.name]] for axis in study.axes]
            known = any("optimizer.lr" in options or options.get("optimizer") == "lbfgs" for options in chosen)
            assert ("optimizer.lr" in space_of(study.tuning, labels)) != known
    deterministic = file.stem == "trajectories_2d"
    if scale != "smoke" and not deterministic:
        few = "wikitext" in file.stem or file.stem == "lr_sensitivity"
        assert len(study.seeds) >= (2 if scale == "two_cores" else 3 if few else 5)


@each_scale
def test_its_first_trial_is_a_fit(file, scale) -> None:
    study = load_study(file, scale)
    labels = cells(study)[0]
    drawn = points(study.tuning, space_of(study.tuning, labels)) if study.tuning is not None else []
    config = parsed(make_trial(study, "final", labels, drawn[0] if drawn else {}, study.seeds[0]))
    if scale == "smoke" and "ToyObjective" not in config:
        assert any(f"class_path: steepest.datamodules.{name}" in config for name in EMBEDDED)


def parsed(trial: Trial) -> str:
    """The whole config of a trial as `steepest fit` understands its words; nothing is built."""
    from steepest.command_line.command_line import CommandLine

    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as exit:
        CommandLine(["fit", *trial.words, "--print_config"])
    assert exit.value.code == 0, trial.words
    return output.getvalue()


@pytest.mark.slow
@each_scale
def test_every_alternative_is_a_fit_and_takes_a_step_where_its_data_are_embedded(steepest, file, scale) -> None:
    study = load_study(file, scale)
    for trial in covering(study):
        if scale == "smoke":
            short = ["--trainer.max_steps", 1, "--trainer.max_epochs", -1, "--trainer.limit_val_batches", 1]
            short += ["--test_after_fit", False, "--trainer.logger", False, "--schedule", "null"]
            outcome = steepest("fit", *trial.words, *short, "--trainer.callbacks", "null")
            assert outcome.code == 0, (trial.labels, outcome.err)
        else:
            parsed(trial)
