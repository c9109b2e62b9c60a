from pathlib import Path

import pytest

from steepest.completion import facts_of
from steepest.parsing import check_config_file, chosen_class_path, config_files, is_given

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
    assert facts_of(None) == {}


def test_facts_of_data():
    assert facts_of("Digits") == facts_of("datamodules.Digits") == {"input_shape": (1, 8, 8), "num_classes": 10}
    assert facts_of("lightning.LightningDataModule") == {}


def test_config_file_with_tabs(tmp_path):
    path = tmp_path / "tabs.yaml"
    path.write_text("trainer:\n\tmax_epochs: 3\n")
    with pytest.raises(ValueError, match=r"tabs\.yaml, line 2 is not YAML"):
        check_config_file(path)


CONTRADICTIONS = {
    "by option": ["--model.network.num_classes", "3"],
    "with init_args": ["--model.init_args.network.num_classes=3"],
    "in a mapping": ["--model.network", "{class_path: SimpleMLP, init_args: {num_classes: 3}}"],
}


@pytest.mark.parametrize("words", CONTRADICTIONS.values(), ids=list(CONTRADICTIONS))
def test_no_form_of_a_contradiction_is_passed_over(steepest, tiny, words):
    outcome = steepest("fit", "--config", tiny, *words)
    assert outcome.code == 2
    assert "num_classes 3 does not fit the data" in outcome.err


def test_facts_reach_a_network_when_the_data_is_a_mapping(steepest, tiny, tmp_path):
    (tmp_path / "strict_network.py").write_text(
        "from torch import nn\n\nclass Strict(nn.Sequential):\n    def __init__(self, num_classes: int) -> None:\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    words = ["--model.network", "strict_network.Strict", "--data", "{class_path: Digits, init_args: {batch_size: 32}}"]
    outcome = steepest("fit", "--config", tiny, *words, "--trainer.fast_dev_run", "true")
    assert outcome.code == 0, outcome.err
