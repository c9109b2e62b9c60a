import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import lightning
import pytest
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.nn import functional

from steepest.datamodules.base import ImageDataModule
from steepest.datamodules.digits import Digits


@pytest.fixture(autouse=True)
def no_global_seed(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


class Numbered(ImageDataModule):
    """Images of one pixel whose value is their number; the label is the number too."""

    input_shape = (1, 1, 1)
    num_classes = 200
    mean = (0.0,)
    std = (1.0,)
    pixel_maximum = 1

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        numbers = torch.arange(50) if train else torch.arange(100, 120)
        return numbers.to(torch.uint8).view(-1, 1, 1, 1), numbers


class Classifier(lightning.LightningModule):
    """Linear softmax regression that remembers which batches it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)
        self.seen: dict[int, bytes] = {}
        self.evaluated = 0
        self.correct = 0

    def training_step(self, batch, batch_index):
        images, labels = batch
        self.seen[self.trainer.global_step] = images.numpy().tobytes() + labels.numpy().tobytes()
        return functional.cross_entropy(self.layer(images.flatten(1)), labels)

    def validation_step(self, batch, batch_index):
        images, labels = batch
        self.evaluated += len(labels)
        self.correct += int((self.layer(images.flatten(1)).argmax(1) == labels).sum())

    test_step = validation_step

    def predict_step(self, batch, batch_index):
        return self.layer(batch.flatten(1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def trainer(**options) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(accelerator="cpu", enable_checkpointing=False, **quiet, **options)


def numbers(loader) -> list[int]:
    return torch.cat([labels for _, labels in loader]).tolist()


def ready(**options) -> Numbered:
    data = Numbered(batch_size=5, **options)
    data.setup()
    return data


# Splits and loaders


@pytest.mark.parametrize(("size", "count"), [(12, 12), (0.3, 15), (0, 0), (0.0, 0)])
def test_validation_is_split_off(size, count):
    data = ready(validation_size=size)
    training = numbers(data.train_dataloader())
    validation = numbers(data.val_dataloader()) if count else []
    assert len(validation) == count
    if not count:
        assert not is_overridden("val_dataloader", data)
    assert len(training) == (50 - count) // 5 * 5
    assert set(training).isdisjoint(validation)
    assert set(training + validation) <= set(range(50))
    assert numbers(data.test_dataloader()) == list(range(100, 120))


def test_the_split_depends_on_its_own_seed_only():
    splits = [
        numbers(ready(validation_size=20, **options).val_dataloader())
        for options in ({}, {"seed": 7}, {"split_seed": 1}, {"shuffle": False})
    ]
    assert splits[0] == splits[1] == splits[3]
    assert splits[0] != splits[2]


def test_the_order_depends_on_the_seed(monkeypatch):
    def order(**options):
        return numbers(ready(validation_size=0, **options).train_dataloader())

    assert order() == order(seed=0)
    assert order() != order(seed=1)
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert order() == order(seed=1)
    assert order(seed=0) != order(seed=1)
    assert order(shuffle=False) == list(range(50))


def test_images_are_augmented_in_training_only():
    data = Digits(batch_size=100, random_crop=2, horizontal_flip=True, validation_size=100, shuffle=False)
    data.setup()
    plain = Digits(batch_size=100, validation_size=100, shuffle=False)
    plain.setup()
    first, reference = next(iter(data.train_dataloader())), next(iter(plain.train_dataloader()))
    assert torch.equal(first[1], reference[1])
    changed = (first[0] != reference[0]).flatten(1).any(1)
    assert changed.float().mean() > 0.9
    for name in ("val_dataloader", "test_dataloader"):
        for left, right in zip(getattr(data, name)(), getattr(plain, name)(), strict=True):
            assert torch.equal(left[0], right[0])


def test_batch_sizes():
    data = ready(validation_size=10)
    assert [len(labels) for _, labels in data.test_dataloader()] == [20]  # four times the training batch of 5
    data = ready(validation_size=7, evaluation_batch_size=4, drop_last=False)
    assert [len(labels) for _, labels in data.val_dataloader()] == [4, 3]
    assert [len(labels) for _, labels in data.train_dataloader()] == [5] * 8 + [3]
    assert [tuple(images.shape) for images in data.predict_dataloader()] == [(4, 1, 1, 1)] * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"evaluation_batch_size": 0}, "evaluation_batch_size must be at least 1, got 0"),
        ({"validation_size": -1}, r"validation_size must be a count or a fraction in \[0, 1\), got -1"),
        ({"validation_size": 1.0}, r"got 1\.0"),
        ({"validation_size": float("nan")}, "got nan"),
        ({"split_seed": -1}, "split_seed must be at least 0, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"random_crop": -1}, "random_crop must be at least 0, got -1"),
        ({"cutout": -1}, "cutout must be at least 0, got -1"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Numbered(**options)


def test_sizes_that_do_not_fit_the_data_are_refused():
    for size in (50, 0.001, 0.999):
        with pytest.raises(ValueError, match=f"validation_size must take between 1 and 49 training images, got {size}"):
            ready(validation_size=size)
    data = Numbered(batch_size=64, validation_size=5)
    data.setup("fit")
    with pytest.raises(ValueError, match=r"batch of 64 .* data set of 45"):
        data.train_dataloader()


def test_loaded_images_must_have_the_declared_form():
    class Wrong(Numbered):
        input_shape = (1, 2, 2)

    with pytest.raises(ValueError, match=r"Wrong images must have shape \(1, 2, 2\), got \(1, 1, 1\)"):
        Wrong().setup()

    class TooFew(Numbered):
        num_classes = 20

    with pytest.raises(ValueError, match=r"TooFew labels must be in \[0, 20\), got 0 to 49"):
        TooFew().setup()


def test_loaders_before_setup_say_what_is_missing():
    with pytest.raises(RuntimeError, match=r"call setup\('fit'\) first"):
        Numbered().train_dataloader()


def test_setup_loads_a_stage_once():
    data = Numbered(batch_size=5, validation_size=10)
    data.setup("test")
    with pytest.raises(RuntimeError):
        data.val_dataloader()
    data.setup("fit")
    store = data.train_dataloader().source
    data.setup("validate")
    assert data.train_dataloader().source is store


# With a trainer


def test_fit_validate_test_and_predict():
    model, data = Classifier(), Digits(batch_size=64)
    trainer(max_epochs=3, num_sanity_val_steps=0).fit(model, datamodule=data)
    assert model.evaluated == 3 * round(0.15 * 1437)
    model.evaluated = model.correct = 0
    trainer().test(model, datamodule=data, verbose=False)
    assert model.evaluated == 360
    assert model.correct > 0.9 * 360
    predictions = trainer().predict(model, datamodule=data)
    assert predictions is not None
    assert torch.cat(predictions).shape == (360, 10)  # pyright: ignore[reportArgumentType]


def test_fit_without_validation():
    model = Classifier()
    trainer(max_epochs=1).fit(model, datamodule=Digits(validation_size=0))
    assert model.evaluated == 0
    assert len(model.seen) == 1437 // 128


def test_each_epoch_has_a_new_order_and_overfit_repeats_one():
    model = Classifier()
    trainer(max_epochs=2, limit_train_batches=1).fit(model, datamodule=Digits())
    assert model.seen[0] != model.seen[1]
    model = Classifier()
    trainer(max_epochs=2, overfit_batches=1).fit(model, datamodule=Digits())
    assert model.seen[0] == model.seen[1]


def test_a_pass_of_a_callback_is_whole_and_does_not_disturb_training():
    class Probe(lightning.Callback):
        lengths: list[int] = []

        def on_train_batch_end(self, trainer, *_):
            self.lengths.append(len(list(trainer.train_dataloader)))

        def on_train_epoch_end(self, trainer, *_):
            self.lengths.append(len(list(trainer.train_dataloader)))

    plain, probed = Classifier(), Classifier()
    trainer(max_epochs=2).fit(plain, datamodule=Digits(batch_size=512))
    trainer(max_epochs=2, callbacks=Probe()).fit(probed, datamodule=Digits(batch_size=512))
    assert Probe.lengths == [2] * 6
    assert probed.seen == plain.seen


def test_a_loader_made_during_or_after_training_is_whole():
    class Probe(lightning.Callback):
        lengths: list[int] = []

        def on_train_batch_end(self, trainer, *_):
            self.lengths.append(len(list(trainer.datamodule.train_dataloader())))

    data = Digits(batch_size=512)
    fitted = trainer(max_epochs=1, callbacks=Probe())
    fitted.fit(Classifier(), datamodule=data)
    assert Probe.lengths == [2, 2]
    loader = data.train_dataloader()
    first, second = numbers(loader), numbers(loader)
    assert len(first) == len(second) == 1024
    assert first != second


def test_reloading_each_epoch_and_fitting_twice_change_nothing():
    plain, reloaded, twice = Classifier(), Classifier(), Classifier()
    trainer(max_epochs=2).fit(plain, datamodule=Digits(batch_size=512))
    trainer(max_epochs=2, reload_dataloaders_every_n_epochs=1).fit(reloaded, datamodule=Digits(batch_size=512))
    data, again = Digits(batch_size=512), trainer(max_epochs=1)
    again.fit(twice, datamodule=data)
    again.fit_loop.max_epochs = 2
    again.fit(twice, datamodule=data)
    assert plain.seen == reloaded.seen == twice.seen


class SaveEverywhere(lightning.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, trainer, hook: str) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}-{hook}.ckpt", weights_only=False)

    def on_train_batch_end(self, trainer, *_):
        self.save(trainer, "batch_end")

    def on_train_epoch_end(self, trainer, *_):
        self.save(trainer, "epoch_end")

    def on_validation_end(self, trainer, *_):
        if not trainer.sanity_checking:
            self.save(trainer, "validation_end")


@pytest.mark.parametrize("limits", [{"max_epochs": 2}, {"max_steps": 5}, {"max_epochs": 2, "val_check_interval": 2}])
def test_a_resumed_run_goes_on_bit_for_bit_from_every_checkpoint(tmp_path, limits):
    def run(checkpoint=None, **options):
        model, data = Classifier(), Digits(batch_size=384, random_crop=1, horizontal_flip=True, seed=3)
        trainer(**limits, **options).fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=False)
        return model

    reference = run(callbacks=SaveEverywhere(tmp_path))
    checkpoints = sorted(tmp_path.iterdir())
    assert len(checkpoints) >= 8
    for checkpoint in checkpoints:
        step = int(checkpoint.name.split("-")[0])
        resumed = run(checkpoint)
        assert resumed.seen == {key: value for key, value in reference.seen.items() if key >= step}, checkpoint
        assert torch.equal(resumed.layer.weight, reference.layer.weight), checkpoint


@pytest.mark.ddp
def test_two_processes_train_as_one_with_twice_the_batch():
    def run(batch_size, **options):
        model = Classifier()
        data = Digits(batch_size=batch_size, random_crop=1, horizontal_flip=True, seed=1)
        trainer(max_epochs=2, **options).fit(model, datamodule=data)
        return model.layer.weight.detach()

    torch.testing.assert_close(run(64, devices=2, strategy="ddp_fork"), run(128, devices=1))


@pytest.mark.slow
def test_importing_brings_in_no_other_library_than_lightning_does():
    program = """
        import sys, lightning
        before = set(sys.modules)
        import steepest.datamodules
        print({name.partition(".")[0] for name in set(sys.modules) - before})
    """
    finished = subprocess.run([sys.executable, "-c", dedent(program)], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "{'steepest'}"
