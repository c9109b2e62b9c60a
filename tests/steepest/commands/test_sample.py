"""`steepest sample`, and text data at the command line."""

from pathlib import Path

import pytest
import torch

TEXT = "the quick brown fox jumps over the lazy dog;\n" * 40

CONFIG = """\
model:
  class_path: LanguageModel
  init_args:
    sample_length: 5
    network: {class_path: GPT2, init_args: {layers: 1, heads: 2, width: 16}}
data: {class_path: TextFile, init_args: {path: text.txt, block_size: 12, batch_size: 8}}
optimizer: {class_path: adamw, init_args: {lr: 1.0e-2}}
trainer:
  accelerator: cpu
  max_epochs: 1
  limit_train_batches: 4
  enable_model_summary: false
  enable_progress_bar: false
  callbacks+:  # figures take a second each, and are looked at elsewhere
  - {class_path: GradientFlowMonitor, init_args: {figures: false}}
  - {class_path: SpectralNormTracker, init_args: {figures: false}}
  - {class_path: UpdateDynamics, init_args: {figures: false}}
"""
CHECKPOINT = "runs/tiny/version_0/checkpoints/last.ckpt"


@pytest.fixture
def trained(steepest, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    outcome = steepest("fit", "--config", "tiny.yaml")
    assert outcome.code == 0, outcome.err
    return steepest


def test_a_trained_model_writes_without_its_data(trained, tmp_path):
    (tmp_path / "text.txt").unlink()
    words = ["sample", "--ckpt_path", CHECKPOINT, "--length", "30"]
    first, again, other = trained(*words), trained(*words), trained(*words, "--seed", "1")
    assert first.code == 0, first.err
    assert first.err == ""
    assert len(first.out) == 31
    assert set(first.out) <= set(TEXT)
    assert first.out == again.out != other.out
    prompted = trained(*words, "--prompt", "the fox", "--samples", "3", "--temperature", "0").out
    assert prompted[:7] == "the fox"
    assert len(prompted) == 3 * 38
    assert prompted == 3 * prompted[:38]  # without randomness all are the same
    # A checkpoint that was moved finds the config that it notes; a config can be given.
    Path(CHECKPOINT).rename(tmp_path / "moved.ckpt")
    assert trained("sample", "--ckpt_path", "moved.ckpt", "--length", "30").out == first.out
    Path("runs/tiny/version_0/config.yaml").rename(tmp_path / "moved.yaml")
    outcome = trained("sample", "--ckpt_path", "moved.ckpt", "--length", "30")
    assert outcome.code == 2
    assert "give --config" in outcome.err
    outcome = trained("sample", "--ckpt_path", "moved.ckpt", "--length", "30", "--config", "moved.yaml")
    assert outcome.out == first.out


WRONG = [
    ([], "--ckpt_path is required"),
    (["--ckpt_path", "none.ckpt"], "no checkpoint at none.ckpt"),
    (["--ckpt_path", "tiny.yaml"], "tiny.yaml is not a complete checkpoint"),
    (["--ckpt_path", CHECKPOINT, "--length", "0"], "--length must be at least 1, got 0"),
    (["--ckpt_path", CHECKPOINT, "--lenght", "3"], "Did you mean '--length'?"),
    (["--ckpt_path", CHECKPOINT, "--top_k", "0"], "top_k must be at least 1, got 0"),
    (["--ckpt_path", CHECKPOINT, "--prompt", "QUICK"], "character 'Q' is not among the 29 of the vocabulary"),
    (["--ckpt_path", CHECKPOINT, "--device", "abacus"], "--device 'abacus' is not available"),
    (["--ckpt_path", CHECKPOINT, "--config", "none.yaml"], "--config: there is no file none.yaml"),
    (["--ckpt_path", CHECKPOINT, "--config", "other.yaml"], "do not fit the model of the config"),
    (
        ["--ckpt_path", CHECKPOINT, "--config", "images.yaml"],
        "images.yaml is for ImageClassifier: `steepest sample` needs a LanguageModel",
    ),
    (["--ckpt_path", "no_tokens.ckpt", "--config", "tiny.yaml"], "does not say what its tokens are"),
]


def test_wrong_input_ends_in_one_line(trained):
    config = Path("tiny.yaml").read_text().replace("width: 16}", "width: 16, vocabulary_size: 29, block_size: 12}")
    Path("tiny.yaml").write_text(config)
    Path("other.yaml").write_text(config.replace("layers: 1", "layers: 2"))
    Path("images.yaml").write_text("model: {class_path: ImageClassifier, init_args: {network: SimpleMLP}}\n")
    content = torch.load(CHECKPOINT, weights_only=True)
    del content["tokenizer"]
    torch.save(content, "no_tokens.ckpt")
    for words, message in WRONG:  # after one fit
        outcome = trained("sample", *words)
        assert outcome.code == 2, words
        assert message in outcome.err
        assert outcome.err.count("\n") == 1


def test_the_network_gets_its_sizes_from_the_text(trained, tmp_path):
    config = (tmp_path / "runs/tiny/version_0/config.yaml").read_text()
    assert "vocabulary_size: 29" in config
    assert config.count("block_size: 12") == 2
    few = trained("fit", "--config", "tiny.yaml", "--model.network.vocabulary_size", "20")
    assert few.code == 2
    assert "--model.network.vocabulary_size 20 does not fit the data: TextFile has vocabulary_size 29" in few.err
    # More rows than there are characters are a choice.
    more = trained("fit", "--config", "tiny.yaml", "--model.network.vocabulary_size", "64", "--name", "more")
    assert more.code == 0, more.err
    assert "vocabulary_size: 64" in (tmp_path / "runs/more/version_0/config.yaml").read_text()
    text = trained("sample", "--ckpt_path", "runs/more/version_0/checkpoints/last.ckpt", "--length", "200").out
    assert set(text) <= set(TEXT)


def test_a_network_of_ones_own_without_defaults_gets_them_too(trained, tmp_path):
    (tmp_path / "bigrams.py").write_text(
        "from torch import nn\n\n\n"
        "class Bigrams(nn.Embedding):\n"
        "    def __init__(self, vocabulary_size: int):\n"
        "        super().__init__(vocabulary_size, vocabulary_size)\n"
    )
    words = ["fit", "--config", "tiny.yaml", "--model.network", "bigrams.Bigrams", "--name", "bigrams"]
    outcome = trained(*words)
    assert outcome.code == 0, outcome.err
    assert "vocabulary_size: 29" in (tmp_path / "runs/bigrams/version_0/config.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.path", "none.txt"], "there is no text file none.txt"),
        (["--data.path", "bad.txt"], "bad.txt is not UTF-8 text: invalid start byte 0xff at byte 5"),
        (["--data.path", "short.txt"], "block_size 12 needs 13 tokens, the validation text has only 1"),
        (["--data.encoding", "words"], "expected one of 'characters', 'gpt2'"),
        (["--data.block_size", "0"], "block_size must be at least 1, got 0"),
        (["--data.encoding", "gpt2", "--data.encoding_dir", "none"], "encoding_dir none lacks vocab.bpe"),
    ],
)
def test_bad_text_ends_in_one_line_and_leaves_nothing(steepest, tmp_path, words, message):
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "bad.txt").write_bytes(b"text \xff")
    (tmp_path / "short.txt").write_text("ten chars.")
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    outcome = steepest("fit", "--config", "tiny.yaml", *words)
    assert outcome.code == 2
    assert message in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err
    assert not list(tmp_path.glob("runs/*/*"))


def test_another_text_under_the_same_name_is_noticed_on_resume(trained, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT.replace("q", "Q"))
    outcome = trained("fit", "--config", "tiny.yaml", "--ckpt_path", "last", "--trainer.max_epochs", "2")
    assert outcome.code == 2
    assert "the data lacks 'q' and the checkpoint lacks 'Q'" in outcome.err
    (tmp_path / "text.txt").write_text(TEXT)
    assert trained("fit", "--config", "tiny.yaml", "--ckpt_path", "last", "--trainer.max_epochs", "2").code == 0
