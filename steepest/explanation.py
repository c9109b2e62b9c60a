"""The table that says which parameter gets what from the optimizer, for the terminal and for TensorBoard."""

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from optim.grouping import ParameterRow, explain

EXPLAINED = ("parameter", "shape", "role", "group", "algorithm", "learning rate", "decay", "reason")


def cells(row: ParameterRow) -> list[str]:
    """One row of the table as text."""
    shape = "x".join(map(str, row.shape)) or "scalar"
    rates = (f"{row.learning_rate:g}", f"{row.decay:g}")
    return [row.name, shape, row.role, row.group, row.algorithm, *rates, row.reason]


def write_explanation(trainer: Trainer) -> None:
    """Write the table of each optimizer of a fit to TensorBoard as text, under "optimizer", "optimizer_2" and so on."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    for number, optimizer in enumerate(trainer.optimizers if loggers else [], start=1):
        head = [EXPLAINED, ["---"] * len(EXPLAINED)]
        rows = [*head, *(cells(row) for row in explain(trainer.lightning_module, optimizer))]
        # A bar inside a cell would end it.
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        for logger in loggers:
            logger.experiment.add_text(
                "optimizer" if number == 1 else f"optimizer_{number}", text, global_step=trainer.global_step
            )
