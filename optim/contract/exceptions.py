"""What an algorithm cannot satisfy by its nature, with the reason."""

from fnmatch import fnmatchcase

_OF_ITS_CLASS = "the class that is given decides which values it takes; PyTorch's take lr = inf"
_NEEDS_CLOSURE = "it evaluates the model several times in a step, and refuses a step without closure in one line"
_AVERAGES = "weights keep moving towards their average when a schedule has fallen to 0; a run with a schedule warns"
_SHIFTS_ZEROS = "its first step shifts weights of exactly 0 by eps, as its author defines it"

# (name of the optimizer with wildcards, name of the check): reason.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("external", "refuses_bad_values"): _OF_ITS_CLASS,
    ("schedule_free_*", "lr_zero_freezes_the_weights"): _AVERAGES,
    ("*autosgm", "lr_zero_freezes_the_weights"): _SHIFTS_ZEROS,
}
for _name in ("lbfgs", "reference_lbfgs", "sam"):
    for _check in (
        "leaves_gradients_alone",
        "passes_over_missing_gradients",
        "stays_finite_on_zero_gradients",
        "accumulates_gradients",
        "works_under_a_gradient_scaler",
    ):
        EXCEPTIONS[_name, _check] = _NEEDS_CLOSURE


def exception(optimizer: str, check: str) -> str | None:
    """Why an optimizer need not satisfy a check, or None if it must."""
    for (pattern, excepted), reason in EXCEPTIONS.items():
        if excepted == check and fnmatchcase(optimizer, pattern):
            return reason
    return None
