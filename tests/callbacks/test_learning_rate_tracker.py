import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from steepest.callbacks.learning_rate import LearningRateTracker
from tests.callbacks.runs import Classifier, events, fit


class Scheduled(Classifier):
    """The rate at step t, counted from 1, is 0.1 / t."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        schedule = LambdaLR(optimizer, lambda step: 1.0 / (step + 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def test_the_rate_is_the_one_used_at_that_step(tmp_path) -> None:
    module = Scheduled(optimizer=torch.optim.SGD, lr=0.1, momentum=0.9)
    trainer = fit(tmp_path, module, LearningRateTracker(every_n_steps=2, momentum=True))
    written = events(trainer)
    assert written["lr/SGD"] == [(step, pytest.approx(0.1 / step)) for step in (1, 2, 4, 6)]
    assert written["lr/SGD_momentum"] == [(step, pytest.approx(0.9)) for step in (1, 2, 4, 6)]
    assert not [tag for tag in written if tag.startswith("diagnostics/")]


def test_steps_are_optimizer_steps_under_accumulation(tmp_path) -> None:
    module = Scheduled(optimizer=torch.optim.SGD, lr=0.1)
    trainer = fit(tmp_path, module, LearningRateTracker(every_n_steps=1), accumulate_grad_batches=2)
    assert events(trainer)["lr/SGD"] == [(step, pytest.approx(0.1 / step)) for step in (1, 2, 3)]


@pytest.mark.parametrize(
    ("names", "tags"),
    [((None, None), {"lr/0", "lr/1"}), (("body", "head"), {"lr/body", "lr/head"}), (("a", "a"), {"lr/a", "lr/a#2"})],
)
def test_groups_have_their_own_tags(tmp_path, names, tags) -> None:
    class Grouped(Classifier):
        def configure_optimizers(self):
            parameters = list(self.parameters())
            groups = [
                {"params": part, "lr": rate, **({} if name is None else {"name": name})}
                for part, rate, name in zip((parameters[:2], parameters[2:]), (0.1, 0.2), names, strict=True)
            ]
            return torch.optim.Adam(groups)

    written = events(fit(tmp_path, Grouped(), LearningRateTracker()))
    found = {tag: points for tag, points in written.items() if tag.startswith("lr/")}
    assert set(found) == tags
    assert sorted(points[0][1] for points in found.values()) == pytest.approx([0.1, 0.2])


def test_several_optimizers(tmp_path) -> None:
    class Adversarial(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self):
            parameters = list(self.parameters())
            return [
                torch.optim.SGD(parameters[:2], lr=0.1),
                torch.optim.Adam(parameters[2:], lr=torch.tensor(0.2)),
            ]

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():  # type: ignore[union-attr]
                optimizer.zero_grad()
                self.manual_backward(self.net(batch[0]).square().mean())
                optimizer.step()

    written = events(fit(tmp_path, Adversarial(), LearningRateTracker(every_n_steps=6)))
    assert {tag: points for tag, points in written.items() if tag.startswith("lr/")} == {
        "lr/SGD": [(step, pytest.approx(0.1)) for step in (2, 6, 12)],
        "lr/Adam": [(step, pytest.approx(0.2)) for step in (2, 6, 12)],
    }


def test_bad_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="counted from 1, got every_n_steps=0"):
        LearningRateTracker(every_n_steps=0)
