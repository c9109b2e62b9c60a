"""Studies and results that nobody has run, with known means."""

import hashlib
import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from steepest.diagnostics.common.artifacts import save_json
from steepest.study.question.definition import Axis, Dimension, Metric, Study, Tuning
from steepest.study.question.reading import load_study
from steepest.study.trials.folder import folder_of, load_stored, store_study
from steepest.study.trials.plan import command_line, final_trials, tuning_trials
from steepest.study.trials.results import TrialResult, write_result
from steepest.study.trials.tuning import chosen_points

STEPS = 200
EVERY = 10

# From labels and point to (accuracy at the end, divergence step or None).
Truth = Callable[[Mapping[str, str], Mapping[str, Any], int], tuple[float, int | None]]

OPTIMIZERS = Axis(
    "optimizer", {"SGD": {"optimizer": "sgd"}, "Adam": {"optimizer": "adam"}, "Muon": {"optimizer": "muon"}}
)


def values(name: str, key: str, numbers: Sequence[float]) -> Axis:
    return Axis(name, {f"{number:g}": {key: number} for number in numbers}, key, tuple(numbers))


def make_study(axes: Sequence[Axis] = (OPTIMIZERS,), seeds: int = 5, tuned: bool = False, **options: Any) -> Study:
    space = {"optimizer.lr": Dimension("log", (1e-3, 1.0), 4)}
    tuning = Tuning("grid", 0, (1000,), space, {}, False) if tuned else None
    metric = Metric("val/accuracy", "max", "final", 0.9, "validation accuracy")
    given = {
        "name": "a_study",
        "scale": "smoke",
        "question": "Which optimizer is best on this task?",
        "reference": "A paper (2024)",
        "base": (),
        "options": {"trainer.max_epochs": 2},
        "callbacks": {},
        "axes": tuple(axes),
        "seeds": tuple(range(seeds)),
        "tuning": tuning,
        "metric": metric,
        "bound": 100.0,
        "workloads": (),
        "figures": (),
        "seconds": None,
        "path": Path("a_study.yaml"),
    }
    return Study(**(given | options))


def by_place(labels: Mapping[str, str], point: Mapping[str, Any], seed: int) -> tuple[float, int | None]:
    """Accuracies that fall with the place of the optimizer, and with the distance of the learning rate from 0.1."""
    accuracy = 0.97 - 0.02 * list(OPTIMIZERS.alternatives).index(labels.get("optimizer", "SGD").split()[0])
    rate = float(point.get("optimizer.lr", labels.get("learning_rate", 0.1)))
    accuracy -= 0.05 * math.log10(rate / 0.1) ** 2
    noise = random.Random(f"{labels} {point} {seed}").gauss(0, 0.004)
    return accuracy + noise, 60 + 10 * (seed % 7) if rate >= 1.0 and seed % 2 == 0 else None


