"""Which scalars TensorBoard's Custom Scalars page shows together, such as the sharpness beside its threshold."""

from collections.abc import Mapping, Sequence

from lightning.pytorch import LightningModule, Trainer
from torch.utils.tensorboard.writer import SummaryWriter

# Title of a chart -> regular expressions; a tag that matches one from its start to its end is drawn in the chart.
Charts = Mapping[str, Sequence[str]]


def write_charts(trainer: Trainer, pl_module: LightningModule) -> None:
    """Write the charts of the module and of all callbacks into the event files; on rank zero.

    A module or callback declares them by an attribute `charts`, by category: `{"sharpness": {"threshold": [...]}}`.
    They should not depend on options: TensorBoard merges those of all runs that it shows, and draws what differs twice.
    """
    categories: dict[str, dict[str, list[str]]] = {}
    for source in (pl_module, *trainer.callbacks):  # type: ignore[attr-defined]
        for category, charts in (getattr(source, "charts", None) or {}).items():
            categories.setdefault(category, {}).update(
                {title: [f"{tag}$" for tag in tags] for title, tags in charts.items()}
            )
    if not categories:
        return
    layout = {
        category: {title: ["Multiline", tags] for title, tags in charts.items()}
        for category, charts in categories.items()
    }
    for logger in trainer.loggers:
        writer = getattr(logger, "experiment", None)
        if isinstance(writer, SummaryWriter):
            writer.add_custom_scalars(layout)
