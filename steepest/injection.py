"""Gives a model the optimizer, schedules and clipping that were chosen beside it."""

from collections.abc import Mapping
from types import MethodType
from typing import Any

from lightning import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_modules.base import BaseModule
from lightning_modules.optimization import build_optimizer
from steepest.completion import INJECTED


def configures_itself(model: LightningModule) -> bool:
    """Whether the model brings a `configure_optimizers` of its own, which then wins."""
    return is_overridden("configure_optimizers", model, _base(model))


def inject(model: LightningModule, chosen: Mapping[str, Any]) -> list[str]:
    """Connect a model with what was chosen.

    Args:
        model: Changed in place.
        chosen: Factories by the names in `INJECTED`, or None.

    Returns:
        What the user should know: choices that are not used, in a line each that goes on after the model's name.
    """
    notes = []
    if configures_itself(model):
        unused = "--optimizer, --schedule and --option_schedules"
        unused = unused if chosen["option_schedules"] else "--optimizer and --schedule"
        notes.append(f"configures its own optimizer; {unused} are not used")
    elif _base(model) is LightningModule:

        def configure_optimizers(module: LightningModule) -> Any:
            return build_optimizer(module, chosen["optimizer"], chosen["schedule"], chosen["option_schedules"])

        model.configure_optimizers = MethodType(configure_optimizers, model)
    if isinstance(model, BaseModule):
        for key, attribute in INJECTED.items():
            if getattr(model, attribute) is None:
                setattr(model, attribute, chosen[key])
            elif chosen[key] is not None:
                notes.append(f"brings its own {key}; --{key} is not used")
    return notes


def check_clipping(model: LightningModule, clipping: Any) -> None:
    """Refuse a clipping for a model that would not apply it.

    Raises:
        ValueError: if the model is not made from BaseModule.
    """
    if clipping is not None and not isinstance(model, BaseModule):
        raise ValueError(
            f"--clipping needs a model made from BaseModule, which {type(model).__name__} is not: use "
            "--trainer.gradient_clip_val"
        )


def _base(model: LightningModule) -> type[LightningModule]:
    return BaseModule if isinstance(model, BaseModule) else LightningModule
