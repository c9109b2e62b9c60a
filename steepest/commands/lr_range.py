"""The command lr_range_test: a fit that ends before its first step, for each optimizer and seed."""

import functools
import json
import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.cli import SaveConfigCallback

from steepest.callbacks.lr_range_test import LRRangeTest
from steepest.diagnostics.lr_range.curve import GroupRates, LRCurve
from steepest.diagnostics.lr_range.report import by_optimizer
from steepest.diagnostics.lr_range.suggestions import combined
from steepest.optim.registry import OPTIMIZERS

# Options of lr_range_test that the fit it proposes takes as well.
_SHARED_WITH_FIT = ("ckpt_path", "weights_only")

Rebuild = Callable[[int | None, Any], LightningModule]


class TestOnly(LRRangeTest):
    """A test after which the fit is over; writes its report when it is the last one."""

    last = False

    def finish(self, trainer: Trainer, rates: GroupRates) -> None:
        """Report if this was the last test, and let the fit end before its first step."""
        if self.last:
            self.report(trainer)
        trainer.should_stop = True


def run_tests(
    trainer: Trainer,
    model: LightningModule,
    test: TestOnly,
    factories: Sequence[Any] | None,
    rebuild: Rebuild | None,
    **fit_arguments: Any,
) -> None:
    """Fill `test` with the results of each optimizer and seed.

    Args:
        trainer: Runs the fits; its own callbacks take no part.
        model: The model to test, and the start of all tests unless it can be built anew.
        test: What to do, and where results go.
        factories: Optimizers from the registry; None for the model's own.
        rebuild: Builds the model for a seed with an optimizer (None: the run's own, the chosen one).
        fit_arguments: Data and checkpoint, as `Trainer.fit` takes them.

    Raises:
        ValueError: if the optimizers cannot be given to the model, or nothing can be trained.
    """
    if factories is not None and (rebuild is None or not factories):
        raise ValueError("optimizers must name at least one, for a model whose optimizer can be chosen")
    if factories and fit_arguments.get("ckpt_path") is not None:
        raise ValueError("--ckpt_path holds the state of one optimizer: leave out --optimizers")
    seeds = test.seeds
    chosen = getattr(model, "optimizer_factory", None)
    labels = _labels(factories or [chosen]) if factories or chosen is not None else [None]
    runs = [(label, factory, seed) for label, factory in zip(labels, factories or [None], strict=True)
            for seed in seeds or [None]]  # fmt: skip
    try:
        for label, factory, seed in runs:
            test.last = (label, factory, seed) == runs[-1]
            test.label, test.seeds = label, None if seed is None else [seed]
            if rebuild is not None and (seed is not None or factory is not None):
                model = rebuild(seed, factory)
            found = len(test.curves) + len(test.trials)
            with _alone(trainer, test):
                trainer.fit(model, **fit_arguments)
            if len(test.curves) + len(test.trials) == found:
                raise ValueError(
                    "there is no training step to test: the run's length (--trainer.max_epochs, --trainer.max_steps, "
                    "--trainer.limit_train_batches) is 0, or its checkpoint is of its end or has tested already"
                )
    finally:
        test.seeds = seeds


@contextmanager
def _alone(trainer: Trainer, test: TestOnly) -> Iterator[None]:
    loop, callbacks = trainer.fit_loop, trainer.callbacks  # type: ignore[attr-defined]
    kept = trainer.num_sanity_val_steps, loop.min_epochs, loop.epoch_loop.min_steps  # type: ignore[attr-defined]
    own = [other for other in callbacks if isinstance(other, (SaveConfigCallback, GradientAccumulationScheduler))]
    trainer.callbacks = [test, *own]  # type: ignore[attr-defined]
    # A lower limit of the run's length would have it go on after the test.
    trainer.num_sanity_val_steps, loop.min_epochs, loop.epoch_loop.min_steps = 0, None, None  # type: ignore
    test.start_anew()
    try:
        yield
    finally:
        trainer.callbacks = callbacks  # type: ignore[attr-defined]
        trainer.num_sanity_val_steps, loop.min_epochs, loop.epoch_loop.min_steps = kept  # type: ignore[attr-defined]


def _labels(factories: Sequence[Any]) -> list[str]:
    labels: list[str] = []
    for factory in factories:
        name = optimizer_name(factory)
        taken = sum(label.split(" ")[0] == name for label in labels)
        labels.append(f"{name} ({taken + 1})" if taken else name)
    return labels


