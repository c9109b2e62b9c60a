"""Image classification with any network."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from steepest.lightning_modules.base import BaseModule
from steepest.lightning_modules.network_check import check_fit
from steepest.optim import ClippingFactory, OptimizerFactory, OptionSchedule, ScheduleFactory


class ImageClassifier(BaseModule):
    """Cross-entropy training of any network that maps images to logits.

    Args:
        network: Any `nn.Module` from images (batch, channels, height, width) to logits (batch, classes); ours or by
            import path. On the command line `input_shape` and `num_classes` are taken from the data where the network
            has such arguments.
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1); 0 is plain cross-entropy
            (arXiv 1512.00567). Validation and test losses are always plain, so that they compare.
        compile: Compile the network with torch.compile: True for its default backend, or a backend's name.
        optimizer: Factory from the registry; None takes AdamW.
        schedule: Learning-rate schedule from the registry; None keeps the rate constant.
        clipping: Gradient clipping from the registry; None for none.
        option_schedules: Schedules of other options of the optimizer, such as momentum, by option.

    Raises:
        ValueError: if `label_smoothing` is outside [0, 1).
    """

    def __init__(
        self,
        network: nn.Module,
        label_smoothing: float = 0.0,
        compile: bool | str = False,
        optimizer: OptimizerFactory | None = None,
        schedule: ScheduleFactory | None = None,
        clipping: ClippingFactory | None = None,
        option_schedules: Mapping[str, OptionSchedule] | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, clipping, option_schedules)
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        self.save_hyperparameters(ignore=["network", "optimizer", "schedule", "clipping", "option_schedules"])
        self.network = network
        self.label_smoothing = label_smoothing
        self.metrics = {stage: _evaluation_metrics() for stage in ("val", "test")}
        if compile:
            # In place: names in the state_dict stay, and diagnostics still find the eager modules.
            network.compile(**({"backend": compile} if isinstance(compile, str) else {}))

    def setup(self, stage: str) -> None:
        """Let the network see data if it asks for it, check that both fit, and tell the model summary the shape.

        Raises:
            ValueError: if the network does not take the images of the data, or gives fewer scores than it has classes.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        initialize = getattr(self.network, "initialize_from_data", None)
        if stage == "fit" and callable(initialize) and data is not None:
            # A pass of its own: training starts at its first batch all the same. A checkpoint is loaded afterwards.
            initialize(next(iter(data.train_dataloader()))[0][:1024].cpu())
        shape = getattr(data, "input_shape", None)
        if shape is not None:
            self.example_input_array = torch.zeros(1, *shape)
            check_fit(self.network, self.example_input_array, getattr(data, "num_classes", 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, channels, height, width) to logits (batch, classes)."""
        return self.network(images)

    def diagnostic_loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The training loss on a batch, a scalar, without recording anything."""
        images, labels = batch
        return functional.cross_entropy(self(images), labels, label_smoothing=self.label_smoothing)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch; records loss and accuracy."""
        images, labels = batch
        logits = self(images)
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.record(loss=loss, accuracy=(logits.detach().argmax(1) == labels).float().mean())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Update loss and accuracy over the validation set."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Update loss and accuracy over the test set."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Predicted class and its probability for every image, each of shape (batch,)."""
        images = batch[0] if isinstance(batch, (tuple, list)) else batch
        probability, label = torch.softmax(self(images), dim=1).max(dim=1)
        return {"label": label, "probability": probability}

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        images, labels = batch
        logits = self(images)
        metrics = self.metrics[stage]
        metrics["loss"].update(functional.cross_entropy(logits, labels), weight=len(labels))
        metrics["accuracy"].update(logits, labels)


def _evaluation_metrics() -> dict[str, Metric]:
    # Micro-averaged over samples: the plain share of right answers; needs no number of classes.
    return {"loss": MeanMetric(), "accuracy": MulticlassAccuracy(average="micro")}
