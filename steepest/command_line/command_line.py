"""The commands that build a model, data and a trainer: LightningCLI in our shape."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from lightning import LightningModule, seed_everything
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn

from steepest.command_line.commands import COMMANDS
from steepest.command_line.completion import DEFAULT_CALLBACKS, INJECTED, complete, facts_of
from steepest.command_line.options import add_options, check_precision, check_trainer_options
from steepest.command_line.trainer import Trainer
from steepest.commands.lr_range import print_findings
from steepest.common.atomic import replacing
from steepest.compat import isolated_choices
from steepest.errors import BAD_INPUT, fail, is_termination, report
from steepest.former_names import use_present_paths
from steepest.lightning_modules import networks  # noqa: F401 - makes short class names known
from steepest.lightning_modules.base import BaseModule
from steepest.lightning_modules.optimization import build_optimizer
from steepest.parsing.parser import MissingOptionsError, Parser
from steepest.parsing.words import chosen_class_path, config_files, given_value, read_config
from steepest.run.checkpoints import check_checkpoint, config_of
from steepest.run.defaults import WITHOUT_A_RUN, completed_callbacks, quiet, run_loggers
from steepest.run.folder import check_name, create_run_folder, newest_checkpoint, remove_if_empty, remove_run_folder
from steepest.run.ranks import (
    ENDS_WITH_PARENT,
    RankLauncher,
    end_with_parent,
    is_started_by_rank_zero,
    leave_error_to_rank_zero,
    watch_ranks,
)
from steepest.run.record import RunRecord
from steepest.run.summary import print_evaluation, print_places, print_summary
from steepest.shipped import with_shipped_configs


def run(words: Sequence[str]) -> None:
    """Parse and run one of the commands that need a trainer."""
    quiet()
    if ENDS_WITH_PARENT in os.environ:
        end_with_parent(int(os.environ[ENDS_WITH_PARENT]))
    CommandLine(words)


class CommandLine(LightningCLI):
    """One run of one command.

    Args:
        words: The command's name and its options.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.command = words[0]
        self.typed = list(words)
        given = with_shipped_configs(words)
        self.words = with_config_of_run(given) if COMMANDS[self.command].looks_back else given
        self.parent: dict[str, Any] | None = None
        self.run_folder: Path | None = None
        self.ranks: RankLauncher | None = None
        super().__init__(
            save_config_callback=RunRecord,
            trainer_class=Trainer,
            trainer_defaults={"callbacks": [{"class_path": name} for name in DEFAULT_CALLBACKS]},
            seed_everything_default=0,
            parser_class=Parser,
            # A shortened option would slip past everything that looks for its name.
            parser_kwargs={"prog": "steepest", "description": __doc__, "allow_abbrev": False},
            auto_configure_optimizers=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the command that was asked for: building every parser takes time."""
        return {self.command: set(COMMANDS[self.command].given)}

    def add_core_arguments_to_parser(self, parser: Any) -> None:
        """Lightning's options, with the default callbacks visible in the config, where they can be changed."""
        super().add_core_arguments_to_parser(parser)
        if self.command == "fit":
            parser.set_defaults({"trainer.callbacks": self.trainer_defaults["callbacks"]})

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Options of Steepest beside Lightning's."""
        add_options(parser)
        self.command_parser = parser

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Parse, then complete what follows from the choices."""
        for path in config_files(self.words):
            read_config(path)  # to say in our words what is wrong with it
        parser.command_parser = self.command_parser
        self.config = self._parse(parser)
        use_present_paths(self.options)
        complete(self.options, self.words)
        check_name(self.options.name)

    @property
    def options(self) -> Any:
        """The options of the command, as they are parsed."""
        return self.config[self.command]

    @property
    def built(self) -> Any:
        """The options of the command, with the objects that were built from them."""
        return self.config_init[self.command]

    def _parse(self, parser: Any) -> Any:
        with isolated_choices():
            try:
                return parser.parse_args(self.words)
            except MissingOptionsError as missing:
                # A network that has no default for what the data fixes.
                facts = facts_of(chosen_class_path(self.words, "data"))
                if not set(missing.names) <= set(facts):
                    fail(missing.message, BAD_INPUT)
                words = [f"--model.network.{name}={json.dumps(facts[name])}" for name in missing.names]
                return parser.parse_args([*self.words, *words])

    def _parse_ckpt_path(self) -> None:
        # Lightning would let the options stored in the checkpoint win over those given here, silently.
        given = self.options.get("ckpt_path")
        if given is None:
            if not COMMANDS[self.command].starts_anew:
                rank_zero_warn(f"no --ckpt_path: {self.command} uses the weights that the model is built with")
            return
        if given in ("last", "best"):
            given = str(newest_checkpoint(Path(self.options.runs_dir), self.options.name, given))
            self.options.ckpt_path = given
        self.parent = check_checkpoint(Path(given), self._chosen(), COMMANDS[self.command].compared)

    def _chosen(self) -> dict[str, Any]:
        """What was chosen, as plain values: kept in checkpoints and compared on resume."""
        options = self._plain_options()
        return {key: options.get(key) for key in ("model", "data", *INJECTED, "seed_everything")}

    def _plain_options(self) -> dict[str, Any]:
        return json.loads(self.parser.dump(self.config, skip_none=False, format="json"))[self.command]

    def instantiate_classes(self) -> None:
        """Build model and data, give a module without an optimizer the chosen one, then build the trainer."""
        super().instantiate_classes()
        self._connect_optimizer()

    def _check_data(self) -> None:
        loader = f"{COMMANDS[self.command].loader}_dataloader"
        if self.datamodule is None and not is_overridden(loader, self.model, LightningModule):
            raise ValueError("--data is required: choose with --data NAME, see `steepest list data`")

    def _connect_optimizer(self) -> None:
        notes = inject(self.model, {key: self.built.get(key) for key in INJECTED})
        for note in notes if self.command == "fit" else ():
            rank_zero_info(f"{type(self.model).__name__} {note}")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with our loggers and callbacks around a fresh run folder."""
        self._check_data()
        check_clipping(self.model, self.built.get("clipping"))
        options = {**self.built["trainer"], **kwargs}
        check_trainer_options(options)
        callbacks = completed_callbacks(options, self.options.optimizer)
        if COMMANDS[self.command].looks_back:
            options |= WITHOUT_A_RUN
            callbacks = []
        elif not options.get("fast_dev_run"):
            self.run_folder = self._create_run_folder()
            if options.get("logger") in (None, True):
                options["logger"] = run_loggers(self.options.runs_dir, self.options.name, self.run_folder)
            callbacks.append(self._record())
        try:
            trainer = Trainer(callbacks=callbacks, **options)
            self.ranks = watch_ranks(trainer, on_stuck=self._give_up)
            check_precision(options.get("precision"), trainer.accelerator)
        except BaseException:
            if self.run_folder is not None:
                remove_if_empty(self.run_folder)
            raise
        trainer.run_folder = self.run_folder
        return trainer

    def _create_run_folder(self) -> Path | None:
        # Other ranks learn it from rank zero, see Trainer.log_dir.
        if rank_zero_only.rank != 0:
            return None
        return create_run_folder(Path(self.options.runs_dir), self.options.name)

    def _record(self) -> RunRecord:
        self.record = RunRecord(
            self.command_parser,
            self.options,
            overwrite=True,
            words=self.typed,
            parent=self.parent,
            chosen=self._chosen(),
        )
        return self.record

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
            if self.ranks is not None:
                self.ranks.join()
        except BaseException as error:
            if is_started_by_rank_zero():
                leave_error_to_rank_zero(error)
            cause = error if self.ranks is None else self.ranks.cause(error)
            self._clean_up(cause)
            if cause is error:
                raise
            raise cause from error
        self._finish("finished")

    def after_fit(self) -> None:
        """Test the final weights if asked to, and print the table."""
        fit_seconds = self._seconds()
        metrics = dict(self.trainer.callback_metrics)  # a test starts them afresh
        if self.options.test_after_fit:
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        if self.trainer.is_global_zero:
            metrics |= self.trainer.callback_metrics
            print_summary(self.trainer, self.model, self.options.name, fit_seconds, metrics)

    def after_validate(self) -> None:
        """Print the metrics."""
        self._print_evaluation()

    def after_test(self) -> None:
        """Print the metrics."""
        self._print_evaluation()

    def predict(self, **kwargs: Any) -> None:
        """Predict, and write the predictions."""
        write_predictions(self.trainer, self.trainer.predict(**{**kwargs, "return_predictions": True}))  # type: ignore

    def lr_range_test(self, **kwargs: Any) -> None:
        """Test learning rates; print what was found, and the command that trains with it."""
        trainer: Any = self.trainer
        trainer.rebuild = self._rebuild
        test = trainer.lr_range_test(**kwargs)
        if trainer.is_global_zero:
            own = [name for name in kwargs if name not in COMMANDS[self.command].given]
            print_findings(test, self.typed, own, self._tested(kwargs["optimizers"]), self.model)
            print_places(trainer)

    def _tested(self, factories: list[Any] | None) -> list[tuple[Any, Any]]:
        if factories is None:
            return [(None if configures_itself(self.model) else self.built.get("optimizer"), None)]
        return list(zip(factories, self._plain_options()["optimizers"], strict=True))

    def _rebuild(self, seed: int | None, optimizer: Any) -> LightningModule:
        """The model as a run with this seed and optimizer would build it."""
        seed = self.options.seed_everything if seed is None else seed
        seed_everything(0 if seed is False or seed is None else int(seed), workers=True, verbose=False)
        self.config_init = self.parser.instantiate_classes(self.config)
        self.model = self.built["model"]
        if optimizer is not None:
            if configures_itself(self.model):
                raise ValueError(f"{type(self.model).__name__} configures its own optimizer: leave out --optimizers")
            self.built["optimizer"] = optimizer
        self._connect_optimizer()
        return self.model

    def _print_evaluation(self) -> None:
        if self.trainer.is_global_zero:
            print_evaluation(self.trainer, self.command)

    def _seconds(self) -> float:
        return self.record.seconds if self.run_folder is not None else 0.0

    def _finish(self, status: str, error: str | None = None) -> None:
        if self.run_folder is not None and rank_zero_only.rank == 0:
            self.record.finish(self.trainer, status, error)

    def _give_up(self, error: BaseException) -> None:
        self._clean_up(error)
        report(error)

    def _clean_up(self, error: BaseException) -> None:
        if self.ranks is not None:
            self.ranks.end()
        # Lightning turns an interrupt into an exit, and calls a run of any error interrupted.
        cause = error.__context__ if isinstance(error, SystemExit) and error.__context__ else error
        interrupted = isinstance(cause, KeyboardInterrupt) or is_termination(error)
        self._finish("interrupted" if interrupted else "failed", f"{type(cause).__name__}: {cause}"[:500])
        if self.run_folder is not None:
            discard = remove_run_folder if not self.record.started else remove_if_empty
            discard(self.run_folder)


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


def write_predictions(trainer: Trainer, batches: Any) -> None:
    """Write what `predict_step` returned for every batch to `predictions.pt` in the run folder, one file per rank."""
    if trainer.log_dir is None:
        return
    rank = f"_rank{trainer.global_rank}" if trainer.world_size > 1 else ""
    target = Path(trainer.log_dir) / f"predictions{rank}.pt"
    with replacing(target) as partial:
        torch.save(batches, partial)
    if trainer.is_global_zero:
        print(f"predictions: {target}")


def with_config_of_run(words: Sequence[str]) -> list[str]:
    """The command line with the config of the checkpoint's run in front, unless one is given.

    Args:
        words: A command that takes `--ckpt_path`, and its options.

    Raises:
        FileNotFoundError: if there is no such checkpoint, or no config of its run.
        ValueError: if no checkpoint is given, or "last" or "best" without a name of the run.
    """
    words = list(words)
    if given_value(words, "config") is not None or {"-h", "--help"} & set(words):
        return words
    given = given_value(words, "ckpt_path")
    if given is None:
        raise ValueError(f"{words[0]} needs --ckpt_path, the checkpoint of a run")
    if given in ("last", "best"):
        name = given_value(words, "name")
        if name is None:
            raise ValueError(f"--ckpt_path {given} needs --config or --name to say which run is meant")
        given = str(newest_checkpoint(Path(given_value(words, "runs_dir") or "runs"), name, given))
    return [words[0], "--config", str(config_of(Path(given))), *words[1:]]
