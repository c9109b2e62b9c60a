"""The options of a command beside Lightning's, and checks of Lightning's own."""

from typing import Any

from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.accelerators.cpu import CPUAccelerator
from lightning.pytorch.strategies import StrategyRegistry

from steepest.compat import accept_untyped
from steepest.optim import ClippingFactory, OptimizerFactory, OptionSchedule, ScheduleFactory
from steepest.optim.registry import unknown_name

_AT_LEAST_ONE = ("log_every_n_steps", "accumulate_grad_batches", "check_val_every_n_epoch", "num_nodes")


def add_options(parser: Any) -> None:
    """Add --optimizer, --schedule, --option_schedules, --clipping, --name, --runs_dir and --test_after_fit."""
    optimizer = parser.add_argument(
        "--optimizer",
        type=OptimizerFactory,
        default={"class_path": "adamw"},
        help="Name of an optimizer; its options follow as --optimizer.OPTION. See `steepest list optimizers`.",
    )
    accept_untyped(optimizer)  # people's own optimizers rarely annotate `params`
    parser.add_argument(
        "--schedule",
        type=ScheduleFactory | None,
        default=None,
        help="Name of a learning-rate schedule; its options follow as --schedule.OPTION.",
    )
    parser.add_argument(
        "--option_schedules",
        type=dict[str, OptionSchedule] | None,
        default=None,
        help="Schedules of momentum, weight_decay or other options of the optimizer: "
        "'{momentum: {schedule: {class_path: constant, init_args: {warmup: 300}}, at_zero: 0.85}}'.",
    )
    parser.add_argument(
        "--clipping",
        type=ClippingFactory | None,
        default=None,
        help="Name of a gradient clipping; its options follow as --clipping.OPTION. See `steepest list clippings`.",
    )
    parser.add_argument(
        "--name", type=str | None, default=None, help="Name of the run; by default that of the first config file."
    )
    parser.add_argument("--runs_dir", type=str, default="runs", help="Folder that holds all runs.")
    parser.add_argument(
        "--test_after_fit",
        type=bool,
        default=False,
        help="With fit: also evaluate the final weights on the test split. Other commands take it so that they "
        "accept the config of a fit.",
    )


def check_trainer_options(options: dict[str, Any]) -> None:
    """Check the Trainer's options that it does not check itself, or only in words that name no option.

    Args:
        options: Arguments for the Trainer.

    Raises:
        ValueError: naming the option, its value and what is allowed.
    """
    for name in _AT_LEAST_ONE:
        value = options.get(name)
        if value is not None and value < 1:
            raise ValueError(f"--trainer.{name} must be at least 1, got {value}")
    clip = options.get("gradient_clip_val")
    if clip is not None and not clip >= 0:
        raise ValueError(f"--trainer.gradient_clip_val must be at least 0, got {clip}")
    interval = options.get("val_check_interval")
    if isinstance(interval, (int, float)) and not interval > 0:
        raise ValueError(
            f"--trainer.val_check_interval must be above 0, got {interval}; to leave validation out give "
            "--trainer.limit_val_batches 0"
        )
    if options.get("barebones"):
        raise ValueError(
            "--trainer.barebones allows no loggers and callbacks; switch off "
            "--trainer.logger false, --trainer.enable_checkpointing false, --trainer.callbacks null"
        )
    _check_choice(
        "accelerator", options.get("accelerator"), ["gpu", *sorted(AcceleratorRegistry.available_accelerators())]
    )
    _check_choice("strategy", options.get("strategy"), StrategyRegistry.available_strategies())
    _check_devices(options.get("devices"))
    _check_accelerator(options.get("accelerator"))


def check_precision(precision: Any, accelerator: Any) -> None:
    """Refuse half precision with loss scaling on a CPU, where Lightning would quietly take bfloat16.

    Raises:
        ValueError: with what to choose.
    """
    if str(precision) in ("16", "16-mixed") and isinstance(accelerator, CPUAccelerator):
        raise ValueError(f"--trainer.precision {precision} needs a GPU; on a CPU choose bf16-mixed or 32-true")


def _check_choice(name: str, value: Any, registered: list[str]) -> None:
    if isinstance(value, str) and value not in ("auto", *registered):
        # Strategies have many variants (ddp_find_unused_parameters_true): the plain ones say which there are.
        plain = [choice for choice in registered if choice.count("_") <= 1]
        raise ValueError(unknown_name(f"--trainer.{name}", value, ["auto", *plain]))


def _check_accelerator(name: Any) -> None:
    if name in ("gpu", "cuda", "mps", "tpu"):
        kinds = ("cuda", "mps") if name == "gpu" else (name,)
        if not any(AcceleratorRegistry[kind]["accelerator"].is_available() for kind in kinds):
            raise ValueError(f"--trainer.accelerator {name}: there is none on this machine; choose auto or cpu")


def _check_devices(devices: Any) -> None:
    if devices is None or isinstance(devices, (list, tuple)) or devices == "auto":
        return
    # "2" is a number, "0,1" and "1," are lists of indices; -1 stands for all there are.
    text = str(devices)
    indices = [part.strip() for part in text.split(",") if part.strip()]
    if not indices or not all(part.isdigit() for part in indices if text != "-1") or text == "0":
        raise ValueError(
            f"--trainer.devices must be a number of devices, at least 1, or a list of their indices, got {devices}"
        )
