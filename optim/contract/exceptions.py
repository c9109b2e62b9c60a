"""What an algorithm cannot satisfy by its nature, with the reason."""

from fnmatch import fnmatchcase

from steepest.optim.contract.case import WITHOUT_CLOSURE, Case
from steepest.optim.contract.models import network
from steepest.optim.core.closure import needs_closure

_NEEDS_CLOSURE = "it evaluates the model several times in a step, and refuses a step without closure in one line"

# (name of the optimizer with wildcards, name of the check): reason.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("external", "refuses_bad_values"): "the class given decides which values it takes; PyTorch's take lr = inf",
    ("schedule_free_*", "lr_zero_freezes_the_weights"): "weights keep moving towards their average when a schedule has "
    "fallen to 0; a run with a schedule warns",
    ("*autosgm", "lr_zero_freezes_the_weights"): "its first step shifts weights of exactly 0 by eps, as its author "
    "defines it",
}


def exception(case: Case, check: str) -> str | None:
    """Why an optimizer need not satisfy a check, or None if it must.

    An optimizer whose `needs_closure` is True is excepted from the checks that step without one; all others stand in
    `EXCEPTIONS`.
    """
    if check in WITHOUT_CLOSURE and needs_closure(case.make(network(), case.lr)):
        return _NEEDS_CLOSURE
    for (pattern, excepted), reason in EXCEPTIONS.items():
        if excepted == check and fnmatchcase(case.name, pattern):
            return reason
    return None
