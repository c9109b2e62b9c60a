"""The options of a command beside Lightning's."""

from typing import Any

from optim import ClippingFactory, OptimizerFactory, OptionSchedule, ScheduleFactory


def add_options(parser: Any) -> None:
    """Add --optimizer, --schedule, --option_schedules, --clipping, --name, --runs_dir and --test_after_fit."""
    optimizer = parser.add_argument(
        "--optimizer",
        type=OptimizerFactory,
        default={"class_path": "adamw"},
        help="Name of an optimizer; its options follow as --optimizer.OPTION. See `steepest list optimizers`.",
    )
    # People's own optimizers rarely annotate `params`.
    optimizer.sub_add_kwargs["fail_untyped"] = False
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
