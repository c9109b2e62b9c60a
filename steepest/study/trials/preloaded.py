"""What trials need and import takes seconds for; the server of `steepest.study.trials.fresh` does it once for all."""

import gc
from importlib import import_module

# Beside Steepest: what data sets and loggers import when they are used.
for _name in (
    "steepest.command_line.command_line",
    "steepest.study.trials.runner",
    "sklearn.datasets",
    "sklearn.model_selection",
    "tensorboard.plugins.hparams.summary",
    "torchvision.datasets",
):
    import_module(_name)
# A collection in a process forked from here would write to, and so copy, every page of it.
gc.freeze()
