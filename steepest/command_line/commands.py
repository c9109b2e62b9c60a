"""The commands that need a model, data and a trainer."""

from dataclasses import dataclass

from lightning.pytorch.cli import LightningCLI

from steepest.command_line.completion import INJECTED


@dataclass(frozen=True)
class Command:
    """What sets one command apart.

    Attributes:
        loader: Whose batches it takes: train, val, test or predict.
        given: Arguments of the Trainer's method that are not options.
        starts_anew: Whether it is usual to have no checkpoint.
        looks_back: Whether it writes into the folder of the checkpoint's run, and takes its config if none is given.
        compared: Options that must be those of the run that wrote its checkpoint.
    """

    loader: str
    given: frozenset[str]
    starts_anew: bool = False
    looks_back: bool = False
    compared: tuple[str, ...] = ("model",)


_OF_LIGHTNING = {name: frozenset(given) for name, given in LightningCLI.subcommands().items()}

COMMANDS = {
    # A resumed run must go on with all of these; an evaluation only needs the same model.
    "fit": Command(
        "train", _OF_LIGHTNING["fit"], starts_anew=True, compared=("model", "data", *INJECTED, "seed_everything")
    ),
    "validate": Command("val", _OF_LIGHTNING["validate"]),
    "test": Command("test", _OF_LIGHTNING["test"]),
    "predict": Command("predict", _OF_LIGHTNING["predict"]),
    "lr_range_test": Command("train", _OF_LIGHTNING["fit"], starts_anew=True, compared=("model", *INJECTED)),
    "landscape": Command("train", frozenset({"model", "datamodule"}), looks_back=True),
}
