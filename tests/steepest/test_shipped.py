"""Configs and studies that come with Steepest, by name."""

import json
import shlex
from pathlib import Path

import pytest

from steepest.shipped import find, first_line, shipped, with_shipped_configs
from tests.steepest.failures import BAD_INPUT, check

REPOSITORY = Path(__file__).resolve().parents[2]
QUICK = "--trainer.fast_dev_run true --trainer.enable_model_summary false"


def test_every_file_has_a_name():
    files = {path.resolve() for path in (REPOSITORY / "configs").rglob("*.yaml")}
    known = {kind: shipped(kind) for kind in ("configs", "studies")}
    assert {path.resolve() for paths in known.values() for path in paths.values()} == files
    assert {"digits_mlp", "callbacks/full", "presets/debug"} <= set(known["configs"])
    assert "optimizer_comparison" in known["studies"]


@pytest.mark.parametrize("path", [*shipped().values(), *shipped("studies").values()], ids=lambda path: path.stem)
def test_the_first_line_says_what_it_is(path):
    assert path.read_text().startswith("# ")
    assert first_line(path)[0].isupper()
    assert first_line(path).endswith((".", "?"))


@pytest.mark.parametrize("words", ["--config NAME", "--config NAME.yaml", "--config=NAME", "-c NAME", "-c=NAME.yaml"])
def test_a_name_becomes_its_file(monkeypatch, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    given = ["fit", *words.replace("NAME", "presets/debug").split(), "--name", "digits_mlp"]
    found = with_shipped_configs(given)
    assert found[-2:] == given[-2:]
    file = found[1].partition("=")[2] or found[2]
    assert Path(file).samefile(REPOSITORY / "configs/presets/debug.yaml")
    assert with_shipped_configs(found) == found


def test_a_file_goes_before_a_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits_mlp").mkdir()
    assert find("digits_mlp") == shipped()["digits_mlp"]  # a folder is no config
    (tmp_path / "digits_mlp").rmdir()
    (tmp_path / "digits_mlp").write_text("name: mine\n")
    assert find("digits_mlp") == Path("digits_mlp")
    assert find("digits_mlp.yaml") == shipped()["digits_mlp"]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("fit --config digit_mlp", "'digits_mlp'"),
        ("fit --config digits_mlp --config debug", "'presets/debug'"),
        ("lr_range_test --config=configs/digits_mlp.yml", "'digits_mlp'"),
        ("landscape --ckpt_path x.ckpt --config callbacks/fulll", "'callbacks/full'"),
        ("sample --ckpt_path x.ckpt --config tiny_txt_gpt", "'tiny_text_gpt'"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_nearest(steepest, words, meant):
    outcome = steepest(*words.split())
    check(outcome, BAD_INPUT, ["--config: there is no file ", f"Did you mean {meant}?", "`steepest list configs`"])


def test_an_unknown_study_is_one_line_with_the_nearest(steepest):
    outcome = steepest("study", "run", "optimizer_comparisons")
    check(outcome, BAD_INPUT, ["Did you mean 'optimizer_comparison'?", "`steepest list studies`"])


def test_the_recorded_command_runs_again(steepest, tmp_path):
    words = "fit --config digits_mlp --config presets/debug --trainer.max_epochs 1 --trainer.callbacks null"
    for version in range(2):
        assert steepest(*words.split()).code == 0
        command = json.loads((tmp_path / f"runs/digits_mlp/version_{version}/run.json").read_text())["command"]
        assert command == f"steepest {words}"
        words = shlex.join(shlex.split(command)[1:])


def test_the_proposed_command_has_the_name(steepest):
    outcome = steepest("lr_range_test", "--config", "digits_mlp", "--name", "test")
    assert outcome.code == 0, outcome.err
    assert "steepest fit --config digits_mlp --name test --optimizer.lr" in outcome.out


def test_a_study_names_its_base(steepest, tmp_path):
    study = "question: Which?\nbase: NAME\naxes: {optimizer: {SGD: {optimizer: sgd}}}\nmetric: val/accuracy\n"
    (tmp_path / "mine.yaml").write_text(study.replace("NAME", "digits_mlp"))
    outcome = steepest("study", "run", "mine.yaml", "--dry_run")
    assert outcome.code == 0, outcome.err
    assert "digits_mlp.yaml" in outcome.out
    (tmp_path / "mine.yaml").write_text(study.replace("NAME", "../digit_mlp.yaml"))
    check(steepest("study", "run", "mine.yaml"), BAD_INPUT, ["mine.yaml: base: there is no file", "'digits_mlp'"])
    # A base is beside the study, never beside the person who runs it.
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/mine.yaml").write_text(study.replace("NAME", "beside.yaml"))
    (tmp_path / "beside.yaml").write_text("name: wrong\n")
    check(steepest("study", "run", "folder/mine.yaml"), BAD_INPUT, ["base: there is no file folder/beside.yaml"])


def test_all_examples_of_the_help_run(steepest):
    examples = [line.strip() for line in steepest("--help").out.splitlines() if line.startswith("  steepest ")]
    assert len(examples) >= 4
    assert any("--config digits_mlp" in example for example in examples)
    for example in examples:
        words = shlex.split(example)[1:]
        quick = shlex.split(QUICK) if words[0] == "fit" and "--optimizer.help" not in words else []
        outcome = steepest(*words, *quick)
        assert outcome.code == 0, (example, outcome.err)