def optimizer_name(factory: Any) -> str:
    """The name by which an optimizer was chosen."""
    # What jsonargparse makes of a choice: a partial of its own functions with the class as last argument.
    chosen = factory.args[-1] if isinstance(factory, functools.partial) and factory.args else factory
    chosen = chosen.func if isinstance(chosen, functools.partial) else chosen
    return getattr(chosen, "__name__", type(chosen).__name__)


def print_findings(
    test: LRRangeTest,
    words: Sequence[str],
    own: Sequence[str],
    tested: Sequence[tuple[Any, dict[str, Any] | None]],
    model: Any,
) -> None:
    """Print what was found, and the command that trains with it.

    Args:
        test: What was found.
        words: The words of the test's own command line.
        own: Names of the options of lr_range_test.
        tested: Each optimizer tested, None for a model's own, with the plain options by which `--optimizers` chose it.
        model: The run's model.
    """
    print("\n".join(test.lines()))
    options = [name for name in own if name not in _SHARED_WITH_FIT]
    curves = list(by_optimizer(test.curves).values())
    for (factory, choice), found in zip(tested, curves, strict=False):
        suggestion = combined(found, test.rule)
        command = fit_command(words[1:], options, suggestion, found[0], factory, choice, model)
        if command is not None:
            print(f"use it       {command}")


def fit_command(
    words: Sequence[str],
    options: Sequence[str],
    suggestion: float | None,
    curve: LRCurve,
    factory: Any,
    choice: dict[str, Any] | None,
    model: Any,
) -> str | None:
    """The `steepest fit` that trains with the suggestion; None if there is none.

    Args:
        words: The words of the test's own command line behind the command.
        options: Names of the options among them that `fit` does not have.
        suggestion: A learning rate of the first group.
        curve: Any curve of the optimizer.
        factory: The optimizer; None for a model that configures its own.
        choice: Plain options that choose it; None if the words do.
        model: Any model of the run: the command is checked by building the optimizer for it.
    """
    if suggestion is None:
        return None
    kept, own = _split(words, options)
    command = ["steepest", "fit", *kept, *(_choice(choice) if choice is not None else ())]
    rate = _option_value(factory, model, suggestion * curve.factors[0] / curve.learning_rates[0])
    if rate is not None:
        return shlex.join([*command, "--optimizer.lr", rate])
    # No option of the optimizer alone moves all its learning rates alike: the test itself can.
    again = [word.replace("--", "--trainer.callbacks.", 1) if word.startswith("--") else word for word in own]
    return shlex.join([*command, "--trainer.callbacks+=LRRangeTest", "--trainer.callbacks.apply", "true", *again])


def _option_value(factory: Any, model: Any, factor: float) -> str | None:
    """The value of the option `lr` with which all groups have their learning rates times `factor`."""
    if not isinstance(factory, functools.partial):
        return None
    now = GroupRates([factory(model)])
    own = factory.keywords.get("lr")
    value = f"{(now.reference if own is None else own) * factor:.4g}"
    try:
        then = GroupRates([factory(model, lr=float(value))])
    except (TypeError, ValueError):
        return None
    same = all(math.isclose(new, old * factor, rel_tol=1e-3) for new, old in zip(then.own, now.own, strict=True))
    return value if same else None


def _choice(choice: dict[str, Any]) -> list[str]:
    """The words that choose an optimizer, without its learning rate."""
    name = choice["class_path"].removeprefix("steepest.optim.registry.")
    defaults = {key: _plain(option.default) for key, option in OPTIMIZERS.options(name.rsplit(".", 1)[-1]).items()}
    words = ["--optimizer", name]
    for key, value in choice.get("init_args", {}).items():
        if key != "lr" and value != defaults.get(key):
            words += [f"--optimizer.{key}", value if isinstance(value, str) else json.dumps(value)]
    return words


def _plain(value: Any) -> Any:
    # An empty tuple is the default where the command line makes an empty list.
    return list(value) if isinstance(value, tuple) else value


def _split(words: Sequence[str], options: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without these options, and the options with their values, but for the optimizers compared."""
    kept: list[str] = []
    taken: list[str] = []
    target = kept
    for word in words:
        if word.startswith("--"):
            name = word.removeprefix("--").partition("=")[0].rstrip("+").split(".")[0]
            target = kept if name not in options else [] if name == "optimizers" else taken
        target.append(word)
    return kept, taken
