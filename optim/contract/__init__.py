"""What may be expected of every optimizer, as checks that any optimizer can be put to.

    from steepest.optim.contract import CHECKS, Case, with_found_rate

    case = Case("mine", make=lambda module, lr: MyOptimizer(module.parameters(), lr=lr), lr=0.01)
    case = with_found_rate(case)  # where 0.01 is just a default
    for name, check in CHECKS.items():
        check(case)             # ContractError in one line, or nothing

Each check builds small models of its own and needs no data. Where an algorithm cannot satisfy one by its nature,
`exception(case, name)` gives the reason.
"""

from steepest.optim.contract import gradients, learning, state
from steepest.optim.contract.case import CHECKS, Case, ContractError, check
from steepest.optim.contract.exceptions import EXCEPTIONS, exception
from steepest.optim.contract.learning import with_found_rate

__all__ = [
    "CHECKS",
    "EXCEPTIONS",
    "Case",
    "ContractError",
    "check",
    "exception",
    "gradients",
    "learning",
    "state",
    "with_found_rate",
]
