import math

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch._dynamo.backends import registry
from torch.nn import functional

from steepest.datamodules import Digits
from steepest.datamodules.base import ImageDataModule
from steepest.lightning_modules import ImageClassifier
from steepest.lightning_modules.networks import AirbenchCNN, SimpleMLP
from steepest.optim.classical.torch_optimizers import adamw


def classifier(**options) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(SimpleMLP((1, 8, 8), 10, hidden=12, dropout=options.pop("dropout", 0.0)), **options)


def trainer(tmp_path, **options) -> Trainer:
    return Trainer(
        **{
            "max_epochs": 1,
            "accelerator": "cpu",
            "default_root_dir": tmp_path,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            **options,
        }
    )


@pytest.mark.parametrize("stage", ["val", "test"])
def test_evaluation_equals_a_plain_pass_over_all_samples(tmp_path, stage):
    module = classifier(label_smoothing=0.2, dropout=0.5)
    data = Digits(evaluation_batch_size=100)  # the last batch is smaller
    fitted = trainer(tmp_path)
    run = fitted.validate if stage == "val" else fitted.test
    run(module, data, verbose=False)
    metrics = {name: float(value) for name, value in fitted.callback_metrics.items()}
    loader = data.val_dataloader() if stage == "val" else data.test_dataloader()
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert len(images) % 100
    with torch.no_grad():
        logits = module.eval()(images)
    # Plain cross-entropy, without the smoothing of the training loss.
    assert metrics[f"{stage}/loss"] == pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-5)
    assert metrics[f"{stage}/accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_metrics_start_afresh_at_every_evaluation(tmp_path):
    module, data = classifier(), Digits()
    fitted = trainer(tmp_path)
    fitted.validate(module, data, verbose=False)
    first = dict(fitted.callback_metrics)
    fitted.validate(module, data, verbose=False)
    assert dict(fitted.callback_metrics) == first
    assert set(first) == {"val/loss", "val/accuracy"}


def test_metrics_are_no_part_of_the_model():
    module = classifier()
    assert {name.split(".")[0] for name, _ in module.named_modules() if name} == {"network"}
    assert all(name.startswith("network.") for name in module.state_dict())


def test_label_smoothing_against_its_definition():
    module = classifier(label_smoothing=0.3)
    images, labels = torch.randn(7, 1, 8, 8), torch.arange(7)
    log_probabilities = torch.log_softmax(module(images), dim=1)
    target = torch.full((7, 10), 0.3 / 10)
    target[torch.arange(7), labels] += 0.7
    expected = -(target * log_probabilities).sum(1).mean()
    assert torch.allclose(module.training_step((images, labels), 0), expected, atol=1e-6)
    assert torch.allclose(module.diagnostic_loss((images, labels)), expected, atol=1e-6)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 1.5, math.nan])
def test_label_smoothing_out_of_range(smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 1\), got"):
        classifier(label_smoothing=smoothing)


def test_training_step_records_and_the_diagnostic_loss_does_not():
    module = classifier()
    batch = torch.randn(5, 1, 8, 8), torch.arange(5)
    module.diagnostic_loss(batch)
    assert len(module.scalars) == 0
    loss = module.training_step(batch, 0)
    means = module.scalars.flush()
    assert means["loss"] == pytest.approx(loss.item())
    assert means["accuracy"] == pytest.approx(float((module(batch[0]).argmax(1) == batch[1]).float().mean()))


def test_predictions():
    module = classifier().eval()
    images = torch.randn(6, 1, 8, 8)
    expected = torch.softmax(module(images), 1)
    for batch in (images, (images, torch.zeros(6))):
        predicted = module.predict_step(batch, 0)
        assert torch.equal(predicted["label"], expected.argmax(1))
        assert torch.allclose(predicted["probability"], expected.amax(1))


