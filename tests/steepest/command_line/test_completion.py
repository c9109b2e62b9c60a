import pytest

from steepest.command_line.completion import facts_of


def test_facts_of_data():
    assert facts_of(None) == {}
    assert (
        facts_of("Digits") == facts_of("steepest.datamodules.Digits") == {"input_shape": (1, 8, 8), "num_classes": 10}
    )
    assert facts_of("lightning.LightningDataModule") == {}


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
