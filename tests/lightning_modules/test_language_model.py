import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn import functional

from steepest.callbacks import Checkpoints, StepSeed
from steepest.command_line.trainer import Trainer
from steepest.datamodules import TextFile
from steepest.lightning_modules import LanguageModel
from steepest.lightning_modules.generation import generate
from steepest.lightning_modules.networks import GPT2

TEXT = "the quick brown fox jumps over the lazy dog;\n" * 30


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def data(file: Path, **options) -> TextFile:
    return TextFile(file, **{"block_size": 12, "batch_size": 8, "validation_size": 100, "test_size": 50, **options})


def model(**options) -> LanguageModel:
    torch.manual_seed(0)
    network = GPT2(len(set(TEXT)), 12, layers=1, heads=2, width=16, dropout=0.2)
    return LanguageModel(network, **{"sample_length": 20, **options})


def trainer(folder: Path | None, **options) -> Trainer:
    built = Trainer(
        **{
            "max_steps": 10,
            "max_epochs": -1,
            "val_check_interval": 5,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 2,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False if folder is None else TensorBoardLogger(folder, name="", version="run"),
            "callbacks": [StepSeed(seed=1), *([] if folder is None else [Checkpoints()])],
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "enable_checkpointing": folder is not None,
            **options,
        }
    )
    built.run_folder = folder
    return built


def test_metrics_are_those_of_the_whole_split(tmp_path, file):
    module, source = model(), data(file)
    run = trainer(None)
    run.fit(module, source)
    metrics = {name: float(value) for name, value in run.callback_metrics.items()}
    # By hand, in double precision: the loss of each validation token but the first, in the windows of the evaluation.
    tokens = torch.from_numpy(source.tokenizer.encode(TEXT[-150:-50]).astype("int64"))
    network, losses = module.network.double().eval(), []
    for start in [*range(0, 99 - 12, 12), 99 - 12]:
        scores = network(tokens[None, start : start + 12])[0]
        losses.append(functional.cross_entropy(scores, tokens[start + 1 : start + 13], reduction="none"))
    losses[-1] = losses[-1][-(99 % 12) :]
    mean = float(torch.cat(losses).detach().mean())
    assert sum(map(len, losses)) == 99
    assert metrics["val/loss"] == pytest.approx(mean, rel=1e-5)
    assert metrics["val/perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
    assert metrics["val/bits_per_character"] == pytest.approx(mean / math.log(2), rel=1e-5)


def test_logs_perplexity_speed_and_a_sample(tmp_path, file):
    trainer(tmp_path).fit(model(), data(file))
    events = EventAccumulator(str(tmp_path / "run"), {"scalars": 0, "tensors": 0})
    events.Reload()

    def values(tag: str) -> dict[int, float]:
        return {event.step: event.value for event in events.Scalars(tag)}

    loss, perplexity = values("train/loss"), values("train/perplexity")
    assert list(loss) == [2, 4, 6, 8, 10]
    assert perplexity == {step: pytest.approx(math.exp(value), rel=1e-5) for step, value in loss.items()}
    assert all(0 < speed < 1e8 for speed in values("train/tokens_per_second").values())
    samples = events.Tensors("sample/text_summary")
    assert [sample.step for sample in samples] == [5, 10]
    text = samples[0].tensor_proto.string_val[0].decode()
    assert len(text.replace("\n", "")) >= 20 - text.count("\n")
    assert set(text) <= set(TEXT)


def test_samples_and_validation_do_not_change_training(tmp_path, file):
    weights = []
    for options in ({"sample_length": 0}, {"sample_length": 30}):
        module = model(**options)
        trainer(None, val_check_interval=3, callbacks=[]).fit(module, data(file))  # dropout draws as it comes
        weights.append(nn.utils.parameters_to_vector(module.parameters()))
    assert torch.equal(*weights)


def test_a_checkpoint_of_other_tokens_is_refused(tmp_path, file):
    run = trainer(tmp_path)
    run.fit(model(), data(file))
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    validator = trainer(None, callbacks=[Checkpoints()], enable_checkpointing=True)
    stored = torch.load(checkpoint, weights_only=True)["tokenizer"]
    assert stored == {"encoding": "characters", "characters": "".join(sorted(set(TEXT)))}
    file.write_text(TEXT.replace("q", "é"))
    message = "vocabulary of 29 characters is not the data's of 29: the data lacks 'q' and the checkpoint lacks 'é'"
    with pytest.raises(ValueError, match=message):
        validator.validate(model(), data(file), ckpt_path=checkpoint, weights_only=True)
    file.write_text(TEXT)
    validator.validate(model(), data(file), ckpt_path=checkpoint, weights_only=True, verbose=False)


def test_predictions_are_losses_of_single_tokens(file):
    module = model()
    batches = trainer(None).predict(module, data(file))
    assert batches is not None
    losses = torch.cat([batch["loss"] for batch in batches])
    assert losses.shape == (5, 12)
    assert int((losses > 0).sum()) == 49


def test_compiled_in_place_keeps_names_and_samples_eagerly(file):
    plain, compiled = model(), model(compile="eager")
    assert list(plain.state_dict()) == list(compiled.state_dict())
    start = torch.zeros(2, 1, dtype=torch.long)
    drawn = [module.eval().sample(start, 5, generator=torch.Generator().manual_seed(0)) for module in (plain, compiled)]
    assert torch.equal(*drawn)


def test_negative_sample_length():
    with pytest.raises(ValueError, match="sample_length must be at least 0, got -1"):
        model(sample_length=-1)


class Chances(nn.Module):
    """Scores of the next token that depend on the last one alone."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.scores[tokens]


def test_generation_draws_with_the_chances_of_the_network():
    chances = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).expand(4, 4)
    network, start = Chances(chances.log()), torch.zeros(20_000, 1, dtype=torch.long)

    def shares(**options) -> list[float]:
        generator = torch.Generator().manual_seed(0)
        drawn = generate(network, start, 1, generator=generator, **options)[:, 1]
        return (torch.bincount(drawn, minlength=4) / len(start)).tolist()

    assert shares() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.02)
    assert shares(top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.02)
    assert shares(vocabulary_size=2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.02)
    squares = [0.25, 0.09, 0.0225, 0.0025]
    assert shares(temperature=0.5) == pytest.approx([value / sum(squares) for value in squares], abs=0.02)
    assert shares(temperature=0) == [1, 0, 0, 0]


def test_generation_goes_on_beyond_the_block():
    network = GPT2(7, 4, layers=1, heads=1, width=8).eval()
    tokens = generate(network, torch.tensor([[1, 2]]), 6, block_size=4, temperature=0)
    assert tokens.shape == (1, 8)
    for place in range(2, 8):
        seen = tokens[:, max(place - 4, 0) : place]
        assert tokens[0, place] == network(seen)[0, -1].argmax()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be at least 0, got -1.0"),
        ({"temperature": math.nan}, "temperature must be at least 0, got nan"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
    ],
)
def test_wrong_sampling_options(options, message):
    with pytest.raises(ValueError, match=message):
        generate(nn.Identity(), torch.zeros(1, 1), 1, **options)