def test_load_from_checkpoint(tmp_path):
    module = classifier(label_smoothing=0.1)
    fitted = trainer(tmp_path, limit_train_batches=2)
    fitted.fit(module, Digits(validation_size=0))
    fitted.save_checkpoint(tmp_path / "x.ckpt", weights_only=False)
    loaded = ImageClassifier.load_from_checkpoint(
        tmp_path / "x.ckpt", network=SimpleMLP((1, 8, 8), 10, hidden=12), weights_only=True
    )
    assert loaded.label_smoothing == 0.1
    assert loaded.hparams == {"label_smoothing": 0.1, "compile": False}
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(loaded.eval()(images), module.eval()(images))


def test_training_learns(tmp_path):
    module, data = classifier(optimizer=lambda module: adamw(module, lr=1e-2)), Digits(batch_size=32)
    fitted = trainer(tmp_path, max_epochs=3)
    fitted.fit(module, data)
    fitted.test(module, data, verbose=False)
    assert float(fitted.callback_metrics["test/accuracy"]) > 0.75


def test_compiled_network_is_the_same_network():
    compiled, plain = classifier(compile="eager"), classifier()
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    batch = torch.randn(4, 1, 8, 8), torch.arange(4)
    assert torch.allclose(compiled.training_step(batch, 0), plain.training_step(batch, 0), atol=1e-6)


class Calls:
    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


def test_the_named_backend_compiles_the_network(monkeypatch):
    # A real backend of torch.compile that counts the graphs it is given.
    backend = Calls()
    monkeypatch.setattr(registry, "_BACKENDS", dict(registry._BACKENDS))
    monkeypatch.setattr(registry, "_COMPILER_FNS", dict(registry._COMPILER_FNS))
    registry.register_backend(backend, name="counting")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    ImageClassifier(network, compile="counting")(torch.randn(2, 1, 8, 8))
    assert backend.count == 1


def test_the_summary_learns_the_size_of_images(tmp_path):
    module = classifier()
    fitted = trainer(tmp_path, limit_train_batches=1)
    fitted.fit(module, Digits(validation_size=0))
    assert module.example_input_array is not None
    assert module.example_input_array.shape == (1, 1, 8, 8)


class Noise(ImageDataModule):
    """Images large enough for a network that halves them three times."""

    input_shape, num_classes, mean, std = (3, 12, 12), 10, (0.5,) * 3, (0.3,) * 3

    def load(self, train):
        generator = torch.Generator().manual_seed(int(train))
        images = torch.randint(0, 256, (96, 3, 12, 12), dtype=torch.uint8, generator=generator)
        return images, torch.arange(96) % 10


def airbench() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(AirbenchCNN((3, 12, 12), width_mult=0.1), optimizer=lambda module: adamw(module, lr=1e-2))


def test_a_network_that_asks_for_data_sees_it_before_the_fit_and_resumes(tmp_path):
    module, data = airbench(), Noise(batch_size=32, validation_size=0, random_crop=1)
    fitted = trainer(tmp_path, max_epochs=2)
    fitted.fit(module, data)
    expected = AirbenchCNN((3, 12, 12), width_mult=0.1)
    expected.initialize_from_data(next(iter(data.train_dataloader()))[0])
    assert torch.equal(module.network.whitening.weight, expected.whitening.weight)

    half = trainer(tmp_path, max_epochs=1)
    half.fit(first := airbench(), Noise(batch_size=32, validation_size=0, random_crop=1))
    half.save_checkpoint(tmp_path / "half.ckpt")
    assert torch.equal(first.network.whitening.weight, expected.whitening.weight)
    resumed, more = airbench(), Noise(batch_size=32, validation_size=0, random_crop=1)
    trainer(tmp_path, max_epochs=2).fit(resumed, more, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for (name, weight), other in zip(module.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(weight, other), name


def test_a_network_for_fewer_classes_is_refused_before_training(tmp_path):
    module = ImageClassifier(SimpleMLP((1, 8, 8), 4))
    with pytest.raises(ValueError, match=r"\ASimpleMLP gives 4 scores, but the data has 10 classes\Z"):
        trainer(tmp_path).fit(module, Digits())
