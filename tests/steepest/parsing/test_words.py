from pathlib import Path

import pytest

from steepest.parsing.words import chosen_class_path, config_files, is_given, read_config

PATH = ("model", "network", "hidden")


@pytest.mark.parametrize("words", [["--config", "a.yaml"], ["--config=a.yaml"], ["-c", "a.yaml"]])
def test_config_files(words):
    assert config_files(["fit", *words, "--name", "x", "--config", "b.yaml"]) == [Path("a.yaml"), Path("b.yaml")]


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["--model.network.hidden", "3"], True),
        (["--model.network.hidden=3"], True),
        (["--model.init_args.network.init_args.hidden", "3"], True),
        (["--model.init_args.network.hidden=3"], True),
        (["--model.network", "{class_path: SimpleMLP, init_args: {hidden: 3}}"], True),
        (["--model.network.init_args", "{hidden: 3}"], True),
        (['--model={"class_path": "A", "init_args": {"network": {"init_args": {"hidden": 3}}}}'], True),
        (["--model.network", "SimpleMLP"], False),
        (["--model.network.hidden_more", "3"], False),
        (["--model", "{class_path: A, init_args: {network: SimpleMLP}}"], False),
        (["--model", "{broken: [}"], False),
        (["--data.hidden", "3"], False),
        ([], False),
    ],
)
def test_options_given_on_the_command_line(words, given):
    assert is_given(["fit", *words], PATH) == given


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("model: {init_args: {network: {init_args: {hidden: 3}}}}", True),
        ("model: {network: {hidden: 3}}", True),
        ("model: {init_args: {network: SimpleMLP}}", False),
        ("model: ImageClassifier", False),
        ("data: Digits", False),
    ],
)
def test_options_given_in_a_file(tmp_path, text, given):
    (tmp_path / "a.yaml").write_text(text)
    assert is_given(["fit", "--config", str(tmp_path / "a.yaml")], PATH) == given


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["--data", "Digits"], "Digits"),
        (["--data=mine.Data"], "mine.Data"),
        (["--data.class_path", "Digits"], "Digits"),
        (["--data", "{class_path: Digits, init_args: {batch_size: 3}}"], "Digits"),
        (["--data", "Digits", "--data", "MNIST", "--data.batch_size", "3"], "MNIST"),
        ([], "FashionMNIST"),
        (["--data.batch_size", "3"], "FashionMNIST"),
    ],
)
def test_chosen_class(tmp_path, words, chosen):
    for name, text in (("a", "data: Digits"), ("b", "data: {class_path: FashionMNIST}"), ("c", "name: x")):
        (tmp_path / f"{name}.yaml").write_text(text)
    files = [f"--config={tmp_path / name}.yaml" for name in "abc"]
    assert chosen_class_path(["fit", *files, *words], "data") == chosen


def test_nothing_chosen():
    assert chosen_class_path(["fit"], "data") is None


def test_config_file_with_tabs(tmp_path):
    path = tmp_path / "tabs.yaml"
    path.write_text("trainer:\n\tmax_epochs: 3\n")
    with pytest.raises(ValueError, match=r"tabs\.yaml, line 2 is not YAML"):
        read_config(path)
