import json
import math
from dataclasses import replace

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
import yaml
from rich.console import Console

from steepest.study.analysis.statistics import summarize
from steepest.study.analysis.summary import print_summary, reported, summary_table
from steepest.study.question.definition import Statistics
from steepest.study.question.reading import load_study
from steepest.study.report.exports import arrow_table, history_records, result_rows, write_tables
from tests.steepest.study.results import ACCURACY, INF, NAN, metric, trial

STUDY = {
    "question": "Which optimizer?",
    "base": ["base.yaml"],
    "axes": {
        "optimizer": {"SGD": {"optimizer": "sgd"}, "[Adam]": {"optimizer": "adam"}},
        "width": {"key": "model.network.hidden", "values": [8, 16]},
    },
    "seeds": 3,
    "tuning": {"space": {"optimizer.lr": {"log": [1e-3, 0.1], "points": 3}}, "seeds": [100]},
    "metric": {"name": "val/accuracy", "target": 0.9, "label": "accuracy"},
}


@pytest.fixture
def study(tmp_path):
    (tmp_path / "base.yaml").write_text("data: Digits\n")
    (tmp_path / "which.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    return load_study(tmp_path / "which.yaml")


def cell(optimizer: str, width: int) -> dict[str, str]:
    return {"optimizer": optimizer, "width": str(width)}


def trials() -> list:
    """SGD's best rate at width 8 is inside its grid; [Adam] at width 8 is best at the edge and diverges once."""
    found = []
    for optimizer, accuracies in (("SGD", (0.5, 0.8, 0.6)), ("[Adam]", (0.5, 0.6, 0.9))):
        for rate, accuracy in zip((1e-3, 1e-2, 0.1), accuracies, strict=True):
            found.append(trial(cell(optimizer, 8), 100, (accuracy,), stage="tuning", point={"optimizer.lr": rate}))
    for seed, values in enumerate([(0.5, 0.92), (0.91, 0.94), (0.7, 0.8)]):
        found.append(trial(cell("SGD", 8), seed, values, point={"optimizer.lr": 1e-2}))
    found.append(trial(cell("SGD", 8), 0, (0.1, 0.2), point={"optimizer.lr": 0.1}))  # of an earlier choice
    for seed, status in enumerate(("finished", "diverged", "failed")):
        values = () if status == "failed" else (0.6, 0.97)
        found.append(trial(cell("[Adam]", 8), seed, values, status, point={"optimizer.lr": 0.1}))
    return found


def test_rows_are_flat_and_alike() -> None:
    results = trials()
    results[0] = replace(results[0], point={"optimizer.lr": 1e-3, "schedule": "cosine", "betas": [0.9, 0.99]})
    rows = result_rows(results, metric(at="final"))
    expected = ["key", "stage", "optimizer", "width", "tuned/optimizer.lr", "tuned/schedule", "tuned/betas", "seed"]
    expected += ["status", "diverged_at", "value", "best_value", "steps", "train_seconds", "seconds", "parameters"]
    assert list(rows[0]) == [*expected, "final/test/loss", "final/val/accuracy", "command", "error"]
    assert all(list(row) == list(rows[0]) for row in rows)
    assert (rows[0]["tuned/schedule"], rows[0]["tuned/betas"]) == ("cosine", "[0.9, 0.99]")
    assert rows[1]["tuned/schedule"] is None
    falling = result_rows([trial(cell("SGD", 8), values=(0.9, 0.5))], ACCURACY)[0]
    assert (falling["value"], falling["best_value"], falling["width"]) == (0.5, 0.9, 8)
    diverged = rows[-2]
    assert (diverged["status"], diverged["diverged_at"], diverged["value"]) == ("diverged", 17, None)
    assert rows[-1]["final/val/accuracy"] is None
    assert rows[-1]["error"] == "no such file, 'x'"


def test_labels_are_what_they_say_and_clash_with_no_column() -> None:
    results = [
        trial({"seed": name, "nesterov": truth, "rate": rate, "steps": "nan"}, 7)
        for name, truth, rate in (("1", "true", "0.1"), ("2", "false", "1e+06"))
    ]
    rows = result_rows(results, ACCURACY)
    assert [row["axis/seed"] for row in rows] == [1, 2]
    assert [row["seed"] for row in rows] == [7, 7]
    assert [row["nesterov"] for row in rows] == [True, False]
    assert [row["rate"] for row in rows] == [0.1, 1e6]
    assert [(row["axis/steps"], row["steps"]) for row in rows] == 2 * [("nan", 30)]


@pytest.mark.parametrize("kind", ["some", "none", "odd"])
def test_csv_is_read_back_as_parquet(tmp_path, study, kind) -> None:
    results = {"some": trials(), "none": [], "odd": [*trials()[:2], trial(cell('a "b", c', 16), 3)]}[kind]
    if kind == "odd":
        results[0] = replace(results[0], final={"x": 0.1 + 0.2, "y": INF, "z": NAN}, error="", parameters=None)
        results[1] = replace(results[1], final={"x": 1e-300, "y": -INF, "z": 5e-324}, point={"optimizer.lr": 1})
    write_tables(tmp_path, study, results)
    table = pyarrow.parquet.read_table(tmp_path / "results.parquet")
    assert table.num_rows == len(results)
    convert = pyarrow.csv.ConvertOptions(
        column_types=table.schema, strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    assert pyarrow.csv.read_csv(tmp_path / "results.csv", convert_options=convert).equals(table)
    assert table.to_pylist() == result_rows(results, study.metric)
    assert not list(tmp_path.glob(".*"))


def test_mixed_values_of_a_column_become_text() -> None:
    results = [trial({"o": "x"}, seed, point={"momentum": value}) for seed, value in enumerate((0.9, "none", True))]
    column = arrow_table(result_rows(results, ACCURACY))["tuned/momentum"]
    assert column.to_pylist() == ["0.9", "none", "true"]


def test_tuning_table(tmp_path, study) -> None:
    results = trials()
    results.insert(1, trial(cell("SGD", 8), 101, (0.7,), stage="tuning", point={"optimizer.lr": 1e-3}))
    results.insert(3, trial(cell("SGD", 8), 101, (), "diverged", "tuning", point={"optimizer.lr": 0.1}))
    write_tables(tmp_path, study, results)
    rows = pyarrow.csv.read_csv(tmp_path / "tuning.csv").to_pylist()
    assert [(row["optimizer"], row["tuned/optimizer.lr"]) for row in rows] == [
        (name, rate) for name in ("SGD", "[Adam]") for rate in (1e-3, 1e-2, 0.1)
    ]
    assert [row["value"] for row in rows] == [0.6, 0.8, None, 0.5, 0.6, 0.9]
    assert [row["trials"] for row in rows] == [2, 1, 2, 1, 1, 1]
    assert [row["chosen"] for row in rows] == [False, True, False, False, False, True]
    assert [row["on_edge"] for row in rows] == [*5 * [""], "optimizer.lr"]
    untuned = tmp_path / "untuned"
    write_tables(untuned, study, [result for result in results if result.stage == "final"])
    assert not (untuned / "tuning.csv").exists()


def test_histories_are_strict_json(tmp_path, study) -> None:
    result = trial(cell("SGD", 8), values=(0.5, NAN, INF))
    write_tables(tmp_path, study, [result])

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = (tmp_path / "histories" / f"{result.key}.json").read_text()
    records = json.loads(text, parse_constant=refuse)
    assert [record["val_acc"] for record in records] == [0.5, None, None]
    assert [record["step"] for record in records] == [10, 20, 30]
    assert [set(record) for record in records] == [set(record) for record in history_records(result)]


def test_summary(study) -> None:
    rows = {row.name: row for row in summary_table(study, trials())}
    assert list(rows) == ["SGD, 8", "SGD, 16", "[Adam], 8", "[Adam], 16"]
    first = rows["SGD, 8"]
    assert dict(first.point) == {"optimizer.lr": 1e-2}
    assert first.on_edge == ()
    assert first.values == {0: 0.92, 1: 0.94, 2: 0.8}
    assert first.value.mean == pytest.approx(2.66 / 3)
    assert first.statuses == {"finished": 3, "diverged": 0, "failed": 0}
    assert first.target is not None
    assert (first.target.reached, first.target.count, first.target.median_steps) == (2, 3, 20)
    assert first.train_seconds == 4.0
    adam = rows["[Adam], 8"]
    assert adam.on_edge == ("optimizer.lr",)
    assert (adam.value.count, adam.value.diverged, adam.value.mean) == (1, 1, 0.97)
    assert adam.statuses == {"finished": 1, "diverged": 1, "failed": 1}
    assert (adam.target.reached, adam.target.count) == (1, 2)  # type: ignore[union-attr]
    empty = rows["SGD, 16"]
    assert (empty.value.count, empty.point, empty.values) == (0, {}, {})
    assert math.isnan(empty.train_seconds)
    assert len(reported(study, trials())) == 6
    untuned = replace(study, tuning=None, metric=replace(study.metric, target=None))
    assert summary_table(untuned, [trial(cell("SGD", 16))])[1].target is None


def printed(study, results) -> str:
    console = Console(width=160, record=True, file=None, quiet=False)
    with console.capture() as capture:
        print_summary(console, study, summary_table(study, results))
    return capture.get()


def test_printed_summary(study) -> None:
    text = printed(study, trials())
    lines = {
        line.split("│")[1].strip() + line.split("│")[2].strip(): line for line in text.splitlines() if "│ " in line
    }
    for words in ("88.67 ± 18.81 %", " 3 of 3 ", " 0 ", "20 (2/3)", "lr 0.01 ", " 4 s "):
        assert words in lines["SGD8"]
    for words in (" 97.00 % ", " 1 of 3 ", " 1 ", "never (1/2)", "lr 0.1*"):
        assert words in lines["[Adam]8"]
    assert "steps to 90.00 %" in text
    assert "* the best value is the lowest or highest tried" in text
    assert text.splitlines()[-3:] == [
        "best: SGD, width 8 (88.67 %)",
        "  too few runs to compare with it: [Adam], width 8",
        "  better where it finished, but it diverged too: [Adam], width 8",
    ]


def test_printed_summary_without_tuning_target_or_trials(study) -> None:
    plain = replace(study, tuning=None, metric=replace(study.metric, name="val/loss", mode="min", target=None))
    text = printed(plain, [])
    assert "tuned" not in text
    assert "best" not in text
    assert "steps" not in text
    losses = [
        trial(cell(name, 8), seed, final={"val/loss": value + seed / 1000})
        for name, value in (("SGD", 0.5), ("[Adam]", 0.2))
        for seed in (0, 1, 2)
    ]
    text = printed(plain, losses)
    assert "0.201 ± 0.002484" in text
    assert "diverged" not in text
    assert text.splitlines()[-1] == "best: [Adam], width 8 (0.201)"
    close = [replace(each, final={"val/loss": each.final["val/loss"] % 0.1}) for each in losses]
    assert printed(plain, close).splitlines()[-1].endswith("(Welch's t-test, Holm's correction, 0.05): SGD, width 8")


def test_printed_remarks_name_what_diverged_and_what_does_not_scatter(study) -> None:
    plain = replace(study, tuning=None)
    accuracies = {("SGD", 8): (0.9, 0.9), ("[Adam]", 8): (0.8, 0.8), ("SGD", 16): (NAN, NAN), ("[Adam]", 16): (0.7,)}
    results = [
        trial(cell(*key), seed, (value,), "diverged" if math.isnan(value) else "finished")
        for key, own in accuracies.items()
        for seed, value in enumerate(own)
    ]
    assert printed(plain, results).splitlines()[-4:] == [
        "best: SGD, width 8 (90.00 %)",
        "  too few runs to compare with it: [Adam], width 16",
        "  cannot be tested against it, since results do not vary over seeds: [Adam], width 8",
        "  diverged, none finished: SGD, width 16",
    ]


def test_printed_summary_names_the_interval_and_the_test(study) -> None:
    plain = replace(study, tuning=None, statistics=Statistics("bootstrap", "paired"))
    results = [
        trial(cell(name, 8), seed, (value,))
        for name, own in (("SGD", (0.9, 0.91, 0.95)), ("[Adam]", (0.91, 0.9, 0.91)))
        for seed, value in enumerate(own)
    ]
    text = printed(plain, results)
    assert "accuracy (95 %, bootstrap)" in text
    low, high = 100 * summarize((0.9, 0.91, 0.95), "bootstrap").low, 95.0
    assert f"92.00 % ({low:.2f} to {high:.2f})" in text
    assert text.splitlines()[-1] == (
        "  not distinguishable from it (paired t-test, Holm's correction, 0.05): [Adam], width 8"
    )