def make_result(
    labels: Mapping[str, str], point: Mapping[str, Any], seed: int, stage: str = "final", truth: Truth = by_place
) -> TrialResult:
    end, diverged_at = truth(labels, point, seed)
    last = STEPS if diverged_at is None else diverged_at
    steps = list(range(EVERY, last + 1, EVERY))
    pace = 0.01 + 0.002 * seed
    accuracy = [end - (end - 0.1) * math.exp(-step / 30) for step in steps]
    loss = [2.3 * math.exp(-step / 40) + 0.2 * (1 - end) + 0.01 for step in steps]
    if diverged_at is None:
        accuracy[-1] = end
    else:
        loss[-1] = 1e4
    noise = random.Random(seed).random()
    series = {
        "val/accuracy": accuracy,
        "val/loss": [value * 1.1 for value in loss],
        "train/loss": loss,
        "train/accuracy": [
            value + 0.5 * (1 - value) * step / STEPS for value, step in zip(accuracy, steps, strict=True)
        ],
        "grad/total_norm": [3 * math.exp(-step / 90) for step in steps],
        "spectral/norm_max": [1 + step / 80 for step in steps],
        "sharpness/batch": [20 * (1 + step / 50) * (1.5 - end + 0.2 * noise) for step in steps],
        "noise/batch_scale": [10 * math.exp(step / 60) for step in steps],
    }
    history = {
        name: [[step, pace * step, value] for step, value in zip(steps, own, strict=True)]
        for name, own in series.items()
    }
    key = hashlib.sha256(f"{dict(labels)} {dict(point)} {seed} {stage}".encode()).hexdigest()[:16]
    return TrialResult(
        key=key,
        stage=stage,  # type: ignore[arg-type]
        labels=dict(labels),
        point=dict(point),
        seed=seed,
        command=f"steepest fit --optimizer {labels.get('optimizer', 'sgd').lower()} --seed_everything {seed}",
        status="finished" if diverged_at is None else "diverged",
        error=None,
        diverged_at=diverged_at,
        steps=last,
        train_seconds=pace * last,
        seconds=pace * last + 6,
        parameters=1234,
        final={name: own[-1] for name, own in series.items()},
        history=history,
        run_folder=f"runs/{stage}/{'/'.join(f'{a}={b}' for a, b in labels.items())}/seed_{seed}/{key}",
        host="node-1",
        finished_at="2025-01-02T03:04:05+00:00",
    )


def make_results(study: Study, truth: Truth = by_place) -> list[TrialResult]:
    """Every trial of the study; tuned learning rates are 0.1, the best of them."""
    results = []
    for labels in itertools.product(*(axis.alternatives for axis in study.axes)):
        named = dict(zip([axis.name for axis in study.axes], labels, strict=True))
        point = {}
        if study.tuning is not None:
            point = {"optimizer.lr": 0.1}
            for rate in (0.001, 0.01, 0.1, 1.0):
                results += [
                    make_result(named, {"optimizer.lr": rate}, seed, "tuning", truth) for seed in study.tuning.seeds
                ]
        results += [make_result(named, point, seed, "final", truth) for seed in study.seeds]
    return results


BASE = "model:\n  class_path: ImageClassifier\n"
STUDY = """\
question: {question}
reference: A paper (2024), section 3
base: base.yaml
options: {{trainer.max_epochs: 2}}
axes:
  optimizer:
    SGD: {{optimizer: sgd}}
    Adam: {{optimizer: adam}}
    Muon: {{optimizer: muon}}
seeds: 5
metric: {{name: val/accuracy, mode: max, target: 0.9, label: validation accuracy}}
bound: 100.0
{more}
"""
TUNING = "tuning: {seeds: [1000], space: {optimizer.lr: {log: [1.0e-3, 1.0], points: 4}}}\n"


def write_study(
    parent: Path,
    more: str = "",
    question: str = "Which optimizer is best on this task?",
    truth: Truth = by_place,
    keep: Callable[[TrialResult], bool] = lambda result: True,
) -> Path:
    """A study's folder with results of its trials, as a run leaves it.

    Args:
        parent: Where to; the study file is written there too.
        more: Further lines of the study file.
        question: What it asks, as YAML.
        truth: What its trials come to.
        keep: Which results are there.
    """
    (parent / "base.yaml").write_text(BASE)
    (parent / "an_example.yaml").write_text(STUDY.format(question=question, more=more))
    study = load_study(parent / "an_example.yaml")
    folder = folder_of(parent / "studies", study)
    store_study(folder, study)
    study = load_stored(folder)
    results: list[TrialResult] = []
    for stage in (tuning_trials(study), None):
        trials = stage if stage is not None else final_trials(study, chosen_points(study, results))
        for trial in trials:
            made = make_result(trial.labels, trial.point, trial.seed, trial.stage, truth)
            results.append(replace(made, key=trial.key, command=command_line(trial)))
    for result in filter(keep, results):
        write_result(folder, result)
    environment = {"versions": {"python": "3.12", "torch": "2.9"}, "git_commit": "0123abc", "gpus": [], "cores": 2}
    save_json(environment, folder / "environment.json")
    return folder
